package characterize

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
	"github.com/g2g-agent/g2g-agent/internal/treetest"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/rig"
	"github.com/g2g-agent/g2g-agent/workload"
)

// fakeBench is servers without a network, whose power and latency follow from the batch
// size and the time since that was set.
type fakeBench struct {
	refuses   map[int]bool // batch sizes
	never     map[int]bool // batch sizes that are not achieved
	deaf      int          // so many commands do not reach it
	achieveS  float64      // how long it takes to achieve one
	slopeW    float64      // how fast power rises for ever
	amiss     func(*look)
	onPoint   func()
	batchSize int
	setAt     time.Time
	recordAt  time.Time
	told      []int
	ended     bool
}

func (f *fakeBench) setBatchSize(_ context.Context, batchSize int) (again bool, err error) {
	if f.refuses[batchSize] {
		return false, errors.New("more than --max-num-seqs")
	}
	if f.deaf > 0 {
		f.deaf--
		return true, errors.New("connection refused")
	}
	f.batchSize, f.setAt = batchSize, time.Now()
	f.told = append(f.told, batchSize)
	return false, nil
}

// itl is the latency of a batch size, powerW the power at a time.
func (f *fakeBench) itl() time.Duration { return time.Duration(10+f.batchSize) * time.Millisecond }

func (f *fakeBench) powerW(at time.Time) float64 {
	sinceS := at.Sub(f.setAt).Seconds()
	w := 300 + 10*float64(f.batchSize) + f.slopeW*sinceS
	if sinceS < f.achieveS { // it is still filling up
		w -= 50 * (1 - sinceS/f.achieveS)
	}
	return w
}

func (f *fakeBench) look(since time.Time) look {
	now := time.Now()
	running := float64(f.batchSize)
	if now.Sub(f.setAt).Seconds() < f.achieveS || f.never[f.batchSize] {
		running /= 2
	}
	tokens := uint64(float64(f.batchSize) * now.Sub(f.setAt).Seconds() / f.itl().Seconds())
	l := look{
		at: now, running: []float64{running}, powerW: f.powerW(since.Add(now.Sub(since) / 2)), tokens: tokens, itls: tokens,
		itlSumS: float64(tokens) * f.itl().Seconds(), itlP50S: f.itl().Seconds(), method: loadgen.MethodUsage,
	}
	if f.amiss != nil {
		f.amiss(&l)
	}
	return l
}

func (f *fakeBench) record(context.Context) { f.recordAt = time.Now() }

func (f *fakeBench) take(since time.Time) recording {
	if f.onPoint != nil {
		f.onPoint()
	}
	samples := loadgen.Samples{Share: 1}
	gpus := make([][]reading, 2)
	for at, k := f.recordAt, 0; at.Before(time.Now()); at, k = at.Add(10*time.Millisecond), k+1 {
		// Latencies vary, always in the same way.
		samples.All = append(samples.All, loadgen.Sample{At: at, ITL: f.itl() + time.Duration(k%7)*100*time.Microsecond, Tokens: 1 + k%2})
	}
	for at := since; at.Before(time.Now()); at = at.Add(50 * time.Millisecond) {
		for i := range gpus {
			gpus[i] = append(gpus[i], reading{at, f.powerW(at)})
		}
	}
	return recording{samples: samples, powers: gpus}
}

func (f *fakeBench) forget(time.Time) {}
func (f *fakeBench) end()             { f.ended = true }
func (f *fakeBench) actuator() string { return "fake" }

