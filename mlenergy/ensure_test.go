package mlenergy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/treetest"
	"github.com/g2g-agent/g2g-agent/workload"
)

// counted is a source that counts what is asked of it.
type counted struct {
	Directory
	files []string
}

func (c *counted) Fetch(ctx context.Context, files []string) (string, error) {
	c.files = append(c.files, files...)
	return c.Directory.Fetch(ctx, files)
}

// TestEnsureUsesWhatIsThere makes the same data again and again. It is long because each
// step spoils what the one before left.
func TestEnsureUsesWhatIsThere(t *testing.T) {
	specs := specsOf(t, "one_task")
	dir := t.TempDir()
	to := Destination{Dir: dir, Layout: workload.Layout02, Write: goldenOptions()}
	source := &counted{Directory: compiled}
	var told []int
	g := Generator{Source: source, Workers: 3, Progress: func(done, total int) {
		if told = append(told, done); total != 12 {
			t.Errorf("%d of %d runs", done, total)
		}
	}}
	var warnings []string
	run := func(specs []workload.DataSpec) *Report {
		t.Helper()
		warnings, source.files, told = nil, nil, nil
		report, err := g.Ensure(t.Context(), to, specs, func(w string) { warnings = append(warnings, w) })
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	both := []string{specs[0].ModelLabel, specs[1].ModelLabel}

	report := run(specs)
	if !slices.Equal(report.Written, both) || len(report.Present) > 0 || len(told) != 12 || told[11] != 12 {
		t.Errorf("at first: %+v, progress %v", report, told)
	}
	if source.files[0] != runsFile || len(source.files) != 13 {
		t.Errorf("asked for %q", source.files)
	}
	first := treetest.Files(t, dir)

	if report := run(specs); !slices.Equal(report.Present, both) || len(report.Written) > 0 || len(source.files) > 0 || len(warnings) > 0 {
		t.Errorf("with all there: %+v, asked for %q, warned %q", report, source.files, warnings)
	}

	// Only the curves are missing: only they are made, of the table alone.
	folder := filepath.Join(dir, specs[0].Hash())
	curves := filepath.Join(folder, "logistic_fit.json")
	if err := os.Remove(curves); err != nil {
		t.Fatal(err)
	}
	if report := run(specs); len(report.Written) > 0 || !slices.Equal(source.files, []string{runsFile}) {
		t.Errorf("without curves: %+v, asked for %q", report, source.files)
	}
	if diff := cmp.Diff(first, treetest.Files(t, dir)); diff != "" {
		t.Errorf("without curves (-before +after):\n%s", diff)
	}

	// Without its manifest a measurement is incomplete, and no other is made anew.
	manifest := filepath.Join(folder, "_manifest.json")
	for _, spoil := range []func() error{
		func() error { return os.Remove(manifest) },
		func() error { return os.WriteFile(manifest, []byte("{"), 0o644) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		source.files = nil
		g.Progress = nil
		if report := run(specs); !slices.Equal(report.Written, both[:1]) || !slices.Equal(report.Present, both[1:]) {
			t.Errorf("without a manifest: %+v", report)
		}
		if diff := cmp.Diff(first, treetest.Files(t, dir)); diff != "" {
			t.Errorf("without a manifest (-before +after):\n%s", diff)
		}
	}

	// Another version's is used, with a warning, unless it is to be made anew.
	other := strings.Replace(first[specs[0].Hash()+"/_manifest.json"], "0.2.0.post1", "0.2.7", 1)
	if err := os.WriteFile(manifest, []byte(other), 0o644); err != nil {
		t.Fatal(err)
	}
	if report := run(specs); len(report.Written) > 0 || len(warnings) != 1 || !strings.Contains(warnings[0], `made by openg2g "0.2.7"`) || !strings.Contains(warnings[0], manifest) {
		t.Errorf("another version's: %+v, warned %q", report, warnings)
	}
	to.Force = true
	if report := run(specs); !slices.Equal(report.Written, both) {
		t.Errorf("anew: %+v", report)
	}
	if diff := cmp.Diff(first, treetest.Files(t, dir)); diff != "" {
		t.Errorf("anew (-before +after):\n%s", diff)
	}
}

func TestEnsureInLayout01(t *testing.T) {
	specs := specsOf(t, "one_task")
	to := Destination{Dir: t.TempDir(), Layout: workload.Layout01}
	if report, _ := ensure(t, to, specs[:1]); len(report.Written) != 1 {
		t.Errorf("at first: %+v", report)
	}
	if report, _ := ensure(t, to, specs[:1]); len(report.Present) != 1 {
		t.Errorf("with all there: %+v", report)
	}
	g := Generator{Source: Directory(compiled)}
	if _, err := g.Ensure(t.Context(), to, specs, func(string) {}); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "replaced whole") {
		t.Errorf("for more models than are there: %v", err)
	}
	to.Force = true
	if report, _ := ensure(t, to, specs); len(report.Written) != 2 {
		t.Errorf("anew: %+v", report)
	}
	if err := os.Remove(filepath.Join(to.Dir, "_manifest.json")); err != nil {
		t.Fatal(err)
	}
	to.Force = false
	if report, _ := ensure(t, to, specs[:1]); len(report.Written) != 1 {
		t.Errorf("without a manifest: %+v", report)
	}
}

// What was made of some batch sizes is not taken for what is made of all, unless the
// benchmark has no others.
func TestEnsureInLayout01WantsAllBatchSizes(t *testing.T) {
	specs := specsOf(t, "one_task")[:1]
	all := specs[0].BatchSizes
	to := Destination{Dir: t.TempDir(), Layout: workload.Layout01}
	less := slices.Clone(specs)
	less[0].BatchSizes = all[:1]
	ensure(t, to, less)
	before := treetest.Files(t, to.Dir)
	g := Generator{Source: Directory(compiled)}
	_, err := g.Ensure(t.Context(), to, specs, func(string) {})
	if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), fmt.Sprintf("has nothing of model %q at batch sizes %v", specs[0].ModelLabel, all[1:])) ||
		!strings.Contains(err.Error(), to.Dir) || !strings.Contains(err.Error(), "replaced whole") {
		t.Errorf("for all batch sizes: %v", err)
	}
	if diff := cmp.Diff(before, treetest.Files(t, to.Dir)); diff != "" {
		t.Errorf("what was there has changed:\n%s", diff)
	}
	less[0].BatchSizes = []int{all[0], 1999} // which the benchmark does not have
	if report, _ := ensure(t, to, less); len(report.Present) != 1 {
		t.Errorf("for what the benchmark has not: %+v", report)
	}
	to.Force = true
	if report, _ := ensure(t, to, specs); len(report.Written) != 1 {
		t.Errorf("anew: %+v", report)
	}
}

