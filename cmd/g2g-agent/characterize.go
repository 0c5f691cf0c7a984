package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/characterize"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/workload"
)

type characterizeCmd struct {
	Config         string   `required:"" placeholder:"FILE" help:"Config of a live run: its models and their servers."`
	Out            string   `required:"" placeholder:"DIR" help:"Data directory to write. What is measured is kept there at once, and the same call goes on from where it was cut off."`
	Model          []string `sep:"none" placeholder:"LABEL" help:"Measure only these models. May be given several times."`
	BatchSize      []int    `placeholder:"N" help:"Measure only these of the feasible batch sizes. May be given several times."`
	MeasureS       float64  `default:"60" help:"Seconds that each point is measured, 4 or more; time in which something is amiss does not count."`
	SteadyS        float64  `default:"10" help:"Seconds for which power and latency must be steady before, 4 or more."`
	SettleTimeoutS float64  `default:"300" help:"Seconds for a batch size to be achieved and all to be steady."`
	Repeats        int      `default:"1" help:"How often each batch size is measured, at most 1000."`
	Layout         string   `default:"0.2" enum:"0.1,0.2" help:"OpenG2G's layout of the directory."`
	Plots          string   `default:"png" enum:"png,svg,none" help:"Plots beside the data, in its folder plots: png, svg, or none."`
	GPUModel       string   `name:"gpu-model" placeholder:"NAME" help:"The GPUs' model in the data; without it, the config's gpu_model, else unknown."`
	Task           string   `placeholder:"NAME" help:"What the servers are asked, in the data; without it, the config's task, else lm-arena-chat."`
}

// What data says of measurements whose config says nothing, as far as OpenG2G has
// defaults.
const (
	defaultTask     = "lm-arena-chat"
	defaultGPUModel = "unknown"
)

func (cmd characterizeCmd) Run(ctx context.Context, term terminal) error {
	// As in a live run, the end of standard output must not keep the servers from being
	// restored.
	signal.Ignore(syscall.SIGPIPE)
	c, err := loadConfig(ctx, term, cmd.Config, config.ForLive)
	if err != nil {
		return err
	}
	if c.Models, err = cmd.choose(c.Models); err != nil {
		return fmt.Errorf("%s: %w", config.DisplayName(cmd.Config), err)
	}
	line := newProgressLine(term.stderr)
	log := line.log(c.Log)
	defer line.end()
	defer log.end()
	cfg, err := cmd.setUp(c, term, log)
	if err != nil {
		return fmt.Errorf("%s: %w", config.DisplayName(cmd.Config), err)
	}
	cfg.OnProgress = line.update
	if cmd.Plots != noPlots {
		pictures := dataPlots{cmd.Plots, log.Logger}
		cfg.OnData = func(d *characterize.Data) error { return pictures.write(ctx, d.Dir, modelsOf(d.Models)) }
	}
	c.API.Listen = "" // there is none
	warnOfFileLimit(log.Logger, filesNeeded(c, true))
	measured, err := characterize.Run(ctx, cfg)
	log.end()
	line.end()
	if measured == nil || len(measured.Points) == 0 {
		return err
	}
	var text strings.Builder
	if writeErr := measured.Report().WriteText(&text); writeErr != nil {
		return writeErr
	}
	if measured.Written {
		fmt.Fprintf(&text, "written: %s\n", cmd.Out)
	}
	if tellErr := tell(term.stdout, text.String()); err == nil {
		err = tellErr
	}
	return err
}

// setUp prepares the measurement; no server is contacted.
func (cmd characterizeCmd) setUp(c *config.Config, term terminal, log liveLog) (characterize.Config, error) {
	cfg := characterize.Config{
		Dir: cmd.Out, Layout: workload.Layout(cmd.Layout), AgentVersion: programVersion(),
		Repeats: cmd.Repeats, Log: log.Logger,
	}
	for _, f := range []struct {
		flag    string
		seconds float64
		to      *time.Duration
	}{{"measure-s", cmd.MeasureS, &cfg.Measure}, {"steady-s", cmd.SteadyS, &cfg.Steady}, {"settle-timeout-s", cmd.SettleTimeoutS, &cfg.SettleTimeout}} {
		const most = 7 * 24 * 3600
		if !(f.seconds > 0 && f.seconds <= most) {
			return cfg, invalidf("--%s must be more than 0 and at most %d, got %v", f.flag, most, f.seconds)
		}
		*f.to = time.Duration(f.seconds * float64(time.Second))
	}
	var err error
	var warnings []string
	if cfg.Rig, warnings, err = agent.SetUpRig(c, agent.SecretsFrom(term.environ), log.Logger); err != nil {
		return cfg, err
	}
	for _, w := range warnings {
		log.Warn().Msg(w)
	}
	for i := range c.Models {
		cfg.Models = append(cfg.Models, cmd.spec(&c.Models[i]))
	}
	return cfg, nil
}

