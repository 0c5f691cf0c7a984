package datacenter

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"
)

// stateMember is one member of a state's JSON. One of value, phases and model has what
// it says.
type stateMember struct {
	name string
	// there tells which states have it; nil: all.
	there func(*State) bool
	value func(b []byte, s *State) []byte
	// phases is for an object of phases a, b and c.
	phases func(*State) *ThreePhase
	// model is for an object of values by model label, in config order. some tells which
	// models it has; nil: all.
	model func(b []byte, m *ModelState) []byte
	some  func(*ModelState) bool
}

const numStateMembers = 21

// stateMembers is the one list of what a state's JSON has, in its order. It is long because
// it is a table.
func stateMembers() [numStateMembers]stateMember {
	return [numStateMembers]stateMember{
		{name: "seq", value: func(b []byte, s *State) []byte { return strconv.AppendInt(b, s.Seq, 10) }},
		{name: "time_s", value: func(b []byte, s *State) []byte { return appendJSONFloat(b, s.TimeS) }},
		{name: "wall_time", value: appendWallTime},
		{name: "source", value: func(b []byte, s *State) []byte { return appendJSONString(b, string(s.Source)) }},
		{name: "power_w", phases: func(s *State) *ThreePhase { return &s.PowerW }},
		{name: "power_by_model_w", model: func(b []byte, m *ModelState) []byte { return appendJSONFloat(b, m.PowerW) }},
		{name: "batch_size_by_model", model: func(b []byte, m *ModelState) []byte { return strconv.AppendInt(b, int64(m.BatchSize), 10) }},
		{name: achievedMember, there: (*State).knowsFreeGPUs, model: func(b []byte, m *ModelState) []byte {
			return appendJSONFloat(b, m.AchievedBatchSize)
		}},
		{name: "active_replicas_by_model", model: func(b []byte, m *ModelState) []byte { return strconv.AppendInt(b, int64(m.ActiveReplicas), 10) }},
		{name: "observed_itl_s_by_model", model: func(b []byte, m *ModelState) []byte { return appendJSONFloat(b, m.ObservedITLS) }},
		// Replays of data without fits of the throughput know none, nor do files of earlier
		// versions.
		{name: throughputMember, there: (*State).knowsThroughput, model: func(b []byte, m *ModelState) []byte {
			return appendJSONFloat(b, m.Throughput.OrNaN())
		}},
		{name: "phase_share_by_model", model: func(b []byte, m *ModelState) []byte {
			for i, v := range m.PhaseShare.Array() {
				b = appendJSONFloat(append(b, "[,,"[i]), v)
			}
			return append(b, ']')
		}},
		{name: freeMember, there: (*State).knowsFreeGPUs, value: func(b []byte, s *State) []byte {
			return strconv.AppendInt(b, int64(s.FreeGPUs.N), 10)
		}},
		{name: "measured_power_w", there: (*State).isLive, phases: func(s *State) *ThreePhase { return &s.MeasuredPowerW }},
		{name: "measured_power_w_by_model", there: (*State).isLive, model: func(b []byte, m *ModelState) []byte {
			return appendJSONFloat(b, m.Live.MeasuredPowerW)
		}},
		{name: measuredThroughputMember, there: func(s *State) bool { return s.isLive() && s.knowsThroughput() }, model: func(b []byte, m *ModelState) []byte {
			if !m.Throughput.Known {
				return append(b, "null"...)
			}
			return appendJSONFloat(b, m.Live.MeasuredTokensPerS)
		}},
		{name: "augmented_power_w_by_model", there: (*State).isLive, model: func(b []byte, m *ModelState) []byte { return appendJSONFloat(b, m.PowerW) }},
		{name: "augmentation_factor_by_model", there: (*State).isLive, model: func(b []byte, m *ModelState) []byte {
			return appendJSONFloat(b, m.Live.AugmentationFactor)
		}},
		{name: "prometheus_metrics_by_model", there: (*State).isLive, model: appendServerLoad},
		{name: "itl_percentiles_s_by_model", there: (*State).isLive, model: func(b []byte, m *ModelState) []byte {
			p := &m.Live.ITLPercentilesS
			return appendNumbers(b, []string{"p50", "p90", "p95", "p99"}, p.P50, p.P90, p.P95, p.P99)
		}},
		{
			name: "stale_by_model", there: (*State).isLive, some: func(m *ModelState) bool { return m.Live.Stale },
			model: func(b []byte, m *ModelState) []byte { return appendJSONFloat(b, m.Live.StaleAgeS) },
		},
	}
}

// The members that are there only if the throughput of any model is known.
const (
	throughputMember         = "throughput_tokens_per_s_by_model"
	measuredThroughputMember = "measured_throughput_tokens_per_s_by_model"
)

// The members that files of earlier versions do not have, both together.
const achievedMember, freeMember = "achieved_batch_size_by_model", "free_gpus"

