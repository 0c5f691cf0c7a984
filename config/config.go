// Package config reads the agent's configuration: a YAML file and G2G_AGENT_
// environment variables. Every mistake in it is reported, each with its key
// path, before anything starts.
package config

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// Config is the whole configuration. Times are in seconds, powers in watts
// unless a key says otherwise; relative paths were resolved against the
// directory of the config file.
type Config struct {
	Seed         uint64             `koanf:"seed"`
	DT           datacenter.Seconds `koanf:"dt_s"`
	Datacenter   Datacenter         `koanf:"datacenter"`
	Augmentation Augmentation       `koanf:"augmentation"`
	Models       []Model            `koanf:"models"`
	Training     []Training         `koanf:"training"`
	Control      Control            `koanf:"control"`
	Replay       Replay             `koanf:"replay"`
	Live         Live               `koanf:"live"`
	API          API                `koanf:"api"`
	Log          Log                `koanf:"log"`
	Record       Record             `koanf:"record"`
}

// Datacenter is the physical facility.
type Datacenter struct {
	Name             string  `koanf:"name"`
	GPUsPerServer    int     `koanf:"gpus_per_server"`
	BaseKWPerPhase   float64 `koanf:"base_kw_per_phase"`
	PowerFactor      float64 `koanf:"power_factor"`
	TotalGPUCapacity int     `koanf:"total_gpu_capacity"`
	// AllowLabelsDifferingInCase lets models have labels such as M and m, as OpenG2G
	// does.
	AllowLabelsDifferingInCase bool `koanf:"allow_labels_differing_in_case"`
}

// Augmentation varies readings over servers.
type Augmentation struct {
	AmplitudeScaleRange []float64 `koanf:"amplitude_scale_range"`
	NoiseFraction       float64   `koanf:"noise_fraction"`
}

// Model is one served LLM.
type Model struct {
	ModelLabel         string  `koanf:"model_label"`
	ModelID            string  `koanf:"model_id"`
	GPUsPerReplica     int     `koanf:"gpus_per_replica"`
	ITLDeadlineS       float64 `koanf:"itl_deadline_s"`
	FeasibleBatchSizes []int   `koanf:"feasible_batch_sizes"`
	InitialBatchSize   *int    `koanf:"initial_batch_size"`
	// FailsafeBatchSize is set when a lease runs out; missing: the initial one.
	FailsafeBatchSize *int      `koanf:"failsafe_batch_size"`
	Replicas          *Replicas `koanf:"replicas"`

	// What tells measurements apart in OpenG2G 0.2's data layout.
	SpecHash             string `koanf:"spec_hash"`
	GPUModel             string `koanf:"gpu_model"`
	Task                 string `koanf:"task"`
	Precision            string `koanf:"precision"`
	TensorParallel       int    `koanf:"tensor_parallel"`
	ExpertParallel       int    `koanf:"expert_parallel"`
	BatchSizes           []int  `koanf:"batch_sizes"`
	FitExcludeBatchSizes []int  `koanf:"fit_exclude_batch_sizes"`

	Live *LiveModel `koanf:"live"`
}

// Replicas is a model's replica count over time.
type Replicas struct {
	Initial *int   `koanf:"initial"`
	Ramps   []Ramp `koanf:"ramps"`
}

// Ramp is a linear change to a new replica count.
type Ramp struct {
	Target *int     `koanf:"target"`
	TStart *float64 `koanf:"t_start"`
	TEnd   *float64 `koanf:"t_end"`
}

// LiveModel is where a model really runs: on one vLLM server, or on those of
// Servers, for which the other keys are defaults.
type LiveModel struct {
	VLLMBaseURL string `koanf:"vllm_base_url"`
	// APIKeyFile holds the key of a vLLM server started with --api-key.
	APIKeyFile string `koanf:"api_key_file"`
	// SimulatedNumReplicas is the number of replicas that the real ones stand for; 0:
	// the model is measured and not simulated.
	SimulatedNumReplicas *int `koanf:"simulated_num_replicas"`
	// BatchSizeActuator is how batch sizes are set: auto, set_max_num_seqs,
	// runtime_config or concurrency.
	BatchSizeActuator string         `koanf:"batch_size_actuator"`
	GPUEndpoints      []GPUEndpoint  `koanf:"gpu_endpoints"`
	RequestExtraBody  map[string]any `koanf:"request_extra_body"`
	Servers           []LiveServer   `koanf:"servers"`
}

// LiveServer is one of several vLLM servers of a model, and the GPUs it runs on.
type LiveServer struct {
	VLLMBaseURL       string         `koanf:"vllm_base_url"`
	APIKeyFile        string         `koanf:"api_key_file"`
	BatchSizeActuator string         `koanf:"batch_size_actuator"`
	GPUEndpoints      []GPUEndpoint  `koanf:"gpu_endpoints"`
	RequestExtraBody  map[string]any `koanf:"request_extra_body"`
}

