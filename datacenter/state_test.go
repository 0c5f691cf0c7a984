package datacenter

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// sameBits compares floats by their bits, and all NaN as one.
func sameBits() cmp.Option {
	return cmp.Comparer(func(a, b float64) bool {
		return math.Float64bits(a) == math.Float64bits(b) || math.IsNaN(a) && math.IsNaN(b)
	})
}

func aState() *State {
	return &State{
		Seq: 3, TimeS: 0.3, Source: SourceReplay, PowerW: ThreePhase{1234.5, 1e22, -0.25},
		Models: []ModelState{
			{ModelLabel: "z", PowerW: 100, ActiveReplicas: 4, BatchSize: 128, ObservedITLS: 0.02, PhaseShare: ThreePhase{0.5, 0.25, 0.25}},
			{ModelLabel: `a "b"`, ObservedITLS: math.NaN(), BatchSize: 8, PhaseShare: UniformShare()},
		},
	}
}

const aStateJSON = `{"seq":3,"time_s":0.3,"wall_time":null,"source":"replay","power_w":{"a":1234.5,"b":1e+22,"c":-0.25},` +
	`"power_by_model_w":{"z":100.0,"a \"b\"":0.0},"batch_size_by_model":{"z":128,"a \"b\"":8},` +
	`"active_replicas_by_model":{"z":4,"a \"b\"":0},"observed_itl_s_by_model":{"z":0.02,"a \"b\"":null},` +
	`"phase_share_by_model":{"z":[0.5,0.25,0.25],"a \"b\"":[0.3333333333333333,0.3333333333333333,0.3333333333333333]}}`

func TestStateJSON(t *testing.T) {
	s := aState()
	if diff := cmp.Diff(aStateJSON, string(s.AppendJSON(nil))); diff != "" {
		t.Errorf("AppendJSON (-want +got):\n%s", diff)
	}
	if got := string(s.AppendJSON([]byte("before "))); got != "before "+aStateJSON {
		t.Errorf("AppendJSON gave %s", got)
	}
	if got, err := json.Marshal(s); err != nil || string(got) != aStateJSON {
		t.Errorf("json.Marshal gave %s, %v", got, err)
	}
	s.WallTime = time.Date(2026, 4, 1, 12, 30, 0, 123000, time.FixedZone("", 3600))
	if got, want := string(s.AppendJSON(nil)), `"wall_time":"2026-04-01T12:30:00.000123+01:00"`; !strings.Contains(got, want) {
		t.Errorf("%s does not hold %s", got, want)
	}
	none := &State{Source: SourceLive, PowerW: ThreePhase{math.NaN(), math.Inf(1), math.Inf(-1)}}
	const want = `{"seq":0,"time_s":0.0,"wall_time":null,"source":"live","power_w":{"a":null,"b":null,"c":null},"power_by_model_w":{},` +
		`"batch_size_by_model":{},"active_replicas_by_model":{},"observed_itl_s_by_model":{},"phase_share_by_model":{},` +
		`"measured_power_w":{"a":0.0,"b":0.0,"c":0.0},"measured_power_w_by_model":{},"augmented_power_w_by_model":{},` +
		`"augmentation_factor_by_model":{},"prometheus_metrics_by_model":{},"itl_percentiles_s_by_model":{},"stale_by_model":{}}`
	if diff := cmp.Diff(want, string(none.AppendJSON(nil))); diff != "" {
		t.Errorf("AppendJSON of a live state without models (-want +got):\n%s", diff)
	}
}

// The members of what the site has, which files of earlier versions lack.
func TestSiteMembersOfAState(t *testing.T) {
	s := aState()
	s.FreeGPUs = FreeGPUs{N: 0, Known: true}
	s.Models[0].AchievedBatchSize, s.Models[1].AchievedBatchSize = 100.5, math.NaN()
	raw := string(s.AppendJSON(nil))
	for _, want := range []string{`"achieved_batch_size_by_model":{"z":100.5,"a \"b\"":null},"active`, `,"free_gpus":0}`} {
		if !strings.Contains(raw, want) {
			t.Errorf("%s lacks %s", raw, want)
		}
	}
	var got State
	if err := json.Unmarshal([]byte(raw), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, &got, sameBits()); diff != "" {
		t.Errorf("the state read back (-want +got):\n%s", diff)
	}
	for _, c := range []struct{ old, new, want string }{
		{`,"free_gpus":0`, ``, "one is missing"},
		{`"free_gpus":0`, `"free_gpus":null`, "one is missing"},
		{`"free_gpus":0`, `"free_gpus":0.5`, "cannot unmarshal"},
		{`"z":100.5,`, ``, "achieved_batch_size_by_model has 1 models, power_by_model_w has 2"},
		{`"z":100.5`, `"y":100.5`, `achieved_batch_size_by_model lacks model "z"`},
		{`"z":100.5`, `"z":"100"`, "cannot unmarshal string"},
	} {
		wrong := strings.Replace(raw, c.old, c.new, 1)
		if err := json.Unmarshal([]byte(wrong), &got); wrong == raw || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s gives %v, want …%s…", wrong, err, c.want)
		}
	}
	if err := json.Unmarshal([]byte(aStateJSON), &got); err != nil || got.FreeGPUs.Known || string(got.AppendJSON(nil)) != aStateJSON {
		t.Errorf("one of an earlier version is read as %+v, %v", got, err)
	}
}

