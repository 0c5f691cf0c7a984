package datacenter

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"
)

// AppendJSON appends the state as one JSON object, its per-model members in
// config order.
func (s *State) AppendJSON(b []byte) []byte {
	b = append(b, `{"seq":`...)
	b = strconv.AppendInt(b, s.Seq, 10)
	b = append(b, `,"time_s":`...)
	b = appendJSONFloat(b, s.TimeS)
	b = append(b, `,"wall_time":`...)
	if s.WallTime.IsZero() {
		b = append(b, "null"...)
	} else {
		b = append(b, '"')
		b = s.WallTime.AppendFormat(b, time.RFC3339Nano)
		b = append(b, '"')
	}
	b = append(b, `,"source":`...)
	b = appendJSONString(b, string(s.Source))
	b = appendPhases(append(b, `,"power_w":`...), s.PowerW)
	b = s.appendByModel(b, "power_by_model_w", func(b []byte, m *ModelState) []byte {
		return appendJSONFloat(b, m.PowerW)
	})
	b = s.appendByModel(b, "batch_size_by_model", func(b []byte, m *ModelState) []byte {
		return strconv.AppendInt(b, int64(m.BatchSize), 10)
	})
	b = s.appendByModel(b, "active_replicas_by_model", func(b []byte, m *ModelState) []byte {
		return strconv.AppendInt(b, int64(m.ActiveReplicas), 10)
	})
	b = s.appendByModel(b, "observed_itl_s_by_model", func(b []byte, m *ModelState) []byte {
		return appendJSONFloat(b, m.ObservedITLS)
	})
	if s.knowsThroughput() {
		b = s.appendByModel(b, throughputMember, func(b []byte, m *ModelState) []byte {
			return appendJSONFloat(b, m.Throughput.OrNaN())
		})
	}
	b = s.appendByModel(b, "phase_share_by_model", func(b []byte, m *ModelState) []byte {
		for i, v := range m.PhaseShare.Array() {
			b = appendJSONFloat(append(b, "[,,"[i]), v)
		}
		return append(b, ']')
	})
	if s.Source == SourceLive {
		b = s.appendLive(b)
	}
	return append(b, '}')
}

// The members that are there only if the throughput of any model is known: replays
// of data without fits of it have none, nor have files of earlier versions.
const (
	throughputMember         = "throughput_tokens_per_s_by_model"
	measuredThroughputMember = "measured_throughput_tokens_per_s_by_model"
)

func (s *State) knowsThroughput() bool {
	for i := range s.Models {
		if s.Models[i].Throughput.Known {
			return true
		}
	}
	return false
}

// appendLive appends the members that only a live run has.
func (s *State) appendLive(b []byte) []byte {
	b = appendPhases(append(b, `,"measured_power_w":`...), s.MeasuredPowerW)
	b = s.appendByModel(b, "measured_power_w_by_model", func(b []byte, m *ModelState) []byte {
		return appendJSONFloat(b, m.Live.MeasuredPowerW)
	})
	if s.knowsThroughput() {
		b = s.appendByModel(b, measuredThroughputMember, func(b []byte, m *ModelState) []byte {
			if !m.Throughput.Known {
				return append(b, "null"...)
			}
			return appendJSONFloat(b, m.Live.MeasuredTokensPerS)
		})
	}
	b = s.appendByModel(b, "augmented_power_w_by_model", func(b []byte, m *ModelState) []byte {
		return appendJSONFloat(b, m.PowerW)
	})
	b = s.appendByModel(b, "augmentation_factor_by_model", func(b []byte, m *ModelState) []byte {
		return appendJSONFloat(b, m.Live.AugmentationFactor)
	})
	b = s.appendByModel(b, "prometheus_metrics_by_model", func(b []byte, m *ModelState) []byte {
		l := m.Live.Server
		if l == nil {
			return append(b, "null"...)
		}
		return appendNumbers(b, []string{"num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_preemptions_total"},
			l.NumRequestsRunning, l.NumRequestsWaiting, l.KVCacheUsagePerc, l.NumPreemptionsTotal)
	})
	b = s.appendByModel(b, "itl_percentiles_s_by_model", func(b []byte, m *ModelState) []byte {
		p := &m.Live.ITLPercentilesS
		return appendNumbers(b, []string{"p50", "p90", "p95", "p99"}, p.P50, p.P90, p.P95, p.P99)
	})
	b = append(b, `,"stale_by_model":{`...)
	first := true
	for i := range s.Models {
		if m := &s.Models[i]; m.Live.Stale {
			if !first {
				b = append(b, ',')
			}
			first = false
			b = appendJSONFloat(append(appendJSONString(b, m.ModelLabel), ':'), m.Live.StaleAgeS)
		}
	}
	return append(b, '}')
}

// appendByModel appends a member that maps model labels to values.
func (s *State) appendByModel(b []byte, name string, value func([]byte, *ModelState) []byte) []byte {
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":{`...)
	for i := range s.Models {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendJSONString(b, s.Models[i].ModelLabel)
		b = value(append(b, ':'), &s.Models[i])
	}
	return append(b, '}')
}

func appendPhases(b []byte, p ThreePhase) []byte {
	return appendNumbers(b, []string{"a", "b", "c"}, p.A, p.B, p.C)
}

// appendNumbers appends an object of numbers.
func appendNumbers(b []byte, names []string, values ...float64) []byte {
	for i, v := range values {
		b = append(append(append(b, "{,"[min(i, 1)], '"'), names[i]...), '"', ':')
		b = appendJSONFloat(b, v)
	}
	return append(b, '}')
}

// appendJSONFloat appends f, or null where JSON has no number for it.
func appendJSONFloat(b []byte, f float64) []byte {
	if !isFinite(f) {
		return append(b, "null"...)
	}
	return AppendFloat(b, f)
}

func appendJSONString(b []byte, s string) []byte {
	quoted, _ := json.Marshal(s) // a string always marshals
	return append(b, quoted...)
}

// MarshalJSON writes the state as AppendJSON does.
func (s *State) MarshalJSON() ([]byte, error) { return s.AppendJSON(nil), nil }

// byModel is a JSON object of values by model label that keeps its order.
type byModel[T any] struct {
	labels []string
	values map[string]T
}

func (m *byModel[T]) UnmarshalJSON(raw []byte) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("want an object of values by model label, got %.20s", raw)
	}
	m.labels, m.values = nil, map[string]T{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		label, _ := key.(string) // what precedes a colon is a string
		var v T
		if err := d.Decode(&v); err != nil {
			return fmt.Errorf("%s: %w", label, err)
		}
		if _, dup := m.values[label]; dup {
			return fmt.Errorf("model %q stands there twice", label)
		}
		m.labels = append(m.labels, label)
		m.values[label] = v
	}
	return nil
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
