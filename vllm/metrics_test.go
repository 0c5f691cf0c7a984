package vllm

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMetricsMatchGolden(t *testing.T) {
	raw, err := os.ReadFile("../testdata/golden/components/vllm_metrics.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Text     string             `json:"text"`
		Snapshot map[string]float64 `json:"snapshot"`
	}
	if err := json.Unmarshal(raw, &golden); err != nil {
		t.Fatal(err)
	}
	m, err := parseMetrics(strings.NewReader(golden.Text), testModel)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{
		"num_requests_running": m.NumRequestsRunning, "num_requests_waiting": m.NumRequestsWaiting,
		"num_preemptions_total": m.NumPreemptionsTotal, "kv_cache_usage_perc": m.KVCacheUsagePerc,
	}
	if len(golden.Snapshot) != len(got) {
		t.Fatalf("the golden snapshot has %v", golden.Snapshot)
	}
	for name, want := range golden.Snapshot {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}

const twoEngines = `vllm:num_requests_running{engine="0"} 61
vllm:num_requests_running{engine="1"} 64
vllm:num_requests_waiting{engine="0"} 3
vllm:num_requests_waiting{engine="1"} 1
vllm:num_preemptions_total{engine="0"} 12
vllm:num_preemptions_total{engine="1"} 0
vllm:gpu_cache_usage_perc{engine="0"} 0.5
vllm:gpu_cache_usage_perc{engine="1"} 0.25
`

func parsePage(t *testing.T, page string) MetricsPage {
	t.Helper()
	m, err := parseMetrics(strings.NewReader(page), testModel)
	if err != nil {
		t.Fatalf("%v; the page is %.300q", err, page)
	}
	return m
}

// sameNumbers takes two unknown numbers for the same.
func sameNumbers(a, b Metrics) bool { return cmp.Equal(a, b, cmpopts.EquateNaNs()) }

func nan() float64 { return math.NaN() }

func TestCountsAreSummedAndFractionsAveraged(t *testing.T) {
	m := parsePage(t, twoEngines)
	if want := (Metrics{125, 4, 0.375, 12}); m.Metrics != want || m.Unknown != nil {
		t.Errorf("metrics %+v, want %+v and nothing unknown", m, want)
	}
}

// withoutLinesOf leaves lines out that begin with a name.
func withoutLinesOf(page, name string) string {
	var rest strings.Builder
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, name) {
			rest.WriteString(line)
		}
	}
	return rest.String()
}

// each are the numbers of twoEngines: what they are without the i-th, and how its
// lines begin.
func each() []struct {
	metric, lines string
	rest          Metrics
} {
	return []struct {
		metric, lines string
		rest          Metrics
	}{
		{MetricRunning, "vllm:num_requests_running", Metrics{nan(), 4, 0.375, 12}},
		{MetricWaiting, "vllm:num_requests_waiting", Metrics{125, nan(), 0.375, 12}},
		{MetricKVCache, "vllm:gpu_cache_usage_perc", Metrics{125, 4, nan(), 12}},
		{MetricPreemptions, "vllm:num_preemptions_total", Metrics{125, 4, 0.375, nan()}},
	}
}

// wantUnknown wants one number to be unknown, for a reason with the text.
func wantUnknown(t *testing.T, what string, m MetricsPage, metric, text string) {
	t.Helper()
	if len(m.Unknown) != 1 || m.Unknown[0].Metric != metric || !strings.Contains(m.Err(metric).Error(), metric) || !strings.Contains(m.Err(metric).Error(), text) {
		t.Errorf("%s: unknown are %v, want %s alone, with %q", what, m.Unknown, metric, text)
	}
	if err := m.Err(metric); err != nil && len(err.Error()) > 700 {
		t.Errorf("%s: an error of %d bytes", what, len(err.Error()))
	}
}

func TestMissingMetricLeavesTheOthers(t *testing.T) {
	for _, c := range each() {
		m := parsePage(t, withoutLinesOf(twoEngines, c.lines))
		wantUnknown(t, "missing", m, c.metric, "metric is missing")
		if !sameNumbers(m.Metrics, c.rest) || !errors.Is(m.Err(c.metric), ErrMissingMetric) {
			t.Errorf("without %s: %+v", c.metric, m)
		}
	}
}