// fakeConfig measures two models on fake benches.
func fakeConfig(dir string, benches ...*fakeBench) Config {
	cfg := Config{
		Dir: dir, Layout: workload.Layout02, Repeats: 1, Measure: 20 * time.Second, Steady: 10 * time.Second, SettleTimeout: 100 * time.Second,
		Log: zerolog.Nop(), Rig: rig.Config{StaleAfter: 2 * time.Second, PrometheusPollInterval: time.Second},
		bench: func(m int) bench { return benches[m] },
	}
	for m := range benches {
		label := fmt.Sprintf("org/m.%d", m) // no name of a file
		cfg.Models = append(cfg.Models, workload.DataSpec{
			ModelLabel: label, ModelID: label, GPUModel: "H100", Task: "chat", Precision: "bfloat16", GPUsPerReplica: 2,
			TensorParallel: 1, ExpertParallel: 1, BatchSizes: []int{4, 8, 16}, FitExcludeBatchSizes: []int{}, FeasibleBatchSizes: []int{4, 8, 16},
		})
		cfg.Rig.Models = append(cfg.Rig.Models, rig.ModelConfig{Label: label, Servers: []rig.ServerConfig{{GPUs: make([]rig.GPU, 2)}}})
	}
	return cfg
}

func points(files map[string]string) map[string]string {
	all := maps.Clone(files)
	maps.DeleteFunc(all, func(name, _ string) bool { return !strings.HasSuffix(name, ".json.gz") })
	return all
}

// TestResumes: what was on the disk at any moment, as after a kill -9, is gone on from.
// Finished points stay as they are, byte for byte, and the data comes out the same but
// for the time in its manifests.
func TestResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		whole := filepath.Join(t.TempDir(), "whole")
		var moments []string // copies of the directory
		benches := []*fakeBench{{}, {achieveS: 15}}
		for _, b := range benches {
			b.onPoint = func() {
				dir := filepath.Join(t.TempDir(), "copy")
				if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
					t.Error(err)
				}
				moments = append(moments, dir)
			}
		}
		measured, err := Run(t.Context(), fakeConfig(whole, benches...))
		if err != nil {
			t.Fatal(err)
		}
		if len(measured.Points) != 6 || len(moments) != 6 {
			t.Fatalf("%d points, %d moments", len(measured.Points), len(moments))
		}
		want := treetest.Files(t, whole)
		withoutTime := func(files map[string]string) map[string]string {
			data := maps.Clone(files)
			for name, text := range data {
				if strings.Contains(name, "points") || strings.Contains(name, "report") {
					delete(data, name) // settling differs
				}
				if i := strings.Index(text, `"written_utc"`); i >= 0 {
					data[name] = text[:i]
				}
			}
			return data
		}
		for _, dir := range append(moments, whole) {
			before := points(treetest.Files(t, dir))
			again := []*fakeBench{{}, {achieveS: 15}}
			if _, err := Run(t.Context(), fakeConfig(dir, again...)); err != nil {
				t.Fatal(err)
			}
			after := treetest.Files(t, dir)
			for name, raw := range before {
				if after[name] != raw {
					t.Errorf("%s: %s was measured, and changed", dir, name)
				}
			}
			if told := len(again[0].told) + len(again[1].told); told != 6-len(before) {
				t.Errorf("%d points were measured already, and %d batch sizes set", len(before), told)
			}
			if diff := cmp.Diff(withoutTime(want), withoutTime(after)); diff != "" {
				t.Errorf("the data differs (-uninterrupted +resumed):\n%s", diff)
			}
			if len(before) == 6 {
				if diff := cmp.Diff(want, after); diff != "" {
					t.Errorf("with all points there, files change:\n%s", diff)
				}
			}
		}
	})
}

// TestInterrupted: the end of the context keeps what is measured, and writes no data.
func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
		defer cancel()
		measured, err := Run(ctx, fakeConfig(dir, &fakeBench{}))
		if measured == nil || len(measured.Points) != 2 || measured.Written {
			t.Fatalf("%+v, %v", measured, err)
		}
		if err == nil {
			t.Error("an interrupted run is no success")
		}
		files := treetest.Files(t, dir)
		if len(points(files)) != 2 {
			t.Errorf("files %q", slices.Sorted(maps.Keys(files)))
		}
		for name := range files {
			if strings.HasSuffix(name, "trace.csv") || strings.HasSuffix(name, "_manifest.json") {
				t.Errorf("%s looks complete", name)
			}
		}
	})
}

