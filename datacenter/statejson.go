package datacenter

import (
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// MarshalJSON writes the state as AppendJSON does.
func (s *State) MarshalJSON() ([]byte, error) { return s.AppendJSON(nil), nil }

// byModel is a [ByModel] that many values are looked up in.
type byModel[T any] struct {
	labels []string
	values map[string]T
}

func (m *byModel[T]) UnmarshalJSON(raw []byte) error {
	m.labels, m.values = nil, map[string]T{}
	return eachByModel(raw, func(label string, v T) bool {
		_, there := m.values[label]
		m.labels = append(m.labels, label)
		m.values[label] = v
		return !there
	})
}

// jsonNumber is a number that was there; null, which stands for none, is NaN.
type jsonNumber struct {
	value float64
	there bool
}

func (n *jsonNumber) UnmarshalJSON(raw []byte) error {
	n.value, n.there = math.NaN(), true
	if string(raw) == "null" {
		return nil
	}
	return json.Unmarshal(raw, &n.value)
}

// jsonPhases is an object of three numbers.
type jsonPhases struct{ A, B, C jsonNumber }

func (p *jsonPhases) there() bool { return p.A.there && p.B.there && p.C.there }

func (p *jsonPhases) phases() ThreePhase { return ThreePhase{p.A.value, p.B.value, p.C.value} }

type jsonPercentile struct{ P50, P90, P95, P99 jsonNumber }

func (p *jsonPercentile) complete() bool {
	return p.P50.there && p.P90.there && p.P95.there && p.P99.there
}

// jsonServerLoad is a [ServerLoad] whose numbers may be null.
type jsonServerLoad struct {
	Running     jsonNumber `json:"num_requests_running"`
	Waiting     jsonNumber `json:"num_requests_waiting"`
	KVCache     jsonNumber `json:"kv_cache_usage_perc"`
	Preemptions jsonNumber `json:"num_preemptions_total"`
}

func (l *jsonServerLoad) complete() bool {
	return l.Running.there && l.Waiting.there && l.KVCache.there && l.Preemptions.there
}

func (l *jsonServerLoad) load() *ServerLoad {
	if l == nil {
		return nil
	}
	return &ServerLoad{l.Running.value, l.Waiting.value, l.KVCache.value, l.Preemptions.value}
}

// stateJSON is a state as AppendJSON writes it, with what may be missing.
type stateJSON struct {
	Seq            *int64                `json:"seq"`
	TimeS          *float64              `json:"time_s"`
	WallTime       *time.Time            `json:"wall_time"`
	Source         *SourceKind           `json:"source"`
	PowerW         jsonPhases            `json:"power_w"`
	ModelPowerW    *byModel[jsonNumber]  `json:"power_by_model_w"`
	BatchSize      byModel[*int]         `json:"batch_size_by_model"`
	ActiveReplicas byModel[*int]         `json:"active_replicas_by_model"`
	ObservedITLS   byModel[jsonNumber]   `json:"observed_itl_s_by_model"`
	Throughput     *byModel[jsonNumber]  `json:"throughput_tokens_per_s_by_model"`
	PhaseShare     byModel[[]jsonNumber] `json:"phase_share_by_model"`
	Achieved       *byModel[jsonNumber]  `json:"achieved_batch_size_by_model"`
	FreeGPUs       *int                  `json:"free_gpus"`

	MeasuredPowerW      jsonPhases               `json:"measured_power_w"`
	ModelMeasuredPowerW byModel[jsonNumber]      `json:"measured_power_w_by_model"`
	MeasuredThroughput  *byModel[jsonNumber]     `json:"measured_throughput_tokens_per_s_by_model"`
	AugmentationFactor  byModel[jsonNumber]      `json:"augmentation_factor_by_model"`
	Server              byModel[*jsonServerLoad] `json:"prometheus_metrics_by_model"`
	ITLPercentilesS     byModel[jsonPercentile]  `json:"itl_percentiles_s_by_model"`
	Stale               byModel[jsonNumber]      `json:"stale_by_model"`
}

// UnmarshalJSON reads what AppendJSON wrote. The models are those of
// power_by_model_w, in its order; every other per-model member must have the
// same ones.
func (s *State) UnmarshalJSON(raw []byte) error {
	var in stateJSON
	if err := json.Unmarshal(raw, &in); err != nil {
		return err
	}
	if err := in.check(); err != nil {
		return err
	}
	read := State{Seq: *in.Seq, TimeS: *in.TimeS, Source: *in.Source, PowerW: in.PowerW.phases()}
	if in.live() {
		read.MeasuredPowerW = in.MeasuredPowerW.phases()
	}
	if in.FreeGPUs != nil {
		read.FreeGPUs = FreeGPUs{*in.FreeGPUs, true}
	}
	if in.WallTime != nil {
		read.WallTime = *in.WallTime
	}
	for _, label := range in.ModelPowerW.labels {
		m, err := in.model(label)
		if err != nil {
			return err
		}
		read.Models = append(read.Models, m)
	}
	*s = read
	return nil
}

func (in *stateJSON) live() bool { return *in.Source == SourceLive }

// check says what is missing beside the models' values.
func (in *stateJSON) check() error {
	if in.Seq == nil || in.TimeS == nil || in.Source == nil || in.ModelPowerW == nil {
		return fmt.Errorf("seq, time_s, source or power_by_model_w is missing")
	}
	if !in.PowerW.there() {
		return fmt.Errorf("power_w is missing or lacks a, b or c")
	}
	if in.live() && !in.MeasuredPowerW.there() {
		return fmt.Errorf("measured_power_w is missing or lacks a, b or c")
	}
	if (in.Achieved == nil) != (in.FreeGPUs == nil) {
		return fmt.Errorf("of %s and %s one is missing: a state has both or none", achievedMember, freeMember)
	}
	type member struct {
		name   string
		labels []string
	}
	members := []member{
		{"batch_size_by_model", in.BatchSize.labels}, {"active_replicas_by_model", in.ActiveReplicas.labels},
		{"observed_itl_s_by_model", in.ObservedITLS.labels}, {"phase_share_by_model", in.PhaseShare.labels},
	}
	if in.live() {
		members = append(members, member{"measured_power_w_by_model", in.ModelMeasuredPowerW.labels},
			member{"augmentation_factor_by_model", in.AugmentationFactor.labels},
			member{"prometheus_metrics_by_model", in.Server.labels}, member{"itl_percentiles_s_by_model", in.ITLPercentilesS.labels})
	}
	if in.Achieved != nil {
		members = append(members, member{achievedMember, in.Achieved.labels})
	}
	if in.Throughput != nil {
		members = append(members, member{throughputMember, in.Throughput.labels})
	}
	if in.live() && in.MeasuredThroughput != nil {
		members = append(members, member{measuredThroughputMember, in.MeasuredThroughput.labels})
	}
	labels := in.ModelPowerW.labels
	for _, member := range members {
		if len(member.labels) != len(labels) {
			return fmt.Errorf("%s has %d models, power_by_model_w has %d", member.name, len(member.labels), len(labels))
		}
	}
	return nil
}

func (in *stateJSON) model(label string) (ModelState, error) {
	batchSize, active := in.BatchSize.values[label], in.ActiveReplicas.values[label]
	itl, share := in.ObservedITLS.values[label], in.PhaseShare.values[label]
	if batchSize == nil || active == nil || !itl.there || len(share) != NumPhases {
		return ModelState{}, fmt.Errorf("model %q lacks a batch size, active replicas, a latency or three phase shares", label)
	}
	m := ModelState{
		ModelLabel: label, PowerW: in.ModelPowerW.values[label].value, BatchSize: *batchSize, ActiveReplicas: *active,
		ObservedITLS: itl.value, PhaseShare: ThreePhase{share[0].value, share[1].value, share[2].value},
	}
	if in.Achieved != nil {
		achieved := in.Achieved.values[label]
		if !achieved.there {
			return ModelState{}, fmt.Errorf("%s lacks model %q", achievedMember, label)
		}
		m.AchievedBatchSize = achieved.value
	}
	if in.Throughput != nil {
		throughput := in.Throughput.values[label]
		if !throughput.there {
			return ModelState{}, fmt.Errorf("%s lacks model %q", throughputMember, label)
		}
		m.Throughput = ThroughputOf(throughput.value)
	}
	if !in.live() {
		return m, nil
	}
	var err error
	m.Live, err = in.liveModel(label)
	if err == nil && m.Throughput.Known {
		m.Live.MeasuredTokensPerS, err = in.measuredTokensPerS(label)
	}
	return m, err
}

// measuredTokensPerS is what the real servers of a model make, NaN for null.
func (in *stateJSON) measuredTokensPerS(label string) (float64, error) {
	if in.MeasuredThroughput == nil || !in.MeasuredThroughput.values[label].there {
		return 0, fmt.Errorf("%s lacks model %q, of which %s is known", measuredThroughputMember, label, throughputMember)
	}
	return in.MeasuredThroughput.values[label].value, nil
}

func (in *stateJSON) liveModel(label string) (LiveModelState, error) {
	measured := in.ModelMeasuredPowerW.values[label]
	factor := in.AugmentationFactor.values[label]
	p := in.ITLPercentilesS.values[label]
	server, known := in.Server.values[label]
	if !measured.there || !factor.there || !known || server != nil && !server.complete() || !p.complete() {
		return LiveModelState{}, fmt.Errorf("model %q lacks a measured power, an augmentation factor, metrics or latency percentiles", label)
	}
	stale, isStale := in.Stale.values[label]
	return LiveModelState{
		MeasuredPowerW: measured.value, AugmentationFactor: factor.value, Server: server.load(),
		ITLPercentilesS: ITLPercentiles{p.P50.value, p.P90.value, p.P95.value, p.P99.value},
		Stale:           isStale, StaleAgeS: stale.value,
	}, nil
}
