package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/mlenergy"
	"github.com/g2g-agent/g2g-agent/plots"
	"github.com/g2g-agent/g2g-agent/workload"
)

// inferenceDataCmd makes what OpenG2G's InferenceData.ensure and
// LogisticModelStore.ensure do.
type inferenceDataCmd struct {
	Data      string   `placeholder:"DIR" help:"Compiled ML.ENERGY benchmark directory: it has runs/llm.parquet. Default: what is needed of ml-energy/benchmark-v3 on the Hugging Face hub."`
	Revision  string   `placeholder:"NAME" help:"Branch, tag or commit of the hub's data set. Default: main."`
	Specs     string   `required:"" placeholder:"FILE" help:"What to make: a config, of which the models count, or a list of OpenG2G's model specs (JSON or YAML)."`
	Out       string   `required:"" placeholder:"DIR" help:"OpenG2G data directory to write. What is there and complete stays."`
	Layout    string   `default:"0.2" enum:"0.2,0.1" help:"Layout of the directory: OpenG2G 0.2's, or 0.1's."`
	Model     []string `sep:"none" placeholder:"LABEL" help:"Only these models. May be given several times."`
	BatchSize []int    `placeholder:"N" help:"Only these batch sizes. The folder in layout 0.2 is then that of a spec with these alone."`
	Plots     string   `default:"none" enum:"png,svg,none" help:"Plots of the data, in its folder plots: png, svg, or none."`
	Force     bool     `help:"Make anew what is there."`
}

func (cmd inferenceDataCmd) Run(ctx context.Context, term terminal) error {
	specs, err := loadSpecs(ctx, term, cmd.Specs)
	if err != nil {
		return err
	}
	line := newStatusLine(term.stderr)
	defer line.clear()
	log := line.logger()
	warn := func(w string) { log.Warn().Msg(w) }
	if specs, err = cmd.filter(specs, warn); err != nil {
		return err
	}
	source, end, err := cmd.openBenchmark(term.environ, line)
	if err != nil {
		return err
	}
	defer end()
	generator := mlenergy.Generator{Source: source, Progress: countProgress(line, "runs")}
	to := mlenergy.Destination{
		Dir: cmd.Out, Layout: workload.Layout(cmd.Layout), Force: cmd.Force,
		Write: workload.WriteOptions{WrittenAt: time.Now(), AgentVersion: programVersion()},
	}
	done, err := generator.Ensure(ctx, to, specs, warn)
	line.clear()
	var download *interruptedDownload
	if ctx.Err() != nil && err != nil && !errors.As(err, &download) {
		return errors.New("interrupted; what is complete was kept, and the same command goes on with the rest")
	}
	if err != nil {
		return err
	}
	if err := cmd.print(term.stdout, to, specs, done); err != nil || cmd.Plots == noPlots {
		return err
	}
	models, remarks, err := plots.Load(cmd.Out, nil, true)
	if err != nil {
		return fmt.Errorf("the data is written, and its plots are not: %w", err)
	}
	for _, w := range remarks {
		warn(w)
	}
	return dataPlots{cmd.Plots, log}.write(ctx, cmd.Out, models)
}

// benchmark is the data set of the hub that OpenG2G takes.
const benchmark = "ml-energy/benchmark-v3"

// openBenchmark is where the benchmark's files come from, until end is called.
func (cmd inferenceDataCmd) openBenchmark(environ []string, line *statusLine) (source mlenergy.Source, end func(), err error) {
	if cmd.Data == "" {
		data, err := openHub(environ, line, benchmark, cmd.Revision)
		if err != nil {
			return nil, nil, err
		}
		return data, data.close, nil
	}
	if cmd.Revision != "" {
		return nil, nil, invalidf("--revision is one of the hub's data set: want either it or --data")
	}
	info, err := os.Stat(cmd.Data)
	if err != nil {
		return nil, nil, invalidf("--data: %w", err)
	}
	if !info.IsDir() {
		return nil, nil, invalidf("--data: %s is not a directory", cmd.Data)
	}
	return mlenergy.Directory(cmd.Data), func() {}, nil
}