// TestPointsThatCannotBeMeasured are left out, named, and tried again by the next call.
func TestPointsThatCannotBeMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		bad := &fakeBench{refuses: map[int]bool{16: true}, never: map[int]bool{4: true}}
		measured, err := Run(t.Context(), fakeConfig(dir, bad))
		if !errors.Is(err, ErrIncomplete) || len(measured.Points) != 1 || len(measured.Failures) != 2 || measured.Written {
			t.Fatalf("%+v, %v", measured, err)
		}
		for _, part := range []string{"a server runs 2 of 4", "--max-num-seqs", "batch size 16"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("the error is %v, want it to have %q", err, part)
			}
		}
		report := treetest.Files(t, dir)["characterization/report.txt"]
		if !strings.Contains(report, "batch size 4 is left out") {
			t.Errorf("the report is\n%s", report)
		}
		cfg := fakeConfig(dir, &fakeBench{})
		cfg.Models[0].BatchSizes = []int{8}
		if measured, err := Run(t.Context(), cfg); err != nil || !measured.Written {
			t.Errorf("without them: %+v, %v", measured, err)
		}
		if _, err := Run(t.Context(), fakeConfig(dir, &fakeBench{})); !errors.Is(err, datacenter.ErrInvalidInput) {
			t.Errorf("beside the data of other batch sizes: %v", err)
		}
	})
}

// TestServersThatCannotBeAsked just now are told again.
func TestServersThatCannotBeAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBench{deaf: 20}
		measured, err := Run(t.Context(), fakeConfig(t.TempDir(), b))
		if err != nil || len(measured.Points) != 3 {
			t.Errorf("%+v, %v", measured, err)
		}
	})
}

// TestWhatIsNeverSteady is measured when the time is up, and the report says so.
func TestWhatIsNeverSteady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := fakeConfig(t.TempDir(), &fakeBench{slopeW: 2})
		cfg.Models[0].BatchSizes = []int{8}
		measured, err := Run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		r := measured.Report().Points[0]
		if r.Settled || r.Steady || r.SettleS < 100 || r.PowerDrift == nil || *r.PowerDrift < 0.01 {
			t.Errorf("%+v", r)
		}
	})
}

// TestOutagesAreCutOut: a minute in which one thing after another is amiss does not
// show in what was measured.
func TestOutagesAreCutOut(t *testing.T) {
	for name, c := range map[string]struct {
		cause string
		amiss func(*look)
	}{
		"stale":   {"power stale", func(l *look) { l.powerAge, l.powerErr = 5*time.Second, "no answer" }},
		"silent":  {"server silent", func(l *look) { l.silent = "http://x" }},
		"running": {"batch size not achieved", func(l *look) { l.running[0] = 1 }},
		"unknown": {"batch size not achieved", func(l *look) { l.running[0] = math.NaN() }},
		"slow":    {"latency out of line", func(l *look) { l.itlP50S *= 3 }},
		"failed":  {"requests failed", func(l *look) { l.failed += uint64(l.at.UnixNano()) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &fakeBench{}
				began := time.Now()
				b.amiss = func(l *look) {
					if s := l.at.Sub(began).Seconds(); s > 20.5 && s < 25.5 {
						c.amiss(l)
					}
				}
				cfg := fakeConfig(t.TempDir(), b)
				cfg.Models[0].BatchSizes = []int{8}
				measured, err := Run(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				r := measured.Report().Points[0]
				if r.Gaps != 1 || r.GapsSByCause[c.cause] < 7 || r.GapsSByCause[c.cause] > 14 || r.MeasuredS < 20 || !r.Steady {
					t.Errorf("%+v", r)
				}
				if (c.cause == causeStale) != (r.StaleS > 0) {
					t.Errorf("stale for %v s", r.StaleS)
				}
				if want := 2 * b.powerW(time.Now()); math.Abs(r.PowerW/want-1) > 1e-9 {
					t.Errorf("power %v, want %v", r.PowerW, want)
				}
			})
		})
	}
}