// choose are the models that are to be measured.
func (cmd characterizeCmd) choose(models []config.Model) ([]config.Model, error) {
	var labels []string
	for i := range models {
		labels = append(labels, excerpt.Quote(models[i].ModelLabel, maxQuoted))
	}
	for _, label := range cmd.Model {
		if !slices.ContainsFunc(models, func(m config.Model) bool { return m.ModelLabel == label }) {
			return nil, invalidf("--model names %s, which is no model; there are %s", excerpt.Quote(label, maxQuoted), strings.Join(labels, ", "))
		}
	}
	var chosen []config.Model
	for i := range models {
		m := &models[i]
		if len(cmd.Model) > 0 && !slices.Contains(cmd.Model, m.ModelLabel) {
			continue
		}
		if len(cmd.batchSizes(m)) == 0 {
			return nil, invalidf("model %q has none of --batch-size %v in its feasible_batch_sizes %v", m.ModelLabel, cmd.BatchSize, m.FeasibleBatchSizes)
		}
		chosen = append(chosen, *m)
	}
	for _, b := range cmd.BatchSize {
		if !slices.ContainsFunc(chosen, func(m config.Model) bool { return slices.Contains(m.FeasibleBatchSizes, b) }) {
			return nil, invalidf("--batch-size has %d, which is in no model's feasible_batch_sizes", b)
		}
	}
	return chosen, nil
}

// batchSizes are those at which a model is measured, ascending.
func (cmd characterizeCmd) batchSizes(m *config.Model) []int {
	sizes := slices.Clone(m.FeasibleBatchSizes)
	if len(cmd.BatchSize) > 0 {
		sizes = slices.DeleteFunc(sizes, func(b int) bool { return !slices.Contains(cmd.BatchSize, b) })
	}
	slices.Sort(sizes)
	return slices.Compact(sizes)
}

// spec says what is measured of a model, as its data tells.
func (cmd characterizeCmd) spec(m *config.Model) workload.DataSpec {
	s := dataSpecOf(m, cmd.batchSizes(m), cmd.GPUModel, cmd.Task)
	s.GPUModel, s.Task = cmp.Or(s.GPUModel, defaultGPUModel), cmp.Or(s.Task, defaultTask)
	slices.Sort(s.FeasibleBatchSizes)
	s.FeasibleBatchSizes = slices.Compact(s.FeasibleBatchSizes)
	return s
}

// progressLine is a status line that a goroutine of its own draws: whoever makes
// progress must not wait for the terminal.
type progressLine struct {
	*statusLine
	text atomic.Pointer[string]
	// end takes the line off the terminal for good; calls after the first do nothing.
	end func()
}

func newProgressLine(w io.Writer) *progressLine {
	l := &progressLine{statusLine: newStatusLine(w), end: func() {}}
	if l.columns != nil {
		l.start()
	}
	return l
}

// start starts the goroutine that draws.
func (l *progressLine) start() {
	ending, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(progressEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ending:
				l.clear()
				return
			case <-ticker.C:
				if text := l.text.Load(); text != nil {
					l.show(func(time.Time) string { return *text })
				}
			}
		}
	}()
	l.end = sync.OnceFunc(func() {
		close(ending)
		_ = within(2*progressEvery, func() error { <-ended; return nil }) // it cannot be told so
	})
}

// log is a log above the line.
func (l *progressLine) log(c config.Log) liveLog {
	if l.columns != nil && c.Format == "auto" {
		c.Format = "console"
	}
	return newLiveLogger(c, l)
}

// update is what the line says from now on.
func (l *progressLine) update(p characterize.Progress) {
	text := progressText(p)
	l.text.Store(&text)
}

// progressText tells how far it is, in one line.
func progressText(p characterize.Progress) string {
	parts := []string{fmt.Sprintf("%d/%d points", p.Done, p.Wanted)}
	for _, m := range p.Models {
		if m.Phase == characterize.PhaseMeasuring {
			parts = append(parts, fmt.Sprintf("%s at %d: %.0f/%.0f s", m.ModelLabel, m.BatchSize, m.MeasuredS, m.MeasureS))
		} else {
			parts = append(parts, fmt.Sprintf("%s at %d: %s", m.ModelLabel, m.BatchSize, m.Phase))
		}
	}
	return strings.Join(parts, "  ") + fmt.Sprintf("  about %v left", p.Left.Round(time.Second))
}