// A directory that has its measurements in its folder specs gets others there, too:
// what is beside that folder hides it.
func TestEnsureBelowSpecs(t *testing.T) {
	specs := specsOf(t, "one_task")
	dir := t.TempDir()
	below := filepath.Join(dir, "specs")
	ensure(t, Destination{Dir: below, Layout: workload.Layout02, Write: goldenOptions()}, specs[:1])
	to := Destination{Dir: dir, Layout: workload.Layout02, Write: goldenOptions()}
	report, _ := ensure(t, to, specs)
	if !slices.Equal(report.Present, []string{specs[0].ModelLabel}) || !slices.Equal(report.Written, []string{specs[1].ModelLabel}) {
		t.Errorf("%+v", report)
	}
	for i := range specs {
		if got, want := to.Path(&specs[i]), filepath.Join(below, specs[i].Hash()); got != want {
			t.Errorf("the data is said to be in %s, want %s", got, want)
		}
	}
	if queries, err := workload.ListModels(dir); err != nil || len(queries) != 2 {
		t.Errorf("readers find %v, %v", queries, err)
	}
}

// Where nothing can be written, the benchmark is not read first.
func TestEnsureChecksWhereItWrites(t *testing.T) {
	specs := specsOf(t, "one_task")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, layout := range []workload.Layout{workload.Layout01, workload.Layout02} {
		source := &counted{Directory: compiled}
		g := Generator{Source: source}
		_, err := g.Ensure(t.Context(), Destination{Dir: file, Layout: layout}, specs, func(string) {})
		if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), file) || len(source.files) > 0 {
			t.Errorf("layout %s: %v; asked for %q", layout, err, source.files)
		}
	}
}

func TestEnsureRefuses(t *testing.T) {
	specs := specsOf(t, "other_task")
	g := Generator{Source: Directory(compiled)}
	dir := t.TempDir()
	ensure(t, Destination{Dir: dir, Layout: workload.Layout01}, specs)
	before := treetest.Files(t, dir)
	if _, err := g.Ensure(t.Context(), Destination{Dir: dir, Layout: workload.Layout02, Force: true}, specs, func(string) {}); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "layout 0.1") {
		t.Errorf("one layout into the other: %v", err)
	}
	if diff := cmp.Diff(before, treetest.Files(t, dir)); diff != "" {
		t.Errorf("what was there has changed:\n%s", diff)
	}
	specs[0].Task = ""
	if _, err := g.Ensure(t.Context(), Destination{Dir: t.TempDir(), Layout: workload.Layout02}, specs, func(string) {}); !errors.Is(err, datacenter.ErrInvalidInput) {
		t.Errorf("a spec without a task: %v", err)
	}
}

// The data does not depend on how many files are read at once.
func TestWorkersDoNotMatter(t *testing.T) {
	specs := append(specsOf(t, "one_task"), specsOf(t, "other_task")...)
	var first map[string]string
	for _, workers := range []int{1, 2, 16} {
		dir := t.TempDir()
		g := Generator{Source: Directory(compiled), Workers: workers}
		if _, err := g.Ensure(t.Context(), Destination{Dir: dir, Layout: workload.Layout02, Write: goldenOptions()}, specs, func(string) {}); err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = treetest.Files(t, dir)
		} else if diff := cmp.Diff(first, treetest.Files(t, dir)); diff != "" {
			t.Errorf("with %d workers:\n%s", workers, diff)
		}
	}
}
