package filesource

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/g2g-agent/g2g-agent/power"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "power.csv")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// sink notes what it is given, in seconds since it was made.
type sink struct {
	began time.Time

	mu   sync.Mutex
	read []reading
}

type reading struct {
	index      int
	powerW, at float64
}

func (s *sink) Read(r power.Reading) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read = append(s.read, reading{r.Index, r.PowerW, r.At.Sub(s.began).Seconds()})
}

func (s *sink) Lose(int, time.Time) {}

// play runs a source of the endpoints' file for d.
func play(t *testing.T, d time.Duration, endpoints ...power.Endpoint) ([]reading, power.Health) {
	t.Helper()
	sources, err := SourceKind().Open(endpoints, power.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var s *sink
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		s = &sink{began: time.Now()}
		if err := sources[0].Run(ctx, s); err != nil {
			t.Error(err)
		}
	})
	return s.read, sources[0].Health()
}

func TestReadingsArePlayedInRealTimeAndAnew(t *testing.T) {
	file := write(t, "time_s,gpu_index,power_w\n5,0,100\n5,1,300\n5.5,0,200\n7,1,50\n")
	got, health := play(t, 6*time.Second, power.Endpoint{File: file, GPUIndices: []int{0, 1}})
	want := []reading{
		{0, 100, 0}, {1, 300, 0}, {0, 200, 0.5}, {1, 50, 2},
		{0, 100, 3.5}, {1, 300, 3.5}, {0, 200, 4}, {1, 50, 5.5}, // as long after it as the last row is after the one before
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(reading{})); diff != "" {
		t.Errorf("the readings (-want +got):\n%s", diff)
	}
	if n := health.Counts[0]; n.Name != "readings" || n.N != 8 || health.Err != nil || health.Connected {
		t.Errorf("the health is %+v", health)
	}
}

func TestOneTimeIsAConstantPower(t *testing.T) {
	file := write(t, "power_w,time_s,gpu_index\n250,0,0\n") // the columns may have any order
	got, _ := play(t, 2500*time.Millisecond, power.Endpoint{File: file, GPUIndices: []int{0}})
	want := []reading{{0, 250, 0}, {0, 250, 1}, {0, 250, 2}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(reading{})); diff != "" {
		t.Errorf("the readings (-want +got):\n%s", diff)
	}
}

// TestEndpointsOfOneFileAreOneSource: and only the GPUs that are wanted, as far as
// they can draw what the file says, are read.
func TestEndpointsOfOneFileAreOneSource(t *testing.T) {
	file := write(t, "time_s,gpu_index,power_w\n0,0,100\n0,1,200\n0,2,300\n1,1,9000\n")
	endpoints := []power.Endpoint{
		{File: file, GPUIndices: []int{0}}, {File: filepath.Dir(file) + "/./power.csv", GPUIndices: []int{1}, RangeW: [2]float64{10, 1000}},
	}
	sources, err := SourceKind().Open(endpoints, power.Options{})
	if err != nil || sources[0] != sources[1] || sources[0].String() != file || sources[0].Kind() != "file" {
		t.Fatalf("the sources are %v, %v", sources, err)
	}
	report := sources[0].Probe(t.Context())
	if want := map[int]float64{0: 100, 1: 200}; !cmp.Equal(report.PowerW, want) || len(report.Unread) > 0 || report.Err != nil ||
		!slices.Equal(report.Findings, []string{"4 readings of 3 GPUs, 2 of them used, over 2 s"}) {
		t.Errorf("the probe finds %+v", report)
	}
	got, health := play(t, 1500*time.Millisecond, endpoints...)
	if diff := cmp.Diff([]reading{{0, 100, 0}, {1, 200, 0}}, got, cmp.AllowUnexported(reading{})); diff != "" {
		t.Errorf("the readings (-want +got):\n%s", diff)
	}
	if n := health.Counts[1]; n.Name != "implausible_readings" || n.N != 1 {
		t.Errorf("the health is %+v", health)
	}
}

