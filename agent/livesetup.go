package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/internal/reread"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/power"
	"github.com/g2g-agent/g2g-agent/power/kinds"
	"github.com/g2g-agent/g2g-agent/recording"
	"github.com/g2g-agent/g2g-agent/rig"
)

// Secrets are for the servers to which the config gives none of their own.
type Secrets struct {
	ZeusdToken string
	VLLMAPIKey string
}

// SecretsFrom takes the secrets from the environment, as os.Environ gives it:
// ZEUSD_TOKEN, which zeusd's own clients read, and VLLM_API_KEY, which vLLM does.
// They are trimmed as those in files are.
func SecretsFrom(environ []string) Secrets {
	var s Secrets
	for _, variable := range environ {
		switch name, value, _ := strings.Cut(variable, "="); name {
		case "ZEUSD_TOKEN":
			s.ZeusdToken = credential.Trim(value)
		case "VLLM_API_KEY":
			s.VLLMAPIKey = credential.Trim(value)
		}
	}
	return s
}

// Observer is told what happens in a run. Each function may be nil.
type Observer struct {
	// OnEvent is called with each event, from any goroutine.
	OnEvent func(datacenter.Event)
	// OnStep is called after each step, from the goroutine that steps.
	OnStep func(StepTiming)
	// OnCommand is called with each command to a live run and its outcome, as
	// [Live.Apply] returns it, from the goroutine that commands.
	OnCommand func(datacenter.Command, error)
	// OnStepped is called when a live run computes no more steps, before its servers
	// are restored, from the goroutine that stepped.
	OnStepped func()
	// Recorder keeps what a live run sees; Header is what the recording's header says of
	// the program and the config.
	Recorder Recorder
	Header   recording.Header
}

// LiveSetup is a live run made from a config, with what was noticed on the way.
type LiveSetup struct {
	Live   *Live
	Models []datacenter.ModelSpec
	// Warnings are remarks that do not stop a run.
	Warnings []string
}

// SetUpLive reads the files that a config, valid for a live run, names and
// prepares the run. Nothing is contacted. Its errors wrap
// [datacenter.ErrInvalidInput].
func SetUpLive(c *config.Config, secrets Secrets, log zerolog.Logger, o Observer) (*LiveSetup, error) {
	models, err := c.LiveModelSpecs()
	if err != nil {
		return nil, err
	}
	traces, err := loadTraces(c)
	if err != nil {
		return nil, err
	}
	cfg := LiveConfig{
		Config: Config{
			Seed: c.Seed, DT: c.DT, Facility: c.LiveFacility(), Augmentation: c.AugmentationConfig(), Models: models,
			Training: trainingOf(c, traces), AllowInfeasibleBatchSizes: c.Control.AllowInfeasibleBatchSizes,
			AllowShiftsPastCapacity: c.Control.AllowShiftsPastCapacity, OnEvent: o.OnEvent,
		},
		PrometheusPollInterval: duration(c.Live.PrometheusPollIntervalS),
		ITLWindow:              duration(c.Live.ITLWindowS),
		MaxOutputTokens:        c.Live.MaxOutputTokens,
		MinimalRequestText:     c.Live.MinimalRequestText,
		Stagger:                duration(c.Live.StaggerS),
		WarmupTimeout:          duration(c.Live.WarmupTimeoutS),
		SaturationThreshold:    c.Live.SaturationThreshold,
		StaleAfter:             duration(c.Live.StaleAfterS),
		StaleErrorAfter:        duration(c.Live.StaleErrorAfterS),
		RestoreBatchSizes:      c.Live.RestoreBatchSizes,
		OnStep:                 o.OnStep,
		OnCommand:              o.OnCommand,
		OnStepped:              o.OnStepped,
		Recorder:               o.Recorder,
		Header:                 o.Header,
		SyncCommands:           c.Record.SyncCommands,
		Log:                    log,
	}
	setup := &LiveSetup{Models: models}
	if cfg.Hardware, setup.Warnings, err = setUpHardware(c, models, secrets, log); err != nil {
		return nil, err
	}
	setup.Warnings = append(setup.Warnings, oddSimulations(c, cfg.Hardware)...)
	setup.Live, err = NewLive(cfg)
	return setup, err
}