// print tells where the data of each model is.
func (cmd inferenceDataCmd) print(w io.Writer, to mlenergy.Destination, specs []workload.DataSpec, done *mlenergy.Report) error {
	var text strings.Builder
	for i := range specs {
		what := "written"
		if slices.Contains(done.Present, specs[i].ModelLabel) {
			what = "was there"
		}
		fmt.Fprintf(&text, "%s: %s (%s)\n", excerpt.Printable(specs[i].ModelLabel, maxQuoted), to.Path(&specs[i]), what)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// filter leaves the models and batch sizes that were chosen.
func (cmd inferenceDataCmd) filter(specs []workload.DataSpec, warn func(string)) ([]workload.DataSpec, error) {
	var kept []workload.DataSpec
	knownSizes := map[int]bool{}
	var labels []string
	for _, s := range specs {
		labels = append(labels, excerpt.Quote(s.ModelLabel, maxQuoted))
		for _, b := range s.BatchSizes {
			knownSizes[b] = true
		}
		if len(cmd.Model) > 0 && !slices.Contains(cmd.Model, s.ModelLabel) {
			continue
		}
		if len(cmd.BatchSize) > 0 {
			s.BatchSizes = slices.DeleteFunc(slices.Clone(s.BatchSizes), func(b int) bool { return !slices.Contains(cmd.BatchSize, b) })
			limitToBatchSizes(&s)
		}
		if len(s.BatchSizes) == 0 {
			warn(fmt.Sprintf("model %s has none of the batch sizes %v: it is left out", excerpt.Quote(s.ModelLabel, maxQuoted), cmd.BatchSize))
			continue
		}
		kept = append(kept, s)
	}
	for _, label := range cmd.Model {
		if !slices.ContainsFunc(specs, func(s workload.DataSpec) bool { return s.ModelLabel == label }) {
			return nil, invalidf("--model: %s is not among the models of %s: %s", excerpt.Quote(label, maxQuoted), config.DisplayName(cmd.Specs), strings.Join(labels, ", "))
		}
	}
	for _, b := range cmd.BatchSize {
		if !knownSizes[b] {
			return nil, invalidf("--batch-size: no model of %s has batch size %d", config.DisplayName(cmd.Specs), b)
		}
	}
	if len(kept) == 0 {
		return nil, invalidf("no model of %s is left", config.DisplayName(cmd.Specs))
	}
	return kept, nil
}

// loadSpecs reads what is to be made from a config, or from a list of OpenG2G's specs.
func loadSpecs(ctx context.Context, term terminal, name string) ([]workload.DataSpec, error) {
	file, err := readConfig(ctx, term, name)
	if err != nil {
		return nil, err
	}
	c, err := file.LoadSpecs(term.environ)
	if err != nil {
		return nil, err
	}
	var specs []workload.DataSpec
	var problems []error
	for i := range c.Models {
		spec, problem := dataSpec(&c.Models[i], fmt.Sprintf("%s: models[%d]", file.Name(), i))
		specs, problems = append(specs, spec), append(problems, problem)
	}
	return specs, errors.Join(problems...)
}

// dataSpec is the measurement that a model of a config stands for, and what keeps it
// from being taken from the benchmark.
func dataSpec(m *config.Model, path string) (workload.DataSpec, error) {
	s := dataSpecOf(m, nil, "", "")
	var problems []error
	for _, key := range []struct{ name, value string }{{"model_id", s.ModelID}, {"gpu_model", s.GPUModel}, {"task", s.Task}} {
		if key.value == "" {
			problems = append(problems, invalidf("%s.%s: is missing: it says which runs of the benchmark to take", path, key.name))
		}
	}
	for _, b := range s.FeasibleBatchSizes {
		if !slices.Contains(s.BatchSizes, b) {
			problems = append(problems, invalidf("%s.feasible_batch_sizes: %d must be in batch_sizes %v", path, b, s.BatchSizes))
		}
	}
	if m.SpecHash != "" && len(problems) == 0 && filepath.Base(m.SpecHash) != s.Hash() {
		problems = append(problems, invalidf("%s.spec_hash: is %s, and this spec's is %s: what is made would not be found", path, excerpt.Quote(m.SpecHash, maxQuoted), s.Hash()))
	}
	return s, errors.Join(problems...)
}

// countProgress shows how many of something are done. How long the first ones took is
// not known: time is taken from the first call on.
func countProgress(line *statusLine, what string) func(done, total int) {
	var began time.Time
	first := 0
	return func(done, total int) {
		if began.IsZero() {
			began, first = time.Now(), done
		}
		line.show(func(now time.Time) string {
			text := fmt.Sprintf("%d/%d %s (%d %%)", done, total, what, 100*done/total)
			if done > first {
				left := time.Duration(float64(now.Sub(began)) / float64(done-first) * float64(total-done))
				text += fmt.Sprintf("  %s left", left.Round(time.Second))
			}
			return text
		})
	}
}