func TestValueThatIsNoneLeavesTheOthers(t *testing.T) {
	for _, value := range []string{"NaN", "+Inf", "-Inf", "-200", "-0.5", "N/A", "[Not Supported]", "1e999", "0x1p3", "1,5", "\x00", "½", strings.Repeat("9", 400)} {
		for _, c := range each() {
			lines := strings.Split(twoEngines, "\n")
			for i, line := range lines {
				if strings.HasPrefix(line, c.lines+`{engine="1"}`) {
					lines[i] = c.lines + `{engine="1"} ` + value
				}
			}
			m := parsePage(t, strings.Join(lines, "\n"))
			wantUnknown(t, value, m, c.metric, "")
			if !sameNumbers(m.Metrics, c.rest) || errors.Is(m.Err(c.metric), ErrMissingMetric) {
				t.Errorf("%s is %q for one engine: %+v", c.metric, value, m)
			}
		}
	}
}

// Whatever else stands on a page, it is read as if it did not.
func TestForeignLinesDoNotMatter(t *testing.T) {
	long := strings.Repeat("x", 3*maxSampleBytes)
	for name, change := range map[string]func(page string) string{
		"a value that is none":  func(p string) string { return p + "# TYPE gpu_power_watts gauge\ngpu_power_watts N/A\n" },
		"two HELP lines":        func(p string) string { return "# HELP a b\n# HELP a c\n" + p + "# HELP a d\n" },
		"HELP of ours again":    func(p string) string { return p + "# HELP vllm:num_requests_running again\n" },
		"two types":             func(p string) string { return p + "# TYPE a gauge\n# TYPE a counter\n# TYPE a gauge\n" },
		"a type too late":       func(p string) string { return p + "# TYPE vllm:num_requests_running gauge\n" },
		"an unknown type":       func(p string) string { return "# TYPE vllm:num_requests_running stateset\n" + p },
		"a wrong type":          func(p string) string { return "# TYPE vllm:num_requests_waiting histogram\n" + p },
		"carriage returns":      func(p string) string { return strings.ReplaceAll(p, "\n", "\r\n") },
		"no last line feed":     func(p string) string { return strings.TrimSuffix(p, "\n") },
		"CRLF, no last one":     func(p string) string { return strings.TrimSuffix(strings.ReplaceAll(p, "\n", "\r\n"), "\r\n") },
		"empty lines":           func(p string) string { return "\n\n" + strings.ReplaceAll(p, "\n", "\n\n \n") },
		"a byte-order mark":     func(p string) string { return "\uFEFF" + p },
		"OpenMetrics":           func(p string) string { return strings.ReplaceAll(p, "\n", " 1700000000.123\n") + "# EOF\n" },
		"times":                 func(p string) string { return strings.ReplaceAll(p, "\n", " 1700000000123\n") },
		"exemplars":             func(p string) string { return strings.ReplaceAll(p, "\n", " # {trace_id=\"a b\"} 1.0 1700000000.5\n") },
		"times and exemplars":   func(p string) string { return strings.ReplaceAll(p, "\n", " 17.5 # {} 1\n") },
		"an exemplar elsewhere": func(p string) string { return p + "other_bucket{le=\"1\"} 3 # {trace_id=\"x\"} 1.0\n" },
		"blanks": func(p string) string {
			return strings.NewReplacer("{", " \t{ ", "}", " } \t", "vllm", "\t vllm", "\n", " \n").Replace(p)
		},
		"commas before braces": func(p string) string { return strings.ReplaceAll(p, "}", ",}") },
		"quoted names":         func(p string) string { return regexp.MustCompile(`(?m)^(vllm:\w+)\{`).ReplaceAllString(p, `{"$1",`) },
		"quoted names, last": func(p string) string {
			return regexp.MustCompile(`(?m)^(vllm:\w+)\{(.*)\}`).ReplaceAllString(p, `{$2, "$1" }`)
		},
		"a series twice":     func(p string) string { return p + twoEngines },
		"other series twice": func(p string) string { return p + "a 1\na 2\n" },
		"names that go on": func(p string) string {
			return p + "vllm:num_requests_running_total 9\nvllm:num_requests_waiting_by_reason{reason=\"a\"} 9\nvllm:num_requests_runnin 9\n"
		},
		"names that end so": func(p string) string { return p + "x_vllm:num_requests_running 9\nvllm_num_requests_running 9\n" },
		"names in labels": func(p string) string {
			return p + "{\"other\",of=\"vllm:num_requests_running\"} 9\n{\"other\",of=\"vllm:num_requests_running\"} N/A\n"
		},
		"names in comments": func(p string) string { return "# vllm:num_requests_running 9\n#vllm:num_requests_running 9\n" + p },
		"a histogram's parts": func(p string) string {
			return p + "vllm:num_requests_running_bucket{le=\"+Inf\"} 9\nvllm:num_requests_running_sum 9\n"
		},
		"a long line first":      func(p string) string { return "a{b=\"" + long + "\"} 1\n" + p },
		"a long line last":       func(p string) string { return p + "# HELP a " + long },
		"binary":                 func(p string) string { return "\x00\xff\xfe\n\x1b[31m\n" + p + "{\n}\n\"\n{\"\n" },
		"malformed lines":        func(p string) string { return p + "a{\na{b\na{b=\na{b=\"c\n= =\n1 1\n}\n" },
		"another's old metric":   func(p string) string { return p + "vllm:num_preemptions 77\n" },
		"a label with a brace":   func(p string) string { return strings.ReplaceAll(p, "{", `{x="}\" # , \\",`) },
		"labels of many letters": func(p string) string { return strings.ReplaceAll(p, "{", "{\"höhe\"=\"ü\",") },
	} {
		if m := parsePage(t, change(twoEngines)); m.Metrics != (Metrics{125, 4, 0.375, 12}) || m.Unknown != nil {
			t.Errorf("%s: %+v, unknown %v", name, m.Metrics, m.Unknown)
		}
	}
}

