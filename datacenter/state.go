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

// UnmarshalJSON reads what AppendJSON wrote. The models are those of
// power_by_model_w, in its order; every other per-model member must have the
// same ones.
func (s *State) UnmarshalJSON(raw []byte) error {
	var in struct {
		Seq            *int64                       `json:"seq"`
		TimeS          *float64                     `json:"time_s"`
		WallTime       *time.Time                   `json:"wall_time"`
		Source         *SourceKind                  `json:"source"`
		PowerW         struct{ A, B, C jsonNumber } `json:"power_w"`
		ModelPowerW    *byModel[jsonNumber]         `json:"power_by_model_w"`
		BatchSize      byModel[*int]                `json:"batch_size_by_model"`
		ActiveReplicas byModel[*int]                `json:"active_replicas_by_model"`
		ObservedITLS   byModel[jsonNumber]          `json:"observed_itl_s_by_model"`
		PhaseShare     byModel[[]jsonNumber]        `json:"phase_share_by_model"`
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		return err
	}
	if in.Seq == nil || in.TimeS == nil || in.Source == nil || in.ModelPowerW == nil {
		return fmt.Errorf("seq, time_s, source or power_by_model_w is missing")
	}
	if p := in.PowerW; !p.A.there || !p.B.there || !p.C.there {
		return fmt.Errorf("power_w is missing or lacks a, b or c")
	}
	labels := in.ModelPowerW.labels
	for _, member := range []struct {
		name   string
		labels []string
	}{
		{"batch_size_by_model", in.BatchSize.labels}, {"active_replicas_by_model", in.ActiveReplicas.labels},
		{"observed_itl_s_by_model", in.ObservedITLS.labels}, {"phase_share_by_model", in.PhaseShare.labels},
	} {
		if len(member.labels) != len(labels) {
			return fmt.Errorf("%s has %d models, power_by_model_w has %d", member.name, len(member.labels), len(labels))
		}
	}
	read := State{
		Seq: *in.Seq, TimeS: *in.TimeS, Source: *in.Source,
		PowerW: ThreePhase{in.PowerW.A.value, in.PowerW.B.value, in.PowerW.C.value},
	}
	if in.WallTime != nil {
		read.WallTime = *in.WallTime
	}
	for _, label := range labels {
		batchSize, active := in.BatchSize.values[label], in.ActiveReplicas.values[label]
		itl, share := in.ObservedITLS.values[label], in.PhaseShare.values[label]
		if batchSize == nil || active == nil || !itl.there || len(share) != NumPhases {
			return fmt.Errorf("model %q lacks a batch size, active replicas, a latency or three phase shares", label)
		}
		read.Models = append(read.Models, ModelState{
			ModelLabel: label, PowerW: in.ModelPowerW.values[label].value, BatchSize: *batchSize, ActiveReplicas: *active,
			ObservedITLS: itl.value, PhaseShare: ThreePhase{share[0].value, share[1].value, share[2].value},
		})
	}
	*s = read
	return nil
}
