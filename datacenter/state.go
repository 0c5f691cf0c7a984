package datacenter

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"
)

// SourceKind says where a state's readings come from.
type SourceKind string

// The kinds of source.
const (
	SourceLive   SourceKind = "live"
	SourceReplay SourceKind = "replay"
)

// State is the datacenter at one step. It is immutable once published.
type State struct {
	// Seq numbers the steps of a run from 0.
	Seq int64
	// TimeS is the time since the start of the run, in seconds.
	TimeS float64
	// WallTime is the time of day the step was due, zero (JSON null) in a replay
	// that does not follow the clock.
	WallTime time.Time
	Source   SourceKind
	// PowerW is the whole datacenter's power on each phase, in watts: servers,
	// base load and training.
	PowerW ThreePhase
	// Models are the models in config order.
	Models []ModelState
}

// ModelState is one model in a [State].
type ModelState struct {
	ModelLabel string
	// PowerW is the power of the model's servers, in watts.
	PowerW float64
	// ActiveReplicas is the number of replicas its servers hold.
	ActiveReplicas int
	// BatchSize is the batch size it runs at (vLLM's max_num_seqs).
	BatchSize int
	// ObservedITLS is its average inter-token latency in seconds, NaN (JSON
	// null) when there is none.
	ObservedITLS float64
	// PhaseShare is the part of its servers on each phase, 1/3 each without servers.
	PhaseShare ThreePhase
}

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
	b = append(b, `,"power_w":{"a":`...)
	b = appendJSONFloat(b, s.PowerW.A)
	b = append(b, `,"b":`...)
	b = appendJSONFloat(b, s.PowerW.B)
	b = append(b, `,"c":`...)
	b = appendJSONFloat(b, s.PowerW.C)
	b = append(b, '}')
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
	b = s.appendByModel(b, "phase_share_by_model", func(b []byte, m *ModelState) []byte {
		for i, v := range m.PhaseShare.Array() {
			b = appendJSONFloat(append(b, "[,,"[i]), v)
		}
		return append(b, ']')
	})
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

// UnmarshalJSON reads what AppendJSON wrote. The models are those of
// power_by_model_w, in its order; every other per-model member must have the
// same ones.
func (s *State) UnmarshalJSON(raw []byte) error {
	var in struct {
		Seq            int64               `json:"seq"`
		TimeS          *float64            `json:"time_s"`
		WallTime       *time.Time          `json:"wall_time"`
		Source         SourceKind          `json:"source"`
		PowerW         *ThreePhase         `json:"power_w"`
		ModelPowerW    byModel[float64]    `json:"power_by_model_w"`
		BatchSize      byModel[int]        `json:"batch_size_by_model"`
		ActiveReplicas byModel[int]        `json:"active_replicas_by_model"`
		ObservedITLS   byModel[*float64]   `json:"observed_itl_s_by_model"`
		PhaseShare     byModel[[3]float64] `json:"phase_share_by_model"`
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		return err
	}
	if in.TimeS == nil || in.PowerW == nil {
		return fmt.Errorf("time_s or power_w is missing")
	}
	*s = State{Seq: in.Seq, TimeS: *in.TimeS, Source: in.Source, PowerW: *in.PowerW}
	if in.WallTime != nil {
		s.WallTime = *in.WallTime
	}
	labels := in.ModelPowerW.labels
	for name, n := range map[string]int{
		"batch_size_by_model": len(in.BatchSize.labels), "active_replicas_by_model": len(in.ActiveReplicas.labels),
		"observed_itl_s_by_model": len(in.ObservedITLS.labels), "phase_share_by_model": len(in.PhaseShare.labels),
	} {
		if n != len(labels) {
			return fmt.Errorf("%s has %d models, power_by_model_w has %d", name, n, len(labels))
		}
	}
	for _, label := range labels {
		batchSize, ok1 := in.BatchSize.values[label]
		active, ok2 := in.ActiveReplicas.values[label]
		itl, ok3 := in.ObservedITLS.values[label]
		share, ok4 := in.PhaseShare.values[label]
		if !(ok1 && ok2 && ok3 && ok4) {
			return fmt.Errorf("model %q of power_by_model_w is missing elsewhere", label)
		}
		m := ModelState{
			ModelLabel: label, PowerW: in.ModelPowerW.values[label], BatchSize: batchSize, ActiveReplicas: active,
			ObservedITLS: math.NaN(), PhaseShare: ThreePhase{share[0], share[1], share[2]},
		}
		if itl != nil {
			m.ObservedITLS = *itl
		}
		s.Models = append(s.Models, m)
	}
	return nil
}