// TestForeignAndDamagedPoints are refused with a word about which file it is.
func TestForeignAndDamagedPoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		if _, err := Run(t.Context(), fakeConfig(dir, &fakeBench{})); err != nil {
			t.Fatal(err)
		}
		cfg := fakeConfig(dir, &fakeBench{})
		cfg.Measure = 30 * time.Second
		_, err := Run(t.Context(), cfg)
		if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "measure_s 20, wanted is 30") {
			t.Errorf("of another time to measure: %v", err)
		}
		file := filepath.Join(dir, "characterization", "points", "org%2Fm%2E0", "batch_8_repeat_0.json.gz")
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for name, damaged := range map[string][]byte{"cut": raw[:len(raw)/2], "empty": {}, "flipped": slices.Concat(raw[:len(raw)-6], []byte{raw[len(raw)-6] ^ 1}, raw[len(raw)-5:])} {
			if err := os.WriteFile(file, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Run(t.Context(), fakeConfig(dir, &fakeBench{})); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), file) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestOneAtATime: two characterizations do not write to the same directory.
func TestOneAtATime(t *testing.T) {
	dir := t.TempDir()
	s, err := openStore(dir, atomicfile.Lock)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if _, err := Run(t.Context(), fakeConfig(dir, &fakeBench{})); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "another characterization") {
		t.Errorf("%v", err)
	}
}

// TestRepeats: the trace is the median of the repeats.
func TestRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBench{}
		cfg := fakeConfig(t.TempDir(), b)
		cfg.Repeats = 3
		if measured, err := Run(t.Context(), cfg); err != nil || len(measured.Points) != 9 {
			t.Fatalf("%+v, %v", measured, err)
		}
		if diff := cmp.Diff([]int{4, 8, 16, 4, 8, 16, 4, 8, 16}, b.told); diff != "" {
			t.Errorf("batch sizes set (-want +got):\n%s", diff)
		}
		data, err := workload.LoadInferenceData(cfg.Dir, []workload.DataQuery{{ModelLabel: "org/m.0", GPUsPerReplica: 2}}, true)
		if err != nil {
			t.Fatal(err)
		}
		if got := data.Models[0].Traces[8].PowerW[0]; got != 760 {
			t.Errorf("power %v, want 760", got)
		}
	})
}

// TestExcludedFromTheCurves: such batch sizes have traces and latencies, and no part in
// the curves.
func TestExcludedFromTheCurves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := fakeConfig(t.TempDir(), &fakeBench{})
		cfg.Models[0].FitExcludeBatchSizes = []int{4}
		called := false
		cfg.OnData = func(d *Data) error {
			called = true
			want, _ := workload.FitLogistic([]int{8, 16}, []float64{d.Models[0].Observed.Points[1].PowerW, d.Models[0].Observed.Points[2].PowerW})
			if got := d.Models[0].Logistic.PowerW; got != want {
				t.Errorf("the curve is %+v, want %+v", got, want)
			}
			if o := d.Models[0].Observed; len(o.Points) != 3 || !o.Points[0].NotInFit || o.Points[1].NotInFit || len(o.ITL) != 3 {
				t.Errorf("what is drawn is %+v, %d histograms", o.Points, len(o.ITL))
			}
			if len(d.Models[0].Traces) != 3 || len(d.Models[0].ITL) != 3 {
				t.Errorf("%d traces, %d fits", len(d.Models[0].Traces), len(d.Models[0].ITL))
			}
			return nil
		}
		if _, err := Run(t.Context(), cfg); err != nil || !called {
			t.Errorf("%v, called: %v", err, called)
		}
	})
}
