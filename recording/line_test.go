package recording

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func tenth(t testing.TB) datacenter.Seconds {
	t.Helper()
	dt, err := datacenter.ParseSeconds("1/10")
	if err != nil {
		t.Fatal(err)
	}
	return dt
}

func wall() time.Time { return time.Date(2026, 12, 31, 23, 59, 59, 900_000_000, time.UTC) }

type lineCase struct {
	name string
	line Line
	text string
}

// lineCases have a line of every kind, and of what may be left out.
func lineCases(t testing.TB) []lineCase {
	untilS := 30.5
	return []lineCase{
		{"header", &Header{
			Format: 1, RunID: "5f0c", Segment: 2, Second: 3600, StartedAt: wall(), StartMs: 1795565504000, ClockZeroNs: 1500, AgentVersion: "1.2.3", Seed: math.MaxUint64, DT: tenth(t),
			Config: json.RawMessage(`{"dt_s":0.1,"name":"a<b"}`), ConfigSHA256: "b893685847bdbe80525612772bce4904b9bfc878efab0261d8fbb2dab36f0e0d",
			Models: []string{"Llama-3.1-8B"}, GPUs: []GPU{{"node1:4938/0", "node1:4938", 0, "H100", "GPU-1", "Llama-3.1-8B"}},
			ClockOffsetNs: map[string]int64{"node1:4938": -1234567},
			InForce:       &InForce{[]ModelInForce{{"Llama-3.1-8B", 64, &untilS, 3, 1, nil, false}}},
		}, `{"kind":"header","format":1,"run_id":"5f0c","segment":2,"second":3600,"started_at":"2026-12-31T23:59:59.9Z","start_ms":1795565504000,"clock_zero_ns":1500,` +
			`"agent_version":"1.2.3","seed":"18446744073709551615","dt":"1/10","config":{"dt_s":0.1,"name":"a<b"},` +
			`"config_sha256":"b893685847bdbe80525612772bce4904b9bfc878efab0261d8fbb2dab36f0e0d","models":["Llama-3.1-8B"],` +
			`"gpus":[{"gpu":"node1:4938/0","endpoint":"node1:4938","gpu_id":0,"name":"H100","uuid":"GPU-1","model_label":"Llama-3.1-8B"}],"clock_offset_ns":{"node1:4938":-1234567},` +
			`"in_force":{"models":[{"model_label":"Llama-3.1-8B","batch_size":64,"batch_size_until_s":30.5,"replica_delta":3,"leased_replica_delta":1,"replica_until_s":null,"overdue":false}]}}`},
		{"power", &Power{17, "node1:4938/0", -1234567, []int64{1795565504000, 1795565504050, 1795565504099, 1795565504098}, []int64{600123, 598871, 601544, 601544}, []int64{170, 170, 171, 171}, "rrrc"},
			`{"kind":"power","second":17,"gpu":"node1:4938/0","offset_ns":-1234567,"t_ms":[1795565504000,50,49,-1],"power_mw":[600123,598871,601544,601544],"steps":[170,170,171,171],"mark":"rrrc"}`},
		{"power of readings only", &Power{0, "a/0", 0, []int64{1}, []int64{2}, []int64{3}, ""},
			`{"kind":"power","second":0,"gpu":"a/0","offset_ns":0,"t_ms":[1],"power_mw":[2],"steps":[3]}`},
		{"power of 1970", &Power{0, "a/0", -1795565504000_000_000 - 999_999, []int64{1}, []int64{2}, []int64{3}, ""},
			`{"kind":"power","second":0,"gpu":"a/0","offset_ms":-1795565504000,"offset_ns":-999999,"t_ms":[1],"power_mw":[2],"steps":[3]}`},
		{"itl", &ITL{170, "Llama-3.1-8B", 130, 127, 1931846120, MethodUsage, []int64{1521, 1522, 1523, 1525}, []int64{3, 40, 61, 23}},
			`{"kind":"itl","seq":170,"model_label":"Llama-3.1-8B","output_tokens":130,"count":127,"sum_ns":1931846120,"method":"usage","bins":[1521,1,1,2],"counts":[3,40,61,23]}`},
		{"metrics", &Metrics{Step: 171, ModelLabel: "a \"b\"", NumRequestsRunning: 64, NumRequestsWaiting: math.NaN(), KVCacheUsagePerc: 0.31, NumPreemptionsTotal: 1e300},
			`{"kind":"metrics","step":171,"model_label":"a \"b\"","num_requests_running":64.0,"num_requests_waiting":null,"kv_cache_usage_perc":0.31,"num_preemptions_total":1e+300}`},
		{"metrics too old", &Metrics{Step: 171, ModelLabel: "a", ServerIndex: 1, TooOld: true, NumRequestsRunning: math.NaN(), NumRequestsWaiting: math.NaN(), KVCacheUsagePerc: math.NaN(), NumPreemptionsTotal: math.NaN()},
			`{"kind":"metrics","step":171,"model_label":"a","server_index":1,"too_old":true,"num_requests_running":null,"num_requests_waiting":null,"kv_cache_usage_perc":null,"num_preemptions_total":null}`},
		{"command", &Command{170, 17, wall(), Actor{"api", "10.0.0.1:5000", "control"}, "key-1", json.RawMessage(`{"batch_size_by_model":{"a":64}}`), json.RawMessage(`[{"model_label":"a"}]`)},
			`{"kind":"command","seq":170,"time_s":17.0,"wall_time":"2026-12-31T23:59:59.9Z","actor":{"via":"api","address":"10.0.0.1:5000","role":"control"},"idempotency_key":"key-1",` +
				`"body":{"batch_size_by_model":{"a":64}},"results":[{"model_label":"a"}]}`},
		{"command of a script", &Command{TimeS: 0, Actor: Actor{Via: "script"}},
			`{"kind":"command","seq":0,"time_s":0.0,"wall_time":null,"actor":{"via":"script"},"idempotency_key":null,"body":null,"results":null}`},
		{"event", &Event{170, 3, wall(), 17, "datacenter.power.fresh", json.RawMessage(`{"model_label":"a"}`)},
			`{"kind":"event","seq":170,"id":3,"wall_time":"2026-12-31T23:59:59.9Z","time_s":17.0,"topic":"datacenter.power.fresh","data":{"model_label":"a"}}`},
		{"gap", &Event{170, -1, time.Time{}, 17, TopicGap, json.RawMessage(`{"first_second":3,"last_second":5,"cause":"c"}`)},
			`{"kind":"event","seq":170,"id":null,"wall_time":null,"time_s":17.0,"topic":"recording.gap","data":{"first_second":3,"last_second":5,"cause":"c"}}`},
		{"state", &State{&datacenter.State{Seq: 1, TimeS: 0.1, Source: datacenter.SourceReplay}},
			`{"kind":"state","seq":1,"time_s":0.1,"wall_time":null,"source":"replay","power_w":{"a":0.0,"b":0.0,"c":0.0},"power_by_model_w":{},"batch_size_by_model":{},"active_replicas_by_model":{},"observed_itl_s_by_model":{},"phase_share_by_model":{}}`},
		{"state_hash", &StateHash{17, 170, 1795565504000, []int64{31, -2}, []Hash{0x8a1fb0c3d2e4f596, 0x03c2d1e0ffa98b7c}},
			`{"kind":"state_hash","second":17,"seq":170,"wall_ms":1795565504000,"late_us":[31,-2],"hash":["8a1fb0c3d2e4f596","03c2d1e0ffa98b7c"]}`},
		{"end", &End{1799, "interrupted", 190, 2}, `{"kind":"end","seq":1799,"reason":"interrupted","frames":190,"dropped_seconds":2}`},
		{"a later kind", &Other{"temperature", json.RawMessage(`{"kind":"temperature","second":1}`)}, `{"kind":"temperature","second":1}`},
	}
}