func (s *State) knowsFreeGPUs() bool { return s.FreeGPUs.Known }

func (s *State) isLive() bool { return s.Source == SourceLive }

func (s *State) knowsThroughput() bool {
	for i := range s.Models {
		if s.Models[i].Throughput.Known {
			return true
		}
	}
	return false
}

func appendWallTime(b []byte, s *State) []byte {
	if s.WallTime.IsZero() {
		return append(b, "null"...)
	}
	return append(s.WallTime.AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
}

func appendServerLoad(b []byte, m *ModelState) []byte {
	l := m.Live.Server
	if l == nil {
		return append(b, "null"...)
	}
	return appendNumbers(b, []string{"num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_preemptions_total"},
		l.NumRequestsRunning, l.NumRequestsWaiting, l.KVCacheUsagePerc, l.NumPreemptionsTotal)
}

// StateFields chooses members of a state's JSON. The zero value is all of them.
type StateFields struct{ mask uint32 }

// alwaysThere are seq and time_s, which every choice has.
const alwaysThere = 1<<0 | 1<<1

// StateFieldsOf chooses members by their names, beside seq and time_s; unknown is the
// index of the first name that no state has, -1 if there is none.
func StateFieldsOf(names []string) (fields StateFields, unknown int) {
	fields.mask = alwaysThere
	members := stateMembers()
	for i, name := range names {
		m := slices.IndexFunc(members[:], func(m stateMember) bool { return m.name == name })
		if m < 0 {
			return StateFields{}, i
		}
		fields.mask |= 1 << m
	}
	return fields, -1
}

// StateFieldNames are the names of all members, in their order.
func StateFieldNames() []string {
	members := stateMembers()
	names := make([]string, len(members))
	for i := range members {
		names[i] = members[i].name
	}
	return names
}

func (f StateFields) has(member int) bool { return f.mask == 0 || f.mask&(1<<member) != 0 }

// AppendJSON appends the state as one JSON object, its per-model members in
// config order.
func (s *State) AppendJSON(b []byte) []byte { return s.AppendFields(b, StateFields{}) }

// AppendFields is [State.AppendJSON] with some of the members.
func (s *State) AppendFields(b []byte, fields StateFields) []byte {
	members := stateMembers()
	separator := byte('{')
	for i := range members {
		m := &members[i]
		if !fields.has(i) || m.there != nil && !m.there(s) {
			continue
		}
		b = append(append(append(b, separator, '"'), m.name...), '"', ':')
		separator = ','
		switch {
		case m.value != nil:
			b = m.value(b, s)
		case m.phases != nil:
			b = appendPhases(b, *m.phases(s))
		default:
			b = s.appendByModel(b, m)
		}
	}
	return append(b, '}')
}

// appendByModel appends an object of values by model label.
func (s *State) appendByModel(b []byte, member *stateMember) []byte {
	separator := byte('{')
	for i := range s.Models {
		m := &s.Models[i]
		if member.some != nil && !member.some(m) {
			continue
		}
		b = append(appendJSONString(append(b, separator), m.ModelLabel), ':')
		b = member.model(b, m)
		separator = ','
	}
	if separator == '{' {
		b = append(b, '{')
	}
	return append(b, '}')
}

// AppendStateColumns appends states as one JSON object of the members of a state, in which
// each value is an array over the states, such as {"seq":[0,1],"power_w":{"a":[…],…},…}. The
// states are of one replay with models of these labels.
func AppendStateColumns(b []byte, states []*State, labels []string, fields StateFields) []byte {
	members := stateMembers()
	separator := byte('{')
	for i := range members {
		m := &members[i]
		if !fields.has(i) || m.there != nil && !slices.ContainsFunc(states, m.there) {
			continue
		}
		b = append(append(append(b, separator, '"'), m.name...), '"', ':')
		separator = ','
		switch {
		case m.value != nil:
			b = appendColumn(b, states, m.value)
		case m.phases != nil:
			for phase, name := range []string{"a", "b", "c"} {
				b = append(append(append(b, "{,,"[phase], '"'), name...), '"', ':')
				b = appendColumn(b, states, func(b []byte, s *State) []byte { return appendJSONFloat(b, m.phases(s).Array()[phase]) })
			}
			b = append(b, '}')
		default:
			b = append(b, '{')
			for k, label := range labels {
				if k > 0 {
					b = append(b, ',')
				}
				b = append(appendJSONString(b, label), ':')
				b = appendColumn(b, states, func(b []byte, s *State) []byte { return m.model(b, &s.Models[k]) })
			}
			b = append(b, '}')
		}
	}
	return append(b, '}')
}

func appendColumn(b []byte, states []*State, value func([]byte, *State) []byte) []byte {
	b = append(b, '[')
	for i, s := range states {
		if i > 0 {
			b = append(b, ',')
		}
		b = value(b, s)
	}
	return append(b, ']')
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
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(s) // a string always marshals
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}