// AllServers are the model's vLLM servers, with the defaults filled in; one for
// the form without servers.
func (l *LiveModel) AllServers() []LiveServer {
	own := LiveServer{l.VLLMBaseURL, l.APIKeyFile, l.BatchSizeActuator, l.GPUEndpoints, l.RequestExtraBody}
	if len(l.Servers) == 0 {
		return []LiveServer{own}
	}
	all := slices.Clone(l.Servers)
	for i := range all {
		s := &all[i]
		s.APIKeyFile = cmp.Or(s.APIKeyFile, own.APIKeyFile)
		s.BatchSizeActuator = cmp.Or(s.BatchSizeActuator, own.BatchSizeActuator)
		if s.RequestExtraBody == nil {
			s.RequestExtraBody = own.RequestExtraBody
		}
	}
	return all
}

// ServerPath is the key path of one of [LiveModel.AllServers], below the model's
// live.
func (l *LiveModel) ServerPath(i int) string {
	if len(l.Servers) == 0 {
		return ""
	}
	return fmt.Sprintf(".servers[%d]", i)
}

// GPUEndpoint is a power source and the GPUs of it that serve the model.
type GPUEndpoint struct {
	// Source is the kind of source, one of package kinds; empty is its default.
	Source string `koanf:"source"`
	Host   string `koanf:"host"`
	Port   int    `koanf:"port"`
	Socket string `koanf:"socket"`
	// File has the readings that the source file plays.
	File      string `koanf:"file"`
	TokenFile string `koanf:"token_file"`
	// GPUIndices are the GPUs' on their host; nil: the first one.
	GPUIndices []int `koanf:"gpu_indices"`
	// PowerRangeW is the least and the most that one of the GPUs can draw, in watts;
	// nil is what the source knows of them.
	PowerRangeW []float64 `koanf:"power_range_w"`
}

// Training is a training job beside the models.
type Training struct {
	NGPUs             int      `koanf:"n_gpus"`
	Trace             string   `koanf:"trace"`
	TargetPeakWPerGPU *float64 `koanf:"target_peak_w_per_gpu"`
	TStart            *float64 `koanf:"t_start"`
	TEnd              *float64 `koanf:"t_end"`
}

// Control bounds what commands may ask for.
type Control struct {
	// AllowInfeasibleBatchSizes lets commands set batch sizes outside a model's
	// feasible_batch_sizes, as OpenG2G does.
	AllowInfeasibleBatchSizes bool `koanf:"allow_infeasible_batch_sizes"`
	// DefaultLeaseS is the lease of commands that name none; 0: they hold for ever.
	DefaultLeaseS float64 `koanf:"default_lease_s"`
	// AllowShiftsPastCapacity lets replicas take more GPUs than there are as long as
	// whole servers suffice, as OpenG2G does.
	AllowShiftsPastCapacity bool `koanf:"allow_shifts_past_capacity"`
}

// Replay is the offline run.
type Replay struct {
	DataDir  string             `koanf:"data_dir"`
	Duration datacenter.Seconds `koanf:"duration_s"`
	// TemplateDuration is the length of the power templates, which the run goes
	// through again and again; nil: Duration.
	TemplateDuration *datacenter.Seconds `koanf:"template_duration_s"`
	// AtEnd is what comes after Duration: AtEndStop or AtEndContinue.
	AtEnd       string    `koanf:"at_end"`
	SteadySkipS float64   `koanf:"steady_skip_s"`
	ITL         bool      `koanf:"itl"`
	Commands    []Command `koanf:"commands"`
}

// The values of replay.at_end.
const (
	// AtEndStop ends the replay.
	AtEndStop = "stop"
	// AtEndContinue goes on until the replay is ended.
	AtEndContinue = "continue"
)

// Command is a scripted command: exactly one of its two kinds.
type Command struct {
	T             *datacenter.Seconds `koanf:"t"`
	SetBatchSize  map[string]int      `koanf:"set_batch_size"`
	ShiftReplicas *ShiftReplicas      `koanf:"shift_replicas"`
}

// ShiftReplicas adds replicas to a model or takes some away.
type ShiftReplicas struct {
	ModelLabel   string `koanf:"model_label"`
	ReplicaDelta *int   `koanf:"replica_delta"`
}

