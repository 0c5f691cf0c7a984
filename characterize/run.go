package characterize

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
	"github.com/g2g-agent/g2g-agent/power"
	"github.com/g2g-agent/g2g-agent/rig"
)

// historyWindow is what a rig keeps of power by itself; it is not looked at.
const historyWindow = time.Second

// ErrIncomplete says that not all points are measured. What is stays, and the next call
// goes on from there.
var ErrIncomplete = errors.New("not all points are measured")

// Failure is a point that was not measured.
type Failure struct {
	Spec
	Err error
}

// Measured is all that is measured so far.
type Measured struct {
	// Points are in the order of the models, their batch sizes ascending, and repeats.
	Points   []*Point
	Failures []Failure
	// Wanted is the number of points that there are to be.
	Wanted int
	// Warnings are remarks about the curves fitted.
	Warnings []string
	// Written says that the data directory is.
	Written bool
}

// Run measures what is not measured yet: the models side by side, as each has servers
// of its own. However it ends, servers get back the batch size that they had, where that
// can be read, and otherwise their model's initial one. A point
// that could not be measured does not keep the others from it; the error then wraps
// [ErrIncomplete], as it does when ctx ends. What is measured is returned with an error,
// too.
func Run(ctx context.Context, cfg Config) (*Measured, error) {
	if cfg.stepEvery == 0 {
		cfg.stepEvery = stepEvery
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if err := checkDirectory(&cfg); err != nil {
		return nil, err
	}
	store, err := openStore(cfg.Dir, atomicfile.Lock)
	if err != nil {
		return nil, err
	}
	defer store.close()
	r := &run{cfg: &cfg, store: store}
	if err := r.takeUp(); err != nil {
		return nil, err
	}
	switch {
	case r.left() == 0:
	case cfg.bench != nil:
		benches := map[int]bench{}
		for m := range cfg.Models {
			benches[m] = cfg.bench(m)
		}
		err = r.measureAll(ctx, benches)
	default:
		err = r.onRig(ctx)
	}
	measured := r.measured()
	if err == nil && r.left() > 0 {
		err = measured.incomplete(ctx)
	}
	return measured, errors.Join(err, r.finish(measured))
}

// finish writes the data, if all is measured, and then the report of what is.
func (r *run) finish(measured *Measured) error {
	if len(measured.Points) == 0 {
		return nil
	}
	data, warnings := measured.data(r.cfg)
	measured.Warnings = warnings
	var err error
	if len(measured.Points) == measured.Wanted {
		err = data.write(r.cfg)
		measured.Written = err == nil
	}
	err = errors.Join(err, r.store.saveReport(measured.Report()))
	if err == nil && measured.Written && r.cfg.OnData != nil {
		return r.cfg.OnData(data)
	}
	return err
}

// run is a characterization under way.
type run struct {
	cfg   *Config
	store *store

	mu       sync.Mutex
	models   []modelRun
	failures []Failure
	settles  []float64 // how long settling took so far, in seconds
}

// modelRun is how far one model is.
type modelRun struct {
	specs     []Spec
	points    []*Point // of specs; nil: not measured yet
	tried     []bool   // by this call
	at        int      // the point under way
	phase     Phase
	measuredS float64
	began     time.Time // when it was
}

// mostRefused bounds the points that a refusal names.
const mostRefused = 3

// takeUp finds what is measured already.
func (r *run) takeUp() error {
	var errs []error
	for m := range r.cfg.Models {
		specs, err := r.cfg.specs(m)
		if err != nil {
			return err
		}
		model := modelRun{specs: specs, at: -1}
		model.points, model.tried = make([]*Point, len(model.specs)), make([]bool, len(model.specs))
		for i := range model.specs {
			var err error
			if model.points[i], err = r.store.load(&model.specs[i]); err != nil {
				errs = append(errs, err)
			}
		}
		r.models = append(r.models, model)
	}
	if n := len(errs) - mostRefused; n > 0 {
		errs = append(errs[:mostRefused], fmt.Errorf("and %d points more", n))
	}
	return errors.Join(errs...)
}

// left is the number of points that are to be measured still.
func (r *run) left() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for i := range r.models {
		n += r.models[i].left()
	}
	return n
}

func (m *modelRun) left() int {
	n := 0
	for _, p := range m.points {
		if p == nil {
			n++
		}
	}
	return n
}

