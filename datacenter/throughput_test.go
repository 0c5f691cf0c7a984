package datacenter

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestThroughput(t *testing.T) {
	for _, tokensPerS := range []float64{0, 1234.5, math.Inf(1)} {
		if got := ThroughputOf(tokensPerS); !got.Known || got.OrNaN() != tokensPerS {
			t.Errorf("%v tokens/s are %+v", tokensPerS, got)
		}
	}
	if got := ThroughputOf(math.NaN()); got != (Throughput{}) || !math.IsNaN(got.OrNaN()) {
		t.Errorf("no number is %+v, of %v", got, got.OrNaN())
	}
}

// knownThroughputs is a state of a model with a throughput and one without.
func knownThroughputs(source SourceKind) *State {
	s := aState()
	s.Source = source
	s.Models[0].Throughput = ThroughputOf(25_000.5)
	if source == SourceLive {
		s.Models[0].Live.MeasuredTokensPerS = 1000
	}
	return s
}

const (
	aThroughputJSON = `"observed_itl_s_by_model":{"z":0.02,"a \"b\"":null},` +
		`"throughput_tokens_per_s_by_model":{"z":25000.5,"a \"b\"":null},"phase_share_by_model":`
	aMeasuredThroughputJSON = `"measured_power_w_by_model":{"z":0.0,"a \"b\"":0.0},` +
		`"measured_throughput_tokens_per_s_by_model":{"z":1000.0,"a \"b\"":null},"augmented_power_w_by_model":`
)

func TestThroughputJSON(t *testing.T) {
	for source, wants := range map[SourceKind][]string{SourceReplay: {aThroughputJSON}, SourceLive: {aThroughputJSON, aMeasuredThroughputJSON}} {
		s := knownThroughputs(source)
		raw := s.AppendJSON(nil)
		for _, want := range wants {
			if !strings.Contains(string(raw), want) {
				t.Errorf("%s lacks %s", raw, want)
			}
		}
		if got := strings.Contains(string(raw), "measured_throughput"); got != (source == SourceLive) {
			t.Errorf("a state of a %s run has a measured throughput: %v", source, got)
		}
		var got State
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s, &got, sameBits()); diff != "" {
			t.Errorf("the state of a %s run read back (-want +got):\n%s", source, diff)
		}
	}
}

// Throughputs that do not fit the other members are refused, as those do.
func TestThroughputJSONRefuses(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"a model less":          {`"z":25000.5,`, ``, "throughput_tokens_per_s_by_model has 1 models, power_by_model_w has 2"},
		"another model":         {`"z":25000.5`, `"y":25000.5`, `throughput_tokens_per_s_by_model lacks model "z"`},
		"a text":                {`25000.5`, `"x"`, "cannot unmarshal string"},
		"a list":                {`{"z":25000.5,"a \"b\"":null}`, `[1]`, "want an object of values by model label"},
		"measured, none":        {`"measured_throughput_tokens_per_s_by_model":{"z":1000.0,"a \"b\"":null},`, ``, `measured_throughput_tokens_per_s_by_model lacks model "z"`},
		"measured, a model":     {`"z":1000.0,`, ``, "measured_throughput_tokens_per_s_by_model has 1 models"},
		"measured, other model": {`"z":1000.0`, `"y":1000.0`, `measured_throughput_tokens_per_s_by_model lacks model "z"`},
	} {
		raw := string(knownThroughputs(SourceLive).AppendJSON(nil))
		if strings.Count(raw, c.old) != 1 {
			t.Fatalf("%s: %s stands %d times in %s", name, c.old, strings.Count(raw, c.old), raw)
		}
		var s State
		if err := json.Unmarshal([]byte(strings.Replace(raw, c.old, c.new, 1)), &s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
}