// malformedLines are of vllm:num_requests_running.
func malformedLines() map[string]string {
	return map[string]string{
		"nothing behind it":  "vllm:num_requests_running",
		"labels that go on":  `vllm:num_requests_running{engine="2`,
		"no value":           `vllm:num_requests_running{engine="2"}`,
		"two values":         `vllm:num_requests_running{engine="2"} 1 2 3`,
		"words behind it":    `vllm:num_requests_running{engine="2"} 1 at noon`,
		"labels without end": `vllm:num_requests_running{engine="2" 1`,
		"one label twice":    `vllm:num_requests_running{engine="2",engine="3"} 1`,
		"a long line":        `vllm:num_requests_running{engine="` + strings.Repeat("x", maxSampleBytes) + `"} 1`,
		"many labels":        `vllm:num_requests_running{` + strings.Repeat(`a="",`, maxLabels+1) + `} 1`,
		"an engine anew":     `vllm:num_requests_running{engine="1"} 65`,
		"quoted":             `{"vllm:num_requests_running",engine="2} 1`,
		"not UTF-8":          "vllm:num_requests_running{engine=\"\xff\"} 1",
	}
}

func TestMalformedLineOfOneMetric(t *testing.T) {
	rest := Metrics{nan(), 4, 0.375, 12}
	for name, line := range malformedLines() {
		for _, page := range []string{line + "\n" + twoEngines, twoEngines + line} {
			m := parsePage(t, page)
			wantUnknown(t, name, m, MetricRunning, "")
			if !sameNumbers(m.Metrics, rest) || errors.Is(m.Err(MetricRunning), ErrMissingMetric) {
				t.Errorf("%s: %+v", name, m)
			}
		}
	}
}

