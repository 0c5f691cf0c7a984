package characterize

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
	"github.com/g2g-agent/g2g-agent/internal/treetest"
	"github.com/g2g-agent/g2g-agent/power"
	"github.com/g2g-agent/g2g-agent/workload"
)

// only leaves one model of a config.
func only(cfg Config, model int) Config {
	if benchOf := cfg.bench; benchOf != nil {
		cfg.bench = func(int) bench { return benchOf(model) }
	}
	cfg.Models = cfg.Models[model : model+1]
	cfg.Rig.Models = cfg.Rig.Models[model : model+1]
	return cfg
}

// TestOneTableLosesNothing: in layout 0.1 the data is written anew, so a call that does
// not name all that is there is refused before anything is measured, and one that does
// measures only what is new.
func TestOneTableLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		config := func(benches ...*fakeBench) Config {
			cfg := fakeConfig(dir, benches...)
			cfg.Layout = workload.Layout01
			return cfg
		}
		if _, err := Run(t.Context(), only(config(&fakeBench{}, &fakeBench{}), 0)); err != nil {
			t.Fatal(err)
		}
		before := treetest.Files(t, dir)
		untouched := &fakeBench{}
		_, err := Run(t.Context(), only(config(untouched, untouched), 1))
		if want := `model "org/m.0" at [4 8 16]`; !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), want) {
			t.Errorf("the other model alone: %v, want it to name %s", err, want)
		}
		fewer := config(untouched, untouched)
		fewer.Models[0].BatchSizes = []int{4, 8}
		if _, err := Run(t.Context(), fewer); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "at [16]") {
			t.Errorf("without a batch size that is there: %v", err)
		}
		if len(untouched.told) > 0 {
			t.Errorf("%d batch sizes were set before it was refused", len(untouched.told))
		}
		if diff := cmp.Diff(before, treetest.Files(t, dir)); diff != "" {
			t.Errorf("files change (-before +after):\n%s", diff)
		}
		first, second := &fakeBench{}, &fakeBench{}
		if _, err := Run(t.Context(), config(first, second)); err != nil {
			t.Fatal(err)
		}
		if len(first.told) > 0 || len(second.told) != 3 {
			t.Errorf("set were %v of what was there, %v of what is new", first.told, second.told)
		}
		queries, err := workload.ListModels(dir)
		if err != nil || len(queries) != 2 {
			t.Errorf("%+v, %v", queries, err)
		}
	})
}

// TestDirectoriesOfOthers are refused without a trace.
func TestDirectoriesOfOthers(t *testing.T) {
	for name, c := range map[string]struct {
		layout workload.Layout
		file   string
	}{
		"0.1 where 0.2 is":                {workload.Layout01, "0123456789abcdef/trace.csv"},
		"0.1 where 0.2 is in specs":       {workload.Layout01, "specs/0123456789abcdef/trace.csv"},
		"0.2 where 0.1 is":                {workload.Layout02, "traces_summary.csv"},
		"0.2 beside 0.2 in a folder":      {workload.Layout02, "specs/0123456789abcdef/trace.csv"},
		"0.1 where a table is damaged":    {workload.Layout01, "traces_summary.csv"},
		"0.2 where a manifest is damaged": {workload.Layout02, "0123456789abcdef/_manifest.json"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				file := filepath.Join(dir, filepath.FromSlash(c.file))
				if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
					t.Fatal(err)
				}
				for _, f := range []string{file, filepath.Join(filepath.Dir(file), "trace.csv")} {
					if filepath.Dir(f) == dir && f != file {
						continue
					}
					if err := os.WriteFile(f, []byte("?"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				before := treetest.Files(t, dir)
				cfg := fakeConfig(dir, &fakeBench{})
				cfg.Layout = c.layout
				if _, err := Run(t.Context(), cfg); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), dir) {
					t.Errorf("%v", err)
				}
				if diff := cmp.Diff(before, treetest.Files(t, dir)); diff != "" {
					t.Errorf("files change (-before +after):\n%s", diff)
				}
				if _, err := os.Stat(filepath.Join(dir, characterizationFolder)); err == nil {
					t.Error("it left a folder behind")
				}
			})
		})
	}
}