// setUpHardware reads the files of the models' servers and opens their power sources.
func setUpHardware(c *config.Config, models []datacenter.ModelSpec, secrets Secrets, log zerolog.Logger) ([]HardwareConfig, []string, error) {
	var all []HardwareConfig
	var warnings []string
	for i := range c.Models {
		h, warning, err := hardwareOf(c, i, secrets, log)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: models[%d].live%w", datacenter.ErrInvalidInput, i, err)
		}
		if warning != "" {
			warnings = append(warnings, warning)
		}
		all = append(all, h)
	}
	if err := addGPUs(all, c, secrets, power.Options{StaleAfter: duration(c.Live.StaleAfterS), Log: log}); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", datacenter.ErrInvalidInput, err)
	}
	return all, append(warnings, oddGPUs(models, all)...), nil
}

// SetUpRig is what of a config, valid for a live run, the servers of its models need,
// with remarks that stop nothing, for whoever runs a rig without a pipeline. Nothing is
// contacted. Its errors wrap [datacenter.ErrInvalidInput].
func SetUpRig(c *config.Config, secrets Secrets, log zerolog.Logger) (rig.Config, []string, error) {
	models, err := c.LiveModelSpecs()
	if err != nil {
		return rig.Config{}, nil, err
	}
	hardware, warnings, err := setUpHardware(c, models, secrets, log)
	if err != nil {
		return rig.Config{}, nil, err
	}
	return rig.Config{
		Models: rigModels(models, hardware), PrometheusPollInterval: duration(c.Live.PrometheusPollIntervalS),
		ITLWindow: duration(c.Live.ITLWindowS), MaxOutputTokens: c.Live.MaxOutputTokens, MinimalRequestText: c.Live.MinimalRequestText,
		HistoryWindow: duration(c.Live.StaggerS), WarmupTimeout: duration(c.Live.WarmupTimeoutS),
		SaturationThreshold: c.Live.SaturationThreshold, StaleAfter: duration(c.Live.StaleAfterS), Seed: c.Seed, Log: log,
	}, warnings, nil
}