// Live shapes the live run.
type Live struct {
	RequestsDir             string  `koanf:"requests_dir"`
	PrometheusPollIntervalS float64 `koanf:"prometheus_poll_interval_s"`
	MaxOutputTokens         int     `koanf:"max_output_tokens"`
	// MinimalRequestText is what a model without a request file is asked.
	MinimalRequestText  string  `koanf:"minimal_request_text"`
	ITLWindowS          float64 `koanf:"itl_window_s"`
	StaggerS            float64 `koanf:"stagger_s"`
	WarmupTimeoutS      float64 `koanf:"warmup_timeout_s"`
	SaturationThreshold float64 `koanf:"saturation_threshold"`
	StaleAfterS         float64 `koanf:"stale_after_s"`
	// StaleErrorAfterS ends the run when a model's power has been stale for that
	// long; 0 never does.
	StaleErrorAfterS float64 `koanf:"stale_error_after_s"`
	// RestoreBatchSizes sets the initial batch sizes again when the run ends.
	RestoreBatchSizes bool `koanf:"restore_batch_sizes"`
}

// API is the control API's listener.
type API struct {
	// Listen is HOST:PORT; empty: there is no API.
	Listen string `koanf:"listen"`
	// TokenFile holds the token that commands need, ReadTokenFile one that is
	// enough for the rest; without it, reading needs none.
	TokenFile     string `koanf:"token_file"`
	ReadTokenFile string `koanf:"read_token_file"`
	TLSCertFile   string `koanf:"tls_cert_file"`
	TLSKeyFile    string `koanf:"tls_key_file"`
	// AllowedOrigins are those of web pages, beside the agent's own, that may use
	// the API, such as https://grid.example.
	AllowedOrigins []string `koanf:"allowed_origins"`
	// AllowedHosts are names of the agent's host by which others may read where that
	// needs no token, beside its addresses and its own name.
	AllowedHosts []string `koanf:"allowed_hosts"`
	// MaxRequestsPerS is the requests a second that each client address may make;
	// 0: as many as it likes.
	MaxRequestsPerS float64 `koanf:"max_requests_per_s"`
	// MaxConnections bounds the connections open at once.
	MaxConnections int `koanf:"max_connections"`
	// MaxConnectionsPerAddress bounds those of one client address; 0 is half of
	// MaxConnections, though at least 64 of them.
	MaxConnectionsPerAddress int `koanf:"max_connections_per_address"`
	// HistoryStates is the number of states kept in memory.
	HistoryStates int `koanf:"history_states"`
}

// Record is where a live run is recorded.
type Record struct {
	// Dir is the recording's directory; empty: nothing is recorded.
	Dir string `koanf:"dir"`
	// MaxBytes is how much all segments there may take, MaxAgeS how old one may be, in
	// seconds; the oldest are deleted. 0: no limit.
	MaxBytes int64   `koanf:"max_bytes"`
	MaxAgeS  float64 `koanf:"max_age_s"`
	// SyncCommands has a command answered only when it is on the disk.
	SyncCommands bool `koanf:"sync_commands"`
}

// Log shapes the log on standard error.
type Log struct {
	Level  string `koanf:"level"`
	Format string `koanf:"format"`
}

// defaultRecordBytes is what a directory of recordings may take unless the config
// says otherwise, about two months of three models on eight GPUs.
const defaultRecordBytes = 20_000_000_000

// defaultTargetPeakWPerGPU is OpenG2G's default peak of a training run, in watts.
const defaultTargetPeakWPerGPU = 400

// Default returns the configuration that an empty file stands for.
func Default() Config {
	seconds := func(f float64) datacenter.Seconds {
		s, _ := datacenter.SecondsOf(f) // the constants below are exact
		return s
	}
	return Config{
		DT:           seconds(0.1),
		Datacenter:   Datacenter{Name: "dc", GPUsPerServer: 8, PowerFactor: 0.95},
		Augmentation: Augmentation{AmplitudeScaleRange: []float64{1, 1}},
		Replay:       Replay{Duration: seconds(600), AtEnd: AtEndStop, ITL: true},
		Live: Live{
			PrometheusPollIntervalS: 0.5, MaxOutputTokens: 512, MinimalRequestText: "Hello, how are you?", ITLWindowS: 1, StaggerS: 10,
			WarmupTimeoutS: 60, SaturationThreshold: 0.95, StaleAfterS: 2, RestoreBatchSizes: true,
		},
		API:    API{Listen: "127.0.0.1:8480", MaxRequestsPerS: 100, MaxConnections: 2048, HistoryStates: 3000},
		Log:    Log{Level: "info", Format: "auto"},
		Record: Record{MaxBytes: defaultRecordBytes},
	}
}

// Facility returns the datacenter in the vocabulary of package datacenter.
func (c *Config) Facility() datacenter.Facility {
	d := c.Datacenter
	return datacenter.Facility{
		Name: d.Name, GPUsPerServer: d.GPUsPerServer, BaseKWPerPhase: d.BaseKWPerPhase,
		PowerFactor: d.PowerFactor, TotalGPUCapacity: d.TotalGPUCapacity,
	}
}