// An older name counts where the present one tells nothing.
func TestOldNames(t *testing.T) {
	now := strings.ReplaceAll(twoEngines, "gpu_cache", "kv_cache")
	for name, c := range map[string]struct {
		page string
		want float64
	}{
		"old":                  {twoEngines, 0.375},
		"new":                  {now, 0.375},
		"both":                 {now + "vllm:gpu_cache_usage_perc 0.9\n", 0.375},
		"both, only old known": {strings.ReplaceAll(now, " 0.25\n", " NaN\n") + "vllm:gpu_cache_usage_perc 0.9\n", 0.9},
	} {
		if m := parsePage(t, name[:0]+c.page); m.KVCacheUsagePerc != c.want || m.Unknown != nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
	m := parsePage(t, strings.ReplaceAll(now, " 0.25\n", " NaN\n"))
	wantUnknown(t, "neither known", m, MetricKVCache, `"NaN"`)
}

// ofModel labels a page's series with a model; empty: with none.
func ofModel(page, model string) string {
	if model == "" {
		return page
	}
	return strings.ReplaceAll(page, "{", "{model_name="+strconv.Quote(model)+",")
}

func TestOnlyOurModelCounts(t *testing.T) {
	all := Metrics{125, 4, 0.375, 12}
	other := strings.NewReplacer(" 61", " 30", " 64", " 10", " 3\n", " 7\n", " 12", " 1", " 0.5", " 0.9").Replace(twoEngines)
	onlyRunning := withoutLinesOf(withoutLinesOf(withoutLinesOf(twoEngines, "vllm:num_requests_waiting"), "vllm:num_pre"), "vllm:gpu")
	for name, c := range map[string]struct {
		page, model string
		want        Metrics
	}{
		"ours alone":                     {ofModel(twoEngines, testModel), testModel, all},
		"ours first":                     {ofModel(twoEngines, testModel) + ofModel(other, "org/b"), testModel, all},
		"ours last":                      {ofModel(other, "org/b") + ofModel(other, "a") + ofModel(twoEngines, testModel), testModel, all},
		"beside an adapter":              {ofModel(twoEngines, testModel) + ofModel(other, testModel+"-lora"), testModel, all},
		"another is broken":              {ofModel(twoEngines, testModel) + strings.ReplaceAll(ofModel(other, "b"), " 30", " N/A"), testModel, all},
		"by another name":                {ofModel(twoEngines, "served-so"), "served-so", all},
		"no label":                       {twoEngines, "", all},
		"an empty label":                 {ofModel(twoEngines, "\x00"), "", all},
		"beside sums of all":             {ofModel(twoEngines, testModel) + other, testModel, all},
		"some metrics without the label": {ofModel(onlyRunning, testModel) + withoutLinesOf(twoEngines, "vllm:num_requests_running"), testModel, all},
		"likewise, by another name":      {ofModel(onlyRunning, "so") + withoutLinesOf(twoEngines, "vllm:num_requests_running"), "so", all},
		"ours is one metric":             {ofModel(other, "b") + ofModel(onlyRunning, testModel), testModel, Metrics{125, nan(), nan(), nan()}},
		"by another name and without":    {ofModel(twoEngines, "so") + withoutLinesOf(twoEngines, "vllm:num_requests_waiting"), "so", Metrics{nan(), 4, nan(), nan()}},
	} {
		m := parsePage(t, strings.ReplaceAll(c.page, `"\x00"`, `""`))
		if !sameNumbers(m.Metrics, c.want) || m.ModelName != c.model {
			t.Errorf("%s: %+v of %q, want %+v of %q; unknown: %v", name, m.Metrics, m.ModelName, c.want, c.model, m.Unknown)
		}
	}

	m := parsePage(t, ofModel(twoEngines, "org/b")+ofModel(other, "a")+other)
	if !sameNumbers(m.Metrics, Metrics{nan(), nan(), nan(), nan()}) || len(m.Unknown) != 4 {
		t.Errorf("a page of others alone: %+v", m)
	}
	var others *OtherModelsError
	if err := m.Err(MetricRunning); !errors.As(err, &others) || !slices.Equal(others.Names, []string{"a", "org/b"}) || others.ModelID != testModel {
		t.Errorf("the error is %#v", err)
	} else {
		wantMessage(t, "others alone", err, MetricRunning, testModel, `"a", "org/b"`)
	}
}

// Whatever stands in the lines of other models, and however many there are, ours
// count.
func TestOtherModelsLinesDoNotMatter(t *testing.T) {
	all := Metrics{125, 4, 0.375, 12}
	for name, line := range malformedLines() {
		for model, known := range map[string]bool{`model_name="org/b",`: true, ` model_name = "b\"" , `: true, `model_name="",`: false, `model_name="` + testModel + `",`: false,
			`x="model_name=\"b\",model_name=",`: false, `name="b",`: false} {
			broken := strings.Replace(line, "{", "{"+model, 1)
			if broken == line || name == "an engine anew" && !strings.Contains(model, testModel) {
				continue // nobody can tell whose it is, or it is another's and whole
			}
			for _, page := range []string{broken + "\n" + ofModel(twoEngines, testModel), ofModel(twoEngines, testModel) + broken} {
				m := parsePage(t, page)
				if known != (m.Unknown == nil) || known != (m.Metrics == all) {
					t.Errorf("%s with %s: %+v, unknown %v", name, model, m.Metrics, m.Unknown)
				}
			}
		}
	}

	many := ofModel(twoEngines, testModel)
	for i := range maxSeries + 1 {
		many = fmt.Sprintf("vllm:num_requests_running{model_name=\"%d\"} 9\n%svllm:num_requests_waiting{\"model_name\"=\"%[1]d\"} 9\n", i, many)
	}
	if m := parsePage(t, many); m.Metrics != all || m.Unknown != nil {
		t.Errorf("with more other models than are kept: %+v, unknown %v", m.Metrics, m.Unknown)
	}
	onlyBroken := parsePage(t, ofModel(twoEngines, "so")+"vllm:num_requests_running{model_name=\"so\"} 1 2 3\n")
	wantUnknown(t, "by another name, malformed", onlyBroken, MetricRunning, "malformed")
	const whole = "vllm:num_requests_running{model_name=\"b\"} 9\nvllm:num_requests_waiting{model_name=\"b\"} 9\n"
	ours := parsePage(t, whole+"vllm:num_requests_running{model_name=\""+testModel+"\"} 1 2 3\n")
	if ours.ModelName != testModel || !sameNumbers(ours.Metrics, Metrics{nan(), nan(), nan(), nan()}) {
		t.Errorf("another model stands in for ours: %+v", ours)
	}
}

func TestPageWithNothingOfVLLM(t *testing.T) {
	for name, page := range map[string]string{
		"empty": "", "blank": "\n\n", "others": "# HELP a b\na 1\n", "HTML": "<html>busy</html>", "JSON": `{"detail":"Not Found"}`, "binary": "\x00\xff", "BOM": "\uFEFF",
	} {
		_, err := parseMetrics(strings.NewReader(page), testModel)
		if !errors.Is(err, ErrMissingMetric) {
			t.Errorf("%s: error %v", name, err)
		}
		wantMessage(t, name, err, MetricRunning, "metric is missing", "the page begins with")
	}
	// vLLM is there, and has said nothing yet.
	for _, page := range []string{
		"# HELP vllm:num_requests_running Number\n# TYPE vllm:num_requests_running gauge\n", "vllm:cache_config_info 1\n", `{"vllm:cache_config_info"} 1`,
	} {
		if m := parsePage(t, page); len(m.Unknown) != 4 || !errors.Is(m.Err(MetricRunning), ErrMissingMetric) {
			t.Errorf("%q: %+v", page, m)
		}
	}
}

func TestPageThatBreaksOff(t *testing.T) {
	broken := errors.New("the line is cut")
	r := io.MultiReader(strings.NewReader(twoEngines), iotest.ErrReader(broken))
	if m, err := parseMetrics(r, testModel); !errors.Is(err, broken) {
		t.Errorf("%+v (%v)", m, err)
	}
	fill := strings.Repeat("a 1\n", (maxMetricsBytes-len(twoEngines))/4)
	if m := parsePage(t, twoEngines+fill); m.Unknown != nil {
		t.Errorf("a page just as long as may be: %v", m.Unknown)
	}
	_, err := parseMetrics(strings.NewReader(twoEngines+fill+"a 1\n"), testModel)
	wantMessage(t, "a page too long", err, "longer than 16777216 bytes")
}

// A few kilobytes on the wire can be megabytes of a page. What is read of it is
// bounded, and read at once.
func TestPageThatUnpacks(t *testing.T) {
	for name, c := range map[string]struct {
		line  string // %[1]d is its number
		most  uint64 // bytes allocated in all
		known bool
	}{
		"short lines": {"a 1\n", 1 << 20, true},
		"ours":        {"vllm:num_requests_running{engine=\"%[1]d\"} 1\n", 8 << 20, false},
		"of models":   {"vllm:num_requests_running{model_name=\"%[1]d\"} 1\n", 8 << 20, false},
		"many labels": {"vllm:num_requests_running{" + strings.Repeat("a%[1]d=\"\",", 300) + "} 1\n", 8 << 20, false},
		"long lines":  {"vllm:num_requests_running{a=\"" + strings.Repeat("x", maxSampleBytes/2) + "%[1]d\"} 1\n", 64 << 20, false},
		"endless":     {"vllm:num_requests_running{a=\"" + strings.Repeat("x", 1<<20), 1 << 20, false},
	} {
		var packed bytes.Buffer
		zip := gzip.NewWriter(&packed)
		io.WriteString(zip, withoutLinesOf(twoEngines, "vllm:num_requests_running"))
		if c.known {
			io.WriteString(zip, twoEngines)
		}
		for i, n := 0, 0; n < 15<<20; i++ {
			line := c.line
			if strings.Contains(line, "%") {
				line = fmt.Sprintf(line, i)
			}
			io.WriteString(zip, line)
			n += len(line)
		}
		zip.Close()
		began := time.Now()
		got := bytesAllocated(func() {
			page, err := gzip.NewReader(bytes.NewReader(packed.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			m, err := parseMetrics(page, testModel)
			if err != nil || math.IsNaN(m.NumRequestsRunning) == c.known || m.NumRequestsWaiting != 4 && name != "of models" {
				t.Errorf("%s: %+v (%v)", name, m, err)
			}
		})
		if got > c.most {
			t.Errorf("%s: %d bytes were allocated, want %d at most", name, got, c.most)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
		t.Logf("%s: %d bytes packed, %d allocated, %v", name, packed.Len(), got, time.Since(began))
	}
}

func bytesAllocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func FuzzParseMetrics(f *testing.F) {
	f.Add(twoEngines)
	f.Add("# TYPE vllm:num_requests_running histogram\nvllm:num_requests_running_bucket{le=\"+Inf\"} 1\n")
	f.Add(`{"vllm:num_requests_running",model_name="a"} 1 # {} 1` + "\r\nvllm:num_requests_waiting{model_name=\"b\"} NaN")
	f.Fuzz(func(t *testing.T, page string) {
		m, err := parseMetrics(strings.NewReader(page), testModel)
		if err != nil {
			return
		}
		known := 0
		for _, v := range []float64{m.NumRequestsRunning, m.NumRequestsWaiting, m.KVCacheUsagePerc, m.NumPreemptionsTotal} {
			if math.IsInf(v, 0) || v < 0 {
				t.Errorf("a number is %v", v)
			}
			if !math.IsNaN(v) {
				known++
			}
		}
		if known+len(m.Unknown) != 4 {
			t.Errorf("%d numbers are known, and %d reasons given: %+v", known, len(m.Unknown), m)
		}
		for _, e := range m.Unknown {
			if len(e.Error()) > 4000 || strings.ContainsAny(e.Error(), "\x00\n\x1b") {
				t.Errorf("the error is %q", e)
			}
		}
		if !math.IsNaN(m.NumRequestsRunning) && !strings.Contains(page, "num_requests_running") {
			t.Error("a page without the metric was read")
		}
	})
}