const aLiveModelJSON = `,"measured_power_w":{"a":1000.0,"b":1001.0,"c":1002.0},"measured_power_w_by_model":{"m":2400.5},` +
	`"augmented_power_w_by_model":{"m":9000.0},"augmentation_factor_by_model":{"m":180.0},` +
	`"prometheus_metrics_by_model":{"m":{"num_requests_running":128.0,"num_requests_waiting":3.0,"kv_cache_usage_perc":0.5,"num_preemptions_total":7.0}},` +
	`"itl_percentiles_s_by_model":{"m":{"p50":0.01,"p90":0.02,"p95":null,"p99":0.04}},"stale_by_model":{"m":2.5}}`

func TestLiveStateJSON(t *testing.T) {
	s := &State{Source: SourceLive, MeasuredPowerW: ThreePhase{1000, 1001, 1002}, Models: []ModelState{{
		ModelLabel: "m", PowerW: 9000, Live: LiveModelState{
			MeasuredPowerW: 2400.5, AugmentationFactor: 180, Server: &ServerLoad{128, 3, 0.5, 7},
			ITLPercentilesS: ITLPercentiles{0.01, 0.02, math.NaN(), 0.04}, Stale: true, StaleAgeS: 2.5,
		},
	}}}
	if got := string(s.AppendJSON(nil)); !strings.HasSuffix(got, aLiveModelJSON) {
		t.Errorf("the state is %s, want the end %s", got, aLiveModelJSON)
	}
	s.Models[0].Live.Stale, s.Models[0].Live.Server = false, nil
	for _, want := range []string{`"prometheus_metrics_by_model":{"m":null}`, `"stale_by_model":{}`} {
		if got := string(s.AppendJSON(nil)); !strings.Contains(got, want) {
			t.Errorf("%s lacks %s", got, want)
		}
	}
}

func drawState(t *rapid.T) *State {
	number := rapid.OneOf(rapid.Float64(), rapid.Just(math.NaN()))
	phases := func(label string) ThreePhase {
		return ThreePhase{number.Draw(t, label), number.Draw(t, label), number.Draw(t, label)}
	}
	s := &State{
		Seq: rapid.Int64().Draw(t, "seq"), TimeS: rapid.Float64().Draw(t, "t"),
		Source: rapid.SampledFrom([]SourceKind{SourceLive, SourceReplay}).Draw(t, "source"), PowerW: phases("power"),
	}
	if rapid.Bool().Draw(t, "has wall time") {
		s.WallTime = time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC()
	}
	if rapid.Bool().Draw(t, "has free GPUs") {
		s.FreeGPUs = FreeGPUs{rapid.IntRange(0, math.MaxInt32).Draw(t, "free GPUs"), true}
	}
	live := s.Source == SourceLive
	if live {
		s.MeasuredPowerW = phases("measured power")
	}
	for _, label := range rapid.SliceOfNDistinct(rapid.String(), 0, 4, rapid.ID).Draw(t, "labels") {
		var l LiveModelState
		if live {
			l = LiveModelState{
				MeasuredPowerW: number.Draw(t, "measured"), AugmentationFactor: number.Draw(t, "factor"),
				ITLPercentilesS: ITLPercentiles{number.Draw(t, "p50"), number.Draw(t, "p90"), number.Draw(t, "p95"), number.Draw(t, "p99")},
			}
			if l.Stale = rapid.Bool().Draw(t, "stale"); l.Stale {
				l.StaleAgeS = rapid.Float64().Draw(t, "age")
			}
			if rapid.Bool().Draw(t, "has metrics") {
				l.Server = &ServerLoad{number.Draw(t, "running"), number.Draw(t, "waiting"), number.Draw(t, "kv"), number.Draw(t, "preemptions")}
			}
		}
		achieved := 0.0
		if s.FreeGPUs.Known {
			achieved = number.Draw(t, "achieved")
		}
		s.Models = append(s.Models, ModelState{
			Live: l, AchievedBatchSize: achieved,
			ModelLabel: label, PowerW: number.Draw(t, "power"), ActiveReplicas: rapid.Int().Draw(t, "replicas"),
			BatchSize: rapid.Int().Draw(t, "batch size"), ObservedITLS: number.Draw(t, "ITL"), PhaseShare: phases("share"),
		})
	}
	return s
}

func TestStateJSONReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawState(t)
		raw := want.AppendJSON(nil)
		if !json.Valid(raw) {
			t.Fatalf("not JSON: %s", raw)
		}
		var got State
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, &got, sameBits()); diff != "" {
			t.Errorf("the state read back (-want +got):\n%s", diff)
		}
	})
}

func TestStateJSONIsReadInAnyLayout(t *testing.T) {
	var compact map[string]any
	if err := json.Unmarshal([]byte(aStateJSON), &compact); err != nil {
		t.Fatal(err)
	}
	compact["member_to_come"] = 5 // members to come are passed over
	delete(compact, "wall_time")
	sorted, err := json.MarshalIndent(compact, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	var got State
	if err := json.Unmarshal(sorted, &got); err != nil {
		t.Fatal(err)
	}
	want := aState()
	want.Models[0], want.Models[1] = want.Models[1], want.Models[0] // the order there, sorted by label
	if diff := cmp.Diff(want, &got, sameBits()); diff != "" {
		t.Errorf("the state in another layout (-want +got):\n%s", diff)
	}
}

func TestStateJSONRefuses(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"empty":                {aStateJSON, ``, "unexpected end"},
		"cut":                  {`]}}`, `]`, "unexpected end"},
		"trailing":             {`]}}`, `]}} x`, "invalid character"},
		"a list":               {aStateJSON, `[1]`, "cannot unmarshal array"},
		"a number":             {aStateJSON, `1`, "cannot unmarshal number"},
		"null":                 {aStateJSON, `null`, "is missing"},
		"no members":           {aStateJSON, `{}`, "is missing"},
		"no seq":               {`"seq":3,`, ``, "seq, "},
		"null seq":             {`"seq":3`, `"seq":null`, "is missing"},
		"no time":              {`"time_s":0.3,`, ``, "time_s"},
		"null time":            {`"time_s":0.3`, `"time_s":null`, "is missing"},
		"no source":            {`"source":"replay",`, ``, "source"},
		"time as text":         {`0.3,`, `"0.3",`, "cannot unmarshal string"},
		"huge time":            {`0.3,`, `1e999,`, "cannot unmarshal number"},
		"no date":              {`"wall_time":null`, `"wall_time":"noon"`, "parsing time"},
		"no power":             {`"power_w":{"a":1234.5,"b":1e+22,"c":-0.25},`, ``, "power_w is missing"},
		"a phase less":         {`,"c":-0.25}`, `}`, "lacks a, b or c"},
		"power as text":        {`-0.25`, `"x"`, "cannot unmarshal string"},
		"no power by model":    {`"power_by_model_w":{"z":100.0,"a \"b\"":0.0},`, ``, "power_by_model_w is missing"},
		"null power by model":  {`"power_by_model_w":{"z":100.0,"a \"b\"":0.0}`, `"power_by_model_w":null`, "power_by_model_w is missing"},
		"no batch sizes":       {`"batch_size_by_model":{"z":128,"a \"b\"":8},`, ``, "batch_size_by_model has 0 models, power_by_model_w has 2"},
		"null batch sizes":     {`"batch_size_by_model":{"z":128,"a \"b\"":8}`, `"batch_size_by_model":null`, "want an object of values by model label"},
		"batch sizes in list":  {`"batch_size_by_model":{"z":128,"a \"b\"":8}`, `"batch_size_by_model":[128,8]`, "want an object of values by model label"},
		"no replicas":          {`"active_replicas_by_model":{"z":4,"a \"b\"":0},`, ``, "active_replicas_by_model has 0 models"},
		"no latencies":         {`"observed_itl_s_by_model":{"z":0.02,"a \"b\"":null},`, ``, "observed_itl_s_by_model has 0 models"},
		"a latency less":       {`"z":0.02,`, ``, "observed_itl_s_by_model has 1 models"},
		"other model":          {`"z":0.02`, `"y":0.02`, `model "z" lacks`},
		"label in other case":  {`"z":128`, `"Z":128`, `model "z" lacks`},
		"model twice":          {`"z":0.02,`, `"z":0.02,"z":0.02,`, `model "z" stands there twice`},
		"model twice, escaped": {`"z":100.0,`, `"z":100.0,"\u007a":100.0,`, `model "z" stands there twice`},
		"null batch size":      {`"z":128`, `"z":null`, `model "z" lacks`},
		"half a batch size":    {`"z":128`, `"z":12.5`, "cannot unmarshal number"},
		"null replicas":        {`"z":4`, `"z":null`, `model "z" lacks`},
		"two shares":           {`[0.5,0.25,0.25]`, `[0.5,0.5]`, `model "z" lacks`},
		"four shares":          {`[0.5,0.25,0.25]`, `[0.5,0.25,0.25,0]`, `model "z" lacks`},
		"null shares":          {`[0.5,0.25,0.25]`, `null`, `model "z" lacks`},
		"live without members": {`"replay"`, `"live"`, "measured_power_w is missing"},
		"shares as text":       {`[0.5,0.25,0.25]`, `"x"`, "cannot unmarshal string"},
	} {
		raw := strings.Replace(aStateJSON, c.old, c.new, 1)
		if raw == aStateJSON {
			t.Fatalf("%s: %s does not occur", name, c.old)
		}
		s := *aState()
		err := s.UnmarshalJSON([]byte(raw))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want …%s…", name, err, c.want)
		}
		if diff := cmp.Diff(*aState(), s, sameBits()); diff != "" {
			t.Errorf("%s: a refused text changed the state (-before +after):\n%s", name, diff)
		}
	}
}

