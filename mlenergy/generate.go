package mlenergy

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/workload"
)

// OpenG2G's defaults.
const (
	traceDTS      = 0.1  // between the points of a trace, in seconds
	maxITLSamples = 2048 // of a batch size that a fit is made of
	itlSeed       = 0
	minTracePoint = 5
)

// Generator makes inference data of runs.
type Generator struct {
	Source Source
	// Workers is how many files are read at once; 0: as many as there are processors.
	Workers int
	// Progress, unless nil, is told how many of the runs are read. It is called by one
	// goroutine at a time and must not block.
	Progress func(done, total int)
}

// Generate reads the selected runs, several at once, and gives emit what each
// selection comes to, in their order and as soon as it is there, with remarks that stop
// nothing. The results do not depend on which run is read first. It holds the latencies
// of a few batch sizes at a time: 8 bytes a token.
func (g *Generator) Generate(ctx context.Context, selections []*Selection, emit func(workload.Measured, []string) error) error {
	jobs, total := g.jobs(selections)
	var files []string
	for _, j := range jobs {
		for _, group := range j.groups {
			for i := range group.runs {
				run := &group.runs[i]
				if !staysBelow(run.ResultsPath) { // before a source is asked for it
					return errorAt(run.File, "row %d, column results_path: the path %s leads out of the directory", run.Row, quote(run.ResultsPath))
				}
				files = append(files, run.ResultsPath)
			}
		}
	}
	slices.Sort(files)
	dir, err := g.Source.Fetch(ctx, slices.Compact(files))
	if err != nil {
		return err
	}
	outer, ctx := errgroup.WithContext(ctx)
	outer.Go(func() error { return g.read(ctx, dir, jobs, total) })
	outer.Go(func() error {
		for _, j := range jobs {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-j.done:
			}
			m, warnings, err := j.measured()
			if err == nil {
				err = emit(m, warnings)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return outer.Wait()
}

// job is a selection that is being read.
type job struct {
	selection *Selection
	groups    []*group
	left      atomic.Int64  // groups
	done      chan struct{} // closed when none is left
}

// group is the runs of a batch size.
type group struct {
	runs []Run
	left atomic.Int64 // runs
	read []*Results   // by run; nil once they are used up

	trace   *workload.InferenceTrace // nil: too few samples
	itl     workload.ITLMixture
	seen    *workload.ITLHistogram // the latencies; nil: none
	doubts  []string
	failure error
}

func (g *Generator) jobs(selections []*Selection) (jobs []*job, runs int) {
	for _, s := range selections {
		j := &job{selection: s, done: make(chan struct{})}
		for _, of := range s.groups() {
			group := &group{runs: of, read: make([]*Results, len(of))}
			group.left.Store(int64(len(of)))
			j.groups = append(j.groups, group)
			runs += len(of)
		}
		j.left.Store(int64(len(j.groups)))
		jobs = append(jobs, j)
	}
	return jobs, runs
}

// read reads all runs in their order, as many at once as there are workers.
func (g *Generator) read(ctx context.Context, dir string, jobs []*job, total int) error {
	workers := g.Workers
	if workers == 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	pool, ctx := errgroup.WithContext(ctx)
	pool.SetLimit(workers)
	var told sync.Mutex
	done := 0
	for _, j := range jobs {
		for _, group := range j.groups {
			for i := range group.runs {
				pool.Go(func() error {
					if err := group.readRun(ctx, dir, i); err != nil {
						return err
					}
					if group.left.Add(-1) == 0 {
						group.finish(j.selection.Spec.GPUsPerReplica)
						if j.left.Add(-1) == 0 {
							close(j.done)
						}
					}
					told.Lock()
					defer told.Unlock()
					if done++; g.Progress != nil {
						g.Progress(done, total)
					}
					return nil
				})
			}
		}
	}
	return pool.Wait()
}

// readRun reads one run of the group.
func (g *group) readRun(ctx context.Context, dir string, i int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	run := &g.runs[i]
	f, path, err := openFile(dir, run.ResultsPath)
	if err != nil {
		return fmt.Errorf("%w (the results of row %d of %s)", err, run.Row, run.File)
	}
	defer f.Close()
	if g.read[i], err = ReadResults(contextReader{ctx, f}); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return errorAt(path, "%w", err)
	}
	return nil
}

// contextReader ends with its context.
type contextReader struct {
	ctx  context.Context
	file interface{ Read([]byte) (int, error) }
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.file.Read(p)
}

// finish makes of the runs what is wanted of them, and lets go of them.
func (g *group) finish(gpus int) {
	var timelines []workload.Timeline
	var itls [][]float64
	enough := false
	for i, r := range g.read {
		if len(r.NoPower) > 0 {
			g.doubts = append(g.doubts, fmt.Sprintf("%s: GPUs %v have no power at the times of the first one: they count as 0 W, as with OpenG2G",
				excerpt.Printable(g.runs[i].ResultsPath, 4*maxQuoted), r.NoPower))
		}
		timelines, itls = append(timelines, r.Power), append(itls, r.ITLS)
		enough = enough || len(r.Power.TS) > 1
	}
	g.read = nil
	g.itl, g.seen = workload.FitITLRuns(itls, maxITLSamples, itlSeed), workload.NewITLHistogram(itls...)
	if !enough {
		return
	}
	if g.trace, g.failure = workload.MedianTrace(timelines, traceDTS, gpus); g.failure != nil {
		return
	}
	if n := len(g.trace.TS); n < minTracePoint {
		g.failure = fmt.Errorf("trace too short: the steady states give %d points, %v s apart, want at least %d", n, traceDTS, minTracePoint)
		return
	}
	if slices.ContainsFunc(g.trace.PowerW, notFinite) {
		g.failure = g.notFinite(timelines)
	}
}

func notFinite(v float64) bool { return v-v != 0 }

// notFinite names the run that makes the trace one that nobody reads. Where the median of
// several runs is a number, OpenG2G minds none that is not.
func (g *group) notFinite(timelines []workload.Timeline) error {
	for r, tl := range timelines {
		if i := slices.IndexFunc(tl.PowerW, notFinite); i >= 0 {
			return fmt.Errorf("%s: %s: the GPUs' power is %v W %v s after the start of the steady state, want a finite number",
				excerpt.Printable(g.runs[r].ResultsPath, 4*maxQuoted), keySeries, tl.PowerW[i], tl.TS[i])
		}
	}
	return fmt.Errorf("%s: the power is too large to be interpolated", keySeries)
}

// measured is what the finished job comes to.
func (j *job) measured() (workload.Measured, []string, error) {
	s := j.selection
	m := workload.Measured{Spec: s.Spec, Traces: map[int]*workload.InferenceTrace{}, ITL: map[int]workload.ITLMixture{}}
	m.Observed = workload.Observed{Points: s.points(), ITL: map[int]*workload.ITLHistogram{}}
	warnings := slices.Clone(s.Warnings)
	for _, g := range j.groups {
		batchSize := g.runs[0].BatchSize()
		if g.failure != nil {
			return m, nil, errorAt(g.runs[0].File, "model %s, batch size %d (%s): %w", quote(s.Spec.ModelLabel), batchSize, g.places(), g.failure)
		}
		m.ITL[batchSize] = g.itl
		warnings = append(warnings, g.doubts...)
		if g.seen != nil {
			m.Observed.ITL[batchSize] = g.seen
		}
		if g.trace != nil {
			m.Traces[batchSize] = g.trace
			continue
		}
		warnings = append(warnings, fmt.Sprintf("model %s: no run at batch size %d (%s) has two power samples in its steady state: it has no trace",
			quote(s.Spec.ModelLabel), batchSize, g.places()))
	}
	if len(m.Traces) == 0 {
		return m, nil, errorAt(s.Runs[0].File, "model %s: no run has two power samples in its steady state: there is no trace", quote(s.Spec.ModelLabel))
	}
	fits, doubts, err := s.Logistic()
	m.Logistic = fits
	return m, append(warnings, doubts...), err
}

// places names the rows of the group.
func (g *group) places() string {
	var rows []string
	for i := range g.runs {
		rows = append(rows, fmt.Sprintf("row %d", g.runs[i].Row))
	}
	return strings.Join(rows, ", ")
}