// addGPUs opens the power sources that the config names, each once however often
// it is named, and gives the servers their GPUs.
func addGPUs(hardware []HardwareConfig, c *config.Config, secrets Secrets, o power.Options) error {
	endpoints := map[string][]power.Endpoint{} // by kind
	servers := map[string][]*rig.ServerConfig{}
	for i := range c.Models {
		live := c.Models[i].Live
		for j, server := range live.AllServers() {
			for k := range server.GPUEndpoints {
				e := &server.GPUEndpoints[k]
				endpoint, err := endpointOf(e, secrets, o.Log)
				if err != nil {
					return fmt.Errorf("models[%d].live%s.gpu_endpoints[%d].%w", i, live.ServerPath(j), k, err)
				}
				endpoints[e.Kind()] = append(endpoints[e.Kind()], endpoint)
				servers[e.Kind()] = append(servers[e.Kind()], &hardware[i].Servers[j])
			}
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(endpoints)) {
		sources, err := kinds.Table()[kind].Open(endpoints[kind], o)
		if err != nil {
			return err
		}
		for i, e := range endpoints[kind] {
			for _, index := range e.GPUIndices {
				servers[kind][i].GPUs = append(servers[kind][i].GPUs, rig.GPU{Source: sources[i], Index: index})
			}
		}
	}
	return nil
}

// endpointOf is an endpoint with its token. Errors begin with the key at fault.
func endpointOf(e *config.GPUEndpoint, secrets Secrets, log zerolog.Logger) (power.Endpoint, error) {
	endpoint := e.Endpoint()
	endpoint.Token = credential.Fixed(secrets.ZeusdToken)
	if e.TokenFile != "" {
		var err error
		if endpoint.Token, err = renewable(e.TokenFile, log); err != nil {
			return endpoint, fmt.Errorf("token_file: %w", err)
		}
	}
	return endpoint, nil
}

// oddGPUs warns of GPUs that are probably not as they are meant to be.
func oddGPUs(models []datacenter.ModelSpec, hardware []HardwareConfig) []string {
	var warnings []string
	owner := map[rig.GPU]string{}
	for m := range models {
		label := models[m].ModelLabel
		if n, perReplica := hardware[m].numGPUs(), models[m].GPUsPerReplica; n%perReplica != 0 {
			warnings = append(warnings, fmt.Sprintf("model %q has %d GPUs, which is no multiple of its gpus_per_replica %d", label, n, perReplica))
		}
		for _, s := range hardware[m].Servers {
			for _, g := range s.GPUs {
				if other, taken := owner[g]; taken {
					warnings = append(warnings, fmt.Sprintf("GPU %d of %s %s is counted for models %q and %q",
						g.Index, g.Source.Kind(), g.Source, other, label))
				}
				owner[g] = label
			}
		}
	}
	return warnings
}

// oddSimulations warns of models whose power in the states is none.
func oddSimulations(c *config.Config, hardware []HardwareConfig) []string {
	var warnings []string
	for i := range c.Models {
		m := &c.Models[i]
		switch simulated := hardware[i].SimulatedReplicas; {
		case simulated > 0 && hardware[i].numGPUs() == 0:
			warnings = append(warnings, fmt.Sprintf("model %q has no gpu_endpoints: its %d simulated replicas draw 0 W", m.ModelLabel, simulated))
		case simulated == 0 && m.Replicas != nil:
			warnings = append(warnings, fmt.Sprintf("model %q is only measured, as its simulated_num_replicas is 0: its replicas have no effect", m.ModelLabel))
		}
	}
	return warnings
}

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

// renewEvery is the least time between two readings of a secret that is refused.
const renewEvery = time.Second

// renewable is the secret in a file, which may be replaced.
func renewable(file string, log zerolog.Logger) (*credential.Credential, error) {
	return credential.Renewable(secretIn(file), renewEvery, log.With().Str("file", file).Logger())
}

// secretIn returns a function that reads a file with a secret. After the first
// time it reads only what cannot keep the reader waiting, as a pipe can.
func secretIn(file string) func() (string, error) {
	var patience reread.Patience[string]
	again := false
	return func() (string, error) {
		if again {
			return patience.Within(reread.Limit, func() (string, error) { return config.RereadSecret(file) })
		}
		again = true
		return config.ReadSecret(file)
	}
}

// hardwareOf reads what the config says of model i's servers, with a remark if there is
// one. Errors begin with the key at fault, below models[i].live.
func hardwareOf(c *config.Config, i int, secrets Secrets, log zerolog.Logger) (h HardwareConfig, warning string, err error) {
	live := c.Models[i].Live
	h.SimulatedReplicas = *live.SimulatedNumReplicas
	for j, server := range live.AllServers() {
		cfg := rig.ServerConfig{VLLMBaseURL: server.VLLMBaseURL, Credential: credential.Fixed(secrets.VLLMAPIKey), RequestExtraBody: server.RequestExtraBody}
		if server.BatchSizeActuator != "auto" {
			cfg.Actuator = rig.Actuator(server.BatchSizeActuator)
		}
		if server.APIKeyFile != "" {
			if cfg.Credential, err = renewable(server.APIKeyFile, log); err != nil {
				return h, "", fmt.Errorf("%s.api_key_file: %w", live.ServerPath(j), err)
			}
		}
		h.Servers = append(h.Servers, cfg)
	}
	if c.Live.RequestsDir == "" {
		return h, "", nil
	}
	file := filepath.Join(c.Live.RequestsDir, c.Models[i].ModelLabel+".jsonl")
	h.Requests, err = loadgen.LoadRequests(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return h, fmt.Sprintf("there is no %s: model %q is loaded with a minimal request", file, c.Models[i].ModelLabel), nil
	case err != nil:
		return h, "", fmt.Errorf(".requests_dir: %w", err)
	case len(h.Requests) == 0:
		warning = fmt.Sprintf("%s holds no request: model %q is loaded with a minimal request", file, c.Models[i].ModelLabel)
	}
	return h, warning, nil
}