func FuzzStateUnmarshalJSON(f *testing.F) {
	f.Add([]byte(aStateJSON))
	f.Add((&State{Source: SourceLive, WallTime: time.Unix(1, 5)}).AppendJSON(nil))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var s, again State
		if s.UnmarshalJSON(raw) != nil {
			return
		}
		// What was read is written in a form that reads the same.
		written := s.AppendJSON(nil)
		if err := again.UnmarshalJSON(written); err != nil {
			t.Fatalf("%v in %s", err, written)
		}
		if diff := cmp.Diff(written, again.AppendJSON(nil)); diff != "" {
			t.Fatalf("written and read again (-first +second):\n%s", diff)
		}
	})
}

func FuzzParseSeconds(f *testing.F) {
	for _, text := range []string{"1/10", "0.1", "1e-1", " 3 ", "-1", "1e999999999", "1/0", "0x1p4"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSeconds(text)
		if err != nil {
			return
		}
		if f := s.Float64(); !(f >= 0) {
			t.Fatalf("%q is %v, as a double %v", text, s, f)
		}
		written := s.String()
		if len(written) > 64 {
			return // a fraction may take more characters than are read
		}
		if again, err := ParseSeconds(written); err != nil || again.rat().Cmp(s.rat()) != 0 {
			t.Fatalf("%q is %v, which reads back as %v, %v", text, s, again, err)
		}
	})
}

// A server may tell some of its numbers only.
func TestNumbersOfAServerMayBeUnknown(t *testing.T) {
	nan := math.NaN()
	state := State{Source: SourceLive, Models: []ModelState{{ModelLabel: "m", Live: LiveModelState{Server: &ServerLoad{8, nan, nan, nan}}}}}
	raw := state.AppendJSON(nil)
	want := `"prometheus_metrics_by_model":{"m":{"num_requests_running":8.0,"num_requests_waiting":null,"kv_cache_usage_perc":null,"num_preemptions_total":null}}`
	if !strings.Contains(string(raw), want) {
		t.Errorf("the state is %s, want it to have %s", raw, want)
	}
	var read State
	if err := json.Unmarshal(raw, &read); err != nil {
		t.Fatal(err)
	}
	l := read.Models[0].Live.Server
	if l == nil || l.NumRequestsRunning != 8 || !math.IsNaN(l.NumRequestsWaiting) || !math.IsNaN(l.KVCacheUsagePerc) || !math.IsNaN(l.NumPreemptionsTotal) {
		t.Errorf("it is read as %+v", l)
	}
}