// LiveFacility is [Config.Facility] as a live run has it: it can host the
// simulated replicas and no more.
func (c *Config) LiveFacility() datacenter.Facility {
	f := c.Facility()
	f.TotalGPUCapacity = 0
	for i := range c.Models {
		if l := c.Models[i].Live; l != nil {
			f.TotalGPUCapacity += *l.SimulatedNumReplicas * c.Models[i].GPUsPerReplica
		}
	}
	return f
}

// AugmentationConfig returns the augmentation in the vocabulary of package
// datacenter.
func (c *Config) AugmentationConfig() datacenter.Augmentation {
	r := c.Augmentation.AmplitudeScaleRange
	return datacenter.Augmentation{AmplitudeScaleRange: [2]float64{r[0], r[1]}, NoiseFraction: c.Augmentation.NoiseFraction}
}

// ModelSpecs returns the models in the vocabulary of package datacenter, in
// config order. The config must be valid.
func (c *Config) ModelSpecs() ([]datacenter.ModelSpec, error) {
	specs := make([]datacenter.ModelSpec, len(c.Models))
	for i, m := range c.Models {
		schedule, err := m.Replicas.schedule()
		if err != nil {
			return nil, err
		}
		specs[i] = datacenter.ModelSpec{
			ModelLabel: m.ModelLabel, ModelID: m.ModelID, GPUsPerReplica: m.GPUsPerReplica,
			ITLDeadlineS: m.ITLDeadlineS, FeasibleBatchSizes: m.FeasibleBatchSizes,
			InitialBatchSize: m.initialBatchSize(), Replicas: schedule,
			Measurement: datacenter.Measurement{
				SpecHash: m.SpecHash, GPUModel: m.GPUModel, Task: m.Task, Precision: m.Precision, TensorParallel: m.TensorParallel,
			},
		}
		if m.FailsafeBatchSize != nil {
			specs[i].FailsafeBatchSize = *m.FailsafeBatchSize
		}
	}
	return specs, nil
}

// LiveModelSpecs is [Config.ModelSpecs] as a live run has them: models without a
// replica schedule keep their simulated replicas, and models that are not simulated
// have no schedule.
func (c *Config) LiveModelSpecs() ([]datacenter.ModelSpec, error) {
	specs, err := c.ModelSpecs()
	if err != nil {
		return nil, err
	}
	for i := range specs {
		simulated := *c.Models[i].Live.SimulatedNumReplicas
		switch {
		case simulated == 0:
			specs[i].Replicas = nil
		case specs[i].Replicas == nil:
			if specs[i].Replicas, err = datacenter.NewReplicaSchedule(simulated); err != nil {
				return nil, err
			}
		}
	}
	return specs, nil
}

func (m *Model) initialBatchSize() int {
	if m.InitialBatchSize != nil {
		return *m.InitialBatchSize
	}
	return m.FeasibleBatchSizes[0]
}

// schedule returns the replica schedule, nil for none.
func (r *Replicas) schedule() (*datacenter.ReplicaSchedule, error) {
	if r == nil {
		return nil, nil
	}
	ramps := make([]datacenter.Ramp, len(r.Ramps))
	for i, ramp := range r.Ramps {
		ramps[i] = datacenter.Ramp{Target: *ramp.Target, TStartS: *ramp.TStart, TEndS: *ramp.TEnd}
	}
	return datacenter.NewReplicaSchedule(*r.Initial, ramps...)
}

// Run returns the training run, its trace still to be loaded from t.Trace.
func (t *Training) Run() datacenter.TrainingRun {
	run := datacenter.TrainingRun{NGPUs: t.NGPUs, TargetPeakWPerGPU: defaultTargetPeakWPerGPU, TStartS: *t.TStart, TEndS: *t.TEnd}
	if t.TargetPeakWPerGPU != nil {
		run.TargetPeakWPerGPU = *t.TargetPeakWPerGPU
	}
	return run
}

// ScriptedCommands returns the replay's commands in the order they are written.
func (c *Config) ScriptedCommands() []datacenter.ScriptedCommand {
	commands := make([]datacenter.ScriptedCommand, len(c.Replay.Commands))
	for i, cmd := range c.Replay.Commands {
		commands[i].T = *cmd.T
		if s := cmd.ShiftReplicas; s != nil {
			commands[i].Command = datacenter.ShiftReplicas{ModelLabel: s.ModelLabel, ReplicaDelta: *s.ReplicaDelta}
		} else {
			commands[i].Command = datacenter.SetBatchSize{BatchSizeByModel: cmd.SetBatchSize}
		}
	}
	return commands
}
