package datacenter

import (
	"encoding/json"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// statesOf draws states of one replay, or live ones.
func statesOf(t *rapid.T) []*State {
	labels := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z <&"\\é]{1,6}`), 0, 3, rapid.ID).Draw(t, "labels")
	number := rapid.OneOf(rapid.Float64Range(-1e9, 1e9), rapid.Just(math.NaN()), rapid.Just(0.1))
	phases := func() ThreePhase {
		return ThreePhase{rapid.Float64().Draw(t, "a"), rapid.Float64().Draw(t, "b"), rapid.Float64().Draw(t, "c")}
	}
	source := rapid.SampledFrom([]SourceKind{SourceReplay, SourceLive}).Draw(t, "source")
	states := make([]*State, rapid.IntRange(1, 4).Draw(t, "states"))
	for i := range states {
		s := &State{Seq: int64(i), TimeS: float64(i) / 10, Source: source, PowerW: phases(), MeasuredPowerW: phases(), Models: make([]ModelState, len(labels))}
		if rapid.Bool().Draw(t, "clock") {
			s.WallTime = time.Unix(1_800_000_000, 7).UTC()
		}
		for k, label := range labels {
			s.Models[k] = ModelState{
				ModelLabel: label, PowerW: number.Draw(t, "power"), ActiveReplicas: 3, BatchSize: 8, ObservedITLS: number.Draw(t, "itl"), PhaseShare: phases(),
				Throughput: Throughput{TokensPerS: 5, Known: rapid.Bool().Draw(t, "known")}, Live: LiveModelState{Stale: rapid.Bool().Draw(t, "stale"), StaleAgeS: 1.5},
			}
		}
		states[i] = s
	}
	return states
}

func decoded(t *rapid.T, text []byte) map[string]any {
	var v map[string]any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

// TestFieldsArePartOfTheState: some members are those of the whole, no more and no less.
func TestFieldsArePartOfTheState(t *testing.T) {
	names := StateFieldNames()
	rapid.Check(t, func(r *rapid.T) {
		s := statesOf(r)[0]
		chosen := rapid.SliceOf(rapid.SampledFrom(names)).Draw(r, "fields")
		fields, unknown := StateFieldsOf(chosen)
		if unknown != -1 {
			r.Fatalf("%q is unknown", chosen[unknown])
		}
		want := decoded(r, s.AppendJSON(nil))
		for name := range want {
			if name != "seq" && name != "time_s" && !slices.Contains(chosen, name) {
				delete(want, name)
			}
		}
		if diff := cmp.Diff(want, decoded(r, s.AppendFields(nil, fields))); diff != "" {
			r.Errorf("the fields %q (-want +got):\n%s", chosen, diff)
		}
	})
	if _, unknown := StateFieldsOf([]string{"power_w", "seq", "power"}); unknown != 2 {
		t.Errorf("the unknown name is number %d", unknown)
	}
}

// TestColumnsAreTheStates: each value of each state stands in its column.
func TestColumnsAreTheStates(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		states := statesOf(r)
		var labels []string
		for i := range states[0].Models {
			labels = append(labels, states[0].Models[i].ModelLabel)
		}
		columns := decoded(r, AppendStateColumns(nil, states, labels, StateFields{}))
		for i, s := range states {
			for name, value := range decoded(r, s.AppendJSON(nil)) {
				column := columns[name]
				byName, isObject := value.(map[string]any)
				if !isObject {
					if diff := cmp.Diff(value, column.([]any)[i]); diff != "" {
						r.Errorf("%s of state %d (-state +column):\n%s", name, i, diff)
					}
					continue
				}
				for key, v := range byName { // of stale models, there are more in the columns
					if diff := cmp.Diff(v, column.(map[string]any)[key].([]any)[i]); diff != "" {
						r.Errorf("%s of %s of state %d (-state +column):\n%s", key, name, i, diff)
					}
				}
			}
		}
	})
	none := string(AppendStateColumns(nil, nil, []string{"a"}, StateFields{}))
	want := `{"seq":[],"time_s":[],"wall_time":[],"source":[],"power_w":{"a":[],"b":[],"c":[]},"power_by_model_w":{"a":[]},` +
		`"batch_size_by_model":{"a":[]},"active_replicas_by_model":{"a":[]},"observed_itl_s_by_model":{"a":[]},"phase_share_by_model":{"a":[]}}`
	if none != want {
		t.Errorf("no states are %s", none)
	}
}