// sameLine compares lines by what they say: floats by their bits, times as instants.
func sameLine() cmp.Options {
	return cmp.Options{
		cmpopts.EquateNaNs(), cmpopts.EquateEmpty(),
		cmp.Comparer(func(a, b datacenter.Seconds) bool { return a.String() == b.String() }),
		cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) }),
	}
}

func TestLinesAreWrittenAndRead(t *testing.T) {
	for _, c := range lineCases(t) {
		t.Run(c.name, func(t *testing.T) {
			text := string(c.line.AppendJSON([]byte("before")))
			if want := "before" + c.text; text != want {
				t.Fatalf("got  %s\nwant %s", text, want)
			}
			if kind, ok := KindOf([]byte(c.text)); !ok || kind != c.line.Kind() {
				t.Errorf("KindOf says %q, %v", kind, ok)
			}
			read, err := ParseLine([]byte(c.text + "\n"))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.line, read, sameLine()); diff != "" {
				t.Errorf("what was read differs (-written +read):\n%s", diff)
			}
		})
	}
}

// A member that is not known is ignored, wherever it stands, and kind need not be first.
func TestReadersIgnoreWhatTheyDoNotKnow(t *testing.T) {
	read, err := ParseLine([]byte(`{"new":{"a":[1]},"second":0,"kind":"power","gpu":"a/0","offset_ns":0,"t_ms":[1],"power_mw":[2],"steps":[3],"newer":null}`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Line(&Power{0, "a/0", 0, []int64{1}, []int64{2}, []int64{3}, ""}), read); diff != "" {
		t.Error(diff)
	}
}

// Each member that a kind needs is missed by name when it is taken away.
func TestEveryMemberIsNeeded(t *testing.T) {
	optional := []string{"kind", "mark", "offset_ms", "server_index", "too_old", "frames", "in_force", "id", "started_at", "wall_time", "idempotency_key"}
	for _, c := range lineCases(t) {
		var members map[string]json.RawMessage
		if err := json.Unmarshal([]byte(c.text), &members); err != nil {
			t.Fatal(err)
		}
		if _, later := c.line.(*Other); later {
			continue
		}
		for name := range members {
			if slices.Contains(optional, name) {
				continue
			}
			less := map[string]json.RawMessage{}
			for other, v := range members {
				if other != name {
					less[other] = v
				}
			}
			text, _ := json.Marshal(less)
			if _, err := ParseLine(text); err == nil {
				// A state without models has all of none in what is missing.
				if strings.HasSuffix(name, "_by_model") {
					continue
				}
				t.Errorf("%s: nothing is missed without %s", c.name, name)
			}
		}
	}
}

func TestWrongLinesAreRefused(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{``, "want a JSON object"},
		{`{"kind":"power"`, "power: want a JSON object"},
		{`{"kind":"temperature",`, "is not JSON"},
		{`{"second":1}`, "kind is missing"},
		{`[1]`, "want a JSON object"},
		{`{"kind":"power","second":-1,"gpu":"a","offset_ns":0,"t_ms":[],"power_mw":[],"steps":[]}`, "power: second is -1, want a number from 0 to 2^53"},
		{`{"kind":"power","second":9007199254740993,"gpu":"a","offset_ns":0,"t_ms":[],"power_mw":[],"steps":[]}`, "second is 9007199254740993"},
		{`{"kind":"power","second":1.5,"gpu":"a","offset_ns":0,"t_ms":[],"power_mw":[],"steps":[]}`, "want a JSON object of this kind's members"},
		{`{"kind":"power","second":1,"gpu":"a","offset_ns":0,"t_ms":[1,1],"power_mw":[1],"steps":[1,1]}`, "t_ms has 2 entries and power_mw 1"},
		{`{"kind":"power","second":1,"gpu":"a","offset_ns":0,"t_ms":[1],"power_mw":[1],"steps":[]}`, "t_ms has 1 entries and steps 0"},
		{`{"kind":"power","second":1,"gpu":"a","offset_ns":0,"t_ms":[1],"power_mw":[1],"steps":[1],"mark":"rr"}`, "and mark 2"},
		{`{"kind":"power","second":1,"gpu":"a","offset_ns":0,"t_ms":[1],"power_mw":[1],"steps":[1],"mark":"x"}`, "mark has something else"},
		{`{"kind":"power","second":1,"gpu":"a","offset_ns":0,"t_ms":[9007199254740992,1],"power_mw":[1,1],"steps":[1,1]}`, "t_ms adds up to 9007199254740993 at [1]"},
		{`{"kind":"power","second":1,"gpu":"a","offset_ns":0,"t_ms":[1,9223372036854775807],"power_mw":[1,1],"steps":[1,1]}`, "no difference"},
		{`{"kind":"power","second":1,"gpu":"a","offset_ms":9223372036854775,"offset_ns":0,"t_ms":[],"power_mw":[],"steps":[]}`, "offset_ms is 9223372036854775, want at most"},
		{`{"kind":"itl","seq":1,"model_label":"a","output_tokens":1,"count":1,"sum_ns":1,"method":"usage","bins":[5,0],"counts":[1,1]}`, "bins do not rise at [1]"},
		{`{"kind":"state_hash","second":1,"seq":1,"wall_ms":1,"late_us":[1],"hash":["12"]}`, `hash[0]: "12" is no hash: want 16 hexadecimal digits`},
		{`{"kind":"state_hash","second":1,"seq":1,"wall_ms":1,"late_us":[],"hash":[]}`, "hash is empty"},
		{`{"kind":"state_hash","second":1,"seq":1,"wall_ms":1,"late_us":[1],"hash":[]}`, "late_us has 1 entries and hash 0"},
		{`{"kind":"state","seq":-1,"time_s":0.1,"wall_time":null,"source":"replay","power_w":{"a":0.0,"b":0.0,"c":0.0},"power_by_model_w":{},"batch_size_by_model":{},"active_replicas_by_model":{},"observed_itl_s_by_model":{},"phase_share_by_model":{}}`, "seq is -1"},
		{strings.Replace(lineCases(t)[0].text, `"format":1`, `"format":2`, 1), "format is 2, and this version reads up to 1: use a later version"},
		{strings.Replace(lineCases(t)[0].text, `0.1`, `0.2`, 1), "config_sha256 is not that of config"},
		{strings.Replace(lineCases(t)[0].text, `"1/10"`, `"0"`, 1), "dt is no number of seconds above 0"},
		{strings.Replace(lineCases(t)[0].text, `"18446744073709551615"`, `"-1"`, 1), "seed is no whole number"},
	} {
		if line, err := ParseLine([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\n\tgives %v, %v\n\twant an error with %s", c.text, line, err, c.want)
		}
	}
}

// What others wrote stays one line, whatever it is.
func TestForeignJSONIsOneLine(t *testing.T) {
	for raw, want := range map[string]string{
		"{\n \"a\" : 1\n}": `"body":{"a":1},`,
		"not\njson":        `"body":"not\njson",`,
		"":                 `"body":null,`,
	} {
		text := string((&Command{Body: json.RawMessage(raw)}).AppendJSON(nil))
		if strings.Contains(text, "\n") || !strings.Contains(text, want) || !json.Valid([]byte(text)) {
			t.Errorf("%q becomes %s, want %s in it", raw, text, want)
		}
	}
}

func TestGapIsToldFromOtherEvents(t *testing.T) {
	var cases = lineCases(t)
	for _, c := range cases {
		event, is := c.line.(*Event)
		if !is {
			continue
		}
		gap, is := event.Gap()
		if want := (Gap{FirstSecond: 3, LastSecond: 5, Cause: "c"}); c.name == "gap" && (!is || gap != want) || c.name != "gap" && is {
			t.Errorf("%s: %+v, %v", c.name, gap, is)
		}
	}
}

// A name has one type in all kinds: tools infer one column per name.
func TestNamesHaveOneType(t *testing.T) {
	types := map[string]string{}
	for _, c := range lineCases(t) {
		var members map[string]any
		if err := json.Unmarshal([]byte(c.text), &members); err != nil {
			t.Fatal(err)
		}
		for name, v := range members {
			var is string
			switch v.(type) {
			case nil:
				continue
			case string:
				is = "text"
			case float64:
				is = "number"
			case []any:
				is = "list"
			case map[string]any:
				is = "object"
			case bool:
				is = "truth"
			}
			if before, there := types[name]; there && before != is {
				t.Errorf("%s is a %s in one kind and a %s in another (%s)", name, before, is, c.name)
			}
			types[name] = is
		}
	}
}

// Whatever a line is, it is read or refused, and what was read is written so that it
// reads the same.
func FuzzParseLine(f *testing.F) {
	for _, c := range lineCases(f) {
		f.Add([]byte(c.text))
	}
	f.Add([]byte(`{"kind":"power","second":1,"gpu":"\ud800","offset_ns":9007199254740992,"t_ms":[-9007199254740992,18014398509481984],"power_mw":[1,2],"steps":[0,0],"mark":"rl"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		line, err := ParseLine(raw)
		if err != nil {
			return
		}
		text := line.AppendJSON(nil)
		if bytes.ContainsRune(text, '\n') {
			if _, later := line.(*Other); !later {
				t.Fatalf("%s is written as more than one line", raw)
			}
		}
		again, err := ParseLine(text)
		if err != nil {
			t.Fatalf("%s is written as %s: %v", raw, text, err)
		}
		if second := again.AppendJSON(nil); !bytes.Equal(second, text) {
			t.Fatalf("%s is read as\n%s\nand then\n%s", raw, text, second)
		}
	})
}