// TestPointsOfOtherHardwareOrLoad are not taken up: a resume under another name, on
// other servers or with other questions says what differs, and what to do.
func TestPointsOfOtherHardwareOrLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		base := func() Config {
			cfg := fakeConfig(dir, &fakeBench{})
			cfg.Rig.MaxOutputTokens = 100
			cfg.Rig.Models[0].Servers[0].VLLMBaseURL = "http://a:8000"
			return cfg
		}
		if _, err := Run(t.Context(), base()); err != nil {
			t.Fatal(err)
		}
		for want, change := range map[string]func(*Config){
			"gpu_model H100, wanted is B200":                               func(c *Config) { c.Models[0].GPUModel = "B200" },
			"task chat, wanted is gpqa":                                    func(c *Config) { c.Models[0].Task = "gpqa" },
			"precision bfloat16, wanted is fp8":                            func(c *Config) { c.Models[0].Precision = "fp8" },
			"tensor_parallel 1, wanted is 2":                               func(c *Config) { c.Models[0].TensorParallel = 2 },
			"expert_parallel 1, wanted is 2":                               func(c *Config) { c.Models[0].ExpertParallel = 2 },
			"servers http://a:8000 (), wanted is http://b:8000 ()":         func(c *Config) { c.Rig.Models[0].Servers[0].VLLMBaseURL = "http://b:8000" },
			"max_output_tokens 100, wanted is 200":                         func(c *Config) { c.Rig.MaxOutputTokens = 200 },
			"what the servers are asked":                                   func(c *Config) { c.Rig.MinimalRequestText = "?" },
			"(requests, minimal requests, request_extra_body): SHA-256":    func(c *Config) { c.Rig.Models[0].Servers[0].RequestExtraBody = map[string]any{"top_k": 1} },
			"ask for the same, write to another directory, or remove the ": func(c *Config) { c.Models[0].Task = "x" },
		} {
			cfg := base()
			cfg.OnData = func(*Data) error { t.Errorf("%s: data is written", want); return nil }
			change(&cfg)
			// Where it makes another folder in layout 0.2, that alone would be refused.
			cfg.Layout = workload.Layout02
			for _, e := range folders(t, dir) {
				if err := os.RemoveAll(e); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := Run(t.Context(), cfg); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), want) {
				t.Errorf("want %q: %v", want, err)
			}
		}
	})
}

// folders are the measurements of a data directory.
func folders(t *testing.T, dir string) []string {
	t.Helper()
	held, err := workload.ListHeld(dir, workload.Layout02)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, h := range held {
		all = append(all, h.Dir)
	}
	return all
}

// TestLockThatFails: where a file system has no locks, that is said.
func TestLockThatFails(t *testing.T) {
	dir := t.TempDir()
	_, err := openStore(dir, func(*os.File) error { return fmt.Errorf("flock: %w", syscall.ENOLCK) })
	if !errors.Is(err, datacenter.ErrInvalidInput) || !errors.Is(err, syscall.ENOLCK) || !strings.Contains(err.Error(), "a disk that has locks") {
		t.Errorf("%v", err)
	}
	s, err := openStore(dir, atomicfile.Lock)
	if err != nil {
		t.Fatal(err)
	}
	s.close()
}

// TestReportIsNotComplete while the data cannot be written.
func TestReportIsNotComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		cfg := fakeConfig(dir, &fakeBench{})
		folder := filepath.Join(dir, cfg.Models[0].Hash())
		if err := os.WriteFile(folder, nil, 0o600); err != nil { // in the place of its folder
			t.Fatal(err)
		}
		measured, err := Run(t.Context(), cfg)
		if err == nil || measured == nil || measured.Written {
			t.Fatalf("%+v, %v", measured, err)
		}
		if report := treetest.Files(t, dir)["characterization/report.json"]; !strings.Contains(report, `"complete": false`) {
			t.Errorf("the report is\n%s", report)
		}
		if err := os.Remove(folder); err != nil {
			t.Fatal(err)
		}
		if _, err := Run(t.Context(), fakeConfig(dir, &fakeBench{})); err != nil {
			t.Fatal(err)
		}
		if report := treetest.Files(t, dir)["characterization/report.json"]; !strings.Contains(report, `"complete": true`) {
			t.Errorf("the report is\n%s", report)
		}
	})
}

// TestFinishedModelsKeepNothing: while another model measures on, readings of one that is
// done do not pile up.
func TestFinishedModelsKeepNothing(t *testing.T) {
	c := newCourses(2)
	h := &hardware{courses: c}
	c.add(0, power.Reading{At: time.Unix(1, 0), PowerW: 100})
	h.end()
	for i := range 1000 {
		c.add(i%2, power.Reading{At: time.Unix(int64(i), 0), PowerW: 100})
	}
	for i, course := range c.since(time.Unix(0, 0)) {
		if len(course) > 0 {
			t.Errorf("GPU %d has %d readings still", i, len(course))
		}
	}
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBench{}
		if _, err := Run(t.Context(), fakeConfig(t.TempDir(), b)); err != nil || !b.ended {
			t.Errorf("%v; the bench of a model that is done is ended: %v", err, b.ended)
		}
	})
}