func TestProbeTellsOfAGPUThatCannotBe(t *testing.T) {
	file := write(t, "time_s,gpu_index,power_w\n0,0,5\n")
	sources, err := SourceKind().Open([]power.Endpoint{{File: file, GPUIndices: []int{0}, RangeW: [2]float64{10, 1000}}}, power.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if report := sources[0].Probe(t.Context()); len(report.PowerW) > 0 || report.Unread[0] == nil || !strings.Contains(report.Unread[0].Error(), "power_range_w") {
		t.Errorf("the probe finds %+v", report)
	}
}

func TestBadFiles(t *testing.T) {
	const header = "time_s,gpu_index,power_w\n"
	for text, want := range map[string]string{
		"":                                     ":1: want the columns [time_s gpu_index power_w], got []",
		header:                                 ":2: there is no reading",
		"time_s,gpu,power_w\n0,0,1\n":          `:1: want the columns [time_s gpu_index power_w], got ["time_s" "gpu" "power_w"]`,
		header + "0,0,1\nx,0,1\n":              `:3: time_s is "x", want seconds from 0 to`,
		header + "-1,0,1\n":                    ":2: time_s is",
		header + "NaN,0,1\n":                   ":2: time_s is",
		header + "0,-1,1\n":                    `:2: gpu_index is "-1", want 0 to 65535`,
		header + "0,70000,1\n":                 ":2: gpu_index is",
		"\xff\xfet\x00i\x00":                   ": is text in UTF-16",
		"\x1b\a" + strings.Repeat("x", 60_000): `:1: want the columns [time_s gpu_index power_w], got ["\x1b\axx`,
		header + "0,0,-1\n":                    `:2: power_w is "-1", want a finite number of watts from 0 on`,
		header + "0,0,Inf\n":                   ":2: power_w is",
		header + "0,0,NaN\n":                   ":2: power_w is",
		header + "0,0\n":                       ":2: wrong number of fields",
		header + "1,0,1\n0.5,0,1\n":            ":3: time_s is 0.5, before the row above",
		header + "0,1,1\n0,3,1\n":              ": has no reading of GPU 0; it has those of [1 3]",
		header + "0,0,\"1\n":                   ":2: extraneous or missing",
		"\"time_s\n":                           ":1: ",
	} {
		file := write(t, text)
		_, err := SourceKind().Open([]power.Endpoint{{File: file, GPUIndices: []int{0}}}, power.Options{})
		if err == nil || !strings.HasPrefix(err.Error(), file+want) || len(err.Error()) > len(file)+300 {
			t.Errorf("%.40q: the error is %.300v, want %s%s…", text, err, file, want)
		}
	}
	if _, err := SourceKind().Open([]power.Endpoint{{File: t.TempDir() + "/none", GPUIndices: []int{0}}}, power.Options{}); err == nil {
		t.Error("a file that is not there was opened")
	}
}

// TestByteOrderMarkDoesNoHarm: programs on Windows write one.
func TestByteOrderMarkDoesNoHarm(t *testing.T) {
	sources, err := SourceKind().Open([]power.Endpoint{{File: write(t, "\xef\xbb\xbftime_s,gpu_index,power_w\n0,0,1\n"), GPUIndices: []int{0}}}, power.Options{})
	if err != nil || len(sources) != 1 {
		t.Errorf("%v, %v", sources, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("time_s,gpu_index,power_w\n0,0,100\n1.5,1,2e2\n")
	f.Add("power_w,gpu_index,time_s\n1,2,3\n\"4\",5,6\n")
	f.Fuzz(func(t *testing.T, text string) {
		rows, err := parse(strings.NewReader(text))
		if err != nil {
			return
		}
		if !slices.IsSortedFunc(rows, func(a, b row) int { return int(a.after - b.after) }) || periodOf(rows) < leastPeriod {
			t.Errorf("%q: %v over %v", text, rows, periodOf(rows))
		}
	})
}