// onRig measures what is left, on the servers of those models that have some.
func (r *run) onRig(ctx context.Context) error {
	cfg := r.cfg.Rig
	cfg.Models, cfg.HistoryWindow = nil, historyWindow
	var models []int
	var gpus []*courses
	for m := range r.models {
		if r.models[m].left() == 0 {
			continue
		}
		c := r.cfg.Rig.Models[m]
		c.MaxBatchSize = max(c.InitialBatchSize, slices.Max(r.cfg.Models[m].BatchSizes))
		cfg.Models = append(cfg.Models, c)
		models = append(models, m)
		gpus = append(gpus, newCourses(r.cfg.numGPUs(m)))
	}
	cfg.OnReading = func(model, gpu int, reading power.Reading) { gpus[model].add(gpu, reading) }
	before, err := r.store.loadFound()
	if err != nil {
		return err
	}
	cfg.OnFound = before.find
	servers, err := rig.New(cfg)
	if err != nil {
		return err
	}
	err = servers.Run(ctx, func(ctx context.Context) error {
		defer servers.LogStats()
		benches := map[int]bench{}
		for i, m := range models {
			h := &hardware{cfg: r.cfg, rig: servers, index: i, courses: gpus[i]}
			for _, s := range cfg.Models[i].Servers {
				h.gpus = append(h.gpus, s.GPUs...)
			}
			benches[m] = h
		}
		return r.measureAll(ctx, benches)
	}, func(model int) (string, int, bool) { return "initial", cfg.Models[model].InitialBatchSize, true })
	if errors.Is(err, rig.ErrNotRestored) {
		return err // the next call tries again
	}
	return errors.Join(err, before.restored())
}

// measureAll measures the models that have a bench, by their number.
func (r *run) measureAll(ctx context.Context, benches map[int]bench) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var group sync.WaitGroup
	errs := make([]error, len(r.models))
	for m, b := range benches {
		group.Go(func() {
			if errs[m] = r.measureModel(ctx, m, b); errs[m] != nil {
				stop(errs[m]) // the others are given up, too
			}
		})
	}
	group.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return errors.Join(errs...)
}

// measureModel measures what is left of a model, one point after the other. Its error is
// one that ends the run.
func (r *run) measureModel(ctx context.Context, m int, b bench) error {
	defer b.end()
	model := &r.models[m]
	for i := range model.specs {
		if model.points[i] != nil {
			continue
		}
		spec := &model.specs[i]
		log := r.cfg.Log.With().Str("model_label", spec.ModelLabel).Int("batch_size", spec.BatchSize).Int("repeat", spec.Repeat).Logger()
		r.begin(m, i)
		measuring := measuring{bench: b, batchSize: spec.BatchSize, cfg: r.cfg, log: log}
		measuring.onPhase = func(phase Phase, measuredS float64) { r.phase(m, phase, measuredS) }
		p, err := measuring.measure(ctx)
		switch {
		case errors.Is(err, errNotMeasured):
			log.Error().Err(err).Msg("this point is left out")
			r.fail(m, i, err)
			continue
		case err != nil:
			return err
		}
		p.Spec = *spec
		if err := r.store.save(p); err != nil {
			return err
		}
		log.Info().Float64("power_w", p.PowerW()).Float64("itl_s", p.MeanITLS()).Float64("settle_s", p.SettleS).Bool("settled", p.Settled).
			Msg("point measured")
		r.end(m, i, p)
	}
	return nil
}

func (r *run) begin(m, i int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	model := &r.models[m]
	model.at, model.phase, model.measuredS, model.began, model.tried[i] = i, PhaseSettling, 0, time.Now(), true
}

func (r *run) phase(m int, phase Phase, measuredS float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.models[m].phase, r.models[m].measuredS = phase, measuredS
	if r.cfg.OnProgress != nil {
		r.cfg.OnProgress(r.progress(time.Now()))
	}
}

func (r *run) fail(m, i int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.models[m].at = -1
	r.failures = append(r.failures, Failure{r.models[m].specs[i], err})
}

func (r *run) end(m, i int, p *Point) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.models[m].at, r.models[m].points[i] = -1, p
	r.settles = append(r.settles, p.SettleS)
	if r.cfg.OnProgress != nil {
		r.cfg.OnProgress(r.progress(time.Now()))
	}
}

// measured is all that is measured.
func (r *run) measured() *Measured {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := &Measured{Failures: r.failures}
	for m := range r.models {
		model := &r.models[m]
		all.Wanted += len(model.specs)
		for _, p := range model.points {
			if p != nil {
				all.Points = append(all.Points, p)
			}
		}
	}
	return all
}

// incomplete says what is missing.
func (m *Measured) incomplete(ctx context.Context) error {
	errs := []error{fmt.Errorf("%w: %d of %d are", ErrIncomplete, len(m.Points), m.Wanted)}
	if ctx.Err() != nil {
		errs[0] = fmt.Errorf("interrupted: %w; the same call goes on from there", errs[0])
	}
	for _, f := range m.Failures {
		errs = append(errs, fmt.Errorf("model %q, batch size %d: %w", f.ModelLabel, f.BatchSize, f.Err))
	}
	return errors.Join(errs...)
}
