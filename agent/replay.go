package agent

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/workload"
)

// ReplayConfig is what a replay needs beside a pipeline's config.
type ReplayConfig struct {
	Config
	Duration datacenter.Seconds
	// TemplateDuration is the length of the power templates, which a longer run goes
	// through again and again; zero: Duration.
	TemplateDuration datacenter.Seconds
	// Endless replays go on after Duration.
	Endless     bool
	SteadySkipS float64
	// Data are the models' traces and fits, in the order of the models.
	Data []workload.ModelData
	// ITL says whether latencies are drawn; without, they are NaN.
	ITL      bool
	Commands []datacenter.ScriptedCommand
}

// Replay is a run over recorded traces.
type Replay struct {
	*Pipeline
	readings *replayReadings
	steps    int64
	duration datacenter.Seconds
	commands []datedCommand
	next     int // command
}

type datedCommand struct {
	step    int64
	index   int // in the config
	command datacenter.Command
}

// NewReplay prepares a replay and checks, before the first step, all that could
// stop it at a later one: batch sizes without data and, over the whole run with
// its commands, the capacity. Its errors wrap [datacenter.ErrInvalidInput].
func NewReplay(cfg ReplayConfig) (*Replay, error) {
	var made madeBefore
	return newReplay(cfg, &made)
}

// newReplay is [NewReplay] with what was made for earlier replays of the same data.
func newReplay(cfg ReplayConfig, made *madeBefore) (*Replay, error) {
	store, err := made.templates(&cfg)
	if err != nil {
		return nil, err
	}
	stagger := int64(1)
	if slices.ContainsFunc(cfg.Models, func(m datacenter.ModelSpec) bool { return m.InitialReplicas() > 0 }) {
		stagger = int64(store.Len())
	}
	r := &Replay{steps: cfg.DT.StepsWithin(cfg.Duration), duration: cfg.Duration}
	if cfg.Endless {
		r.steps = math.MaxInt64
	}
	for i, c := range cfg.Commands {
		r.commands = append(r.commands, datedCommand{c.T.FirstStepAt(cfg.DT), i, c.Command})
	}
	slices.SortStableFunc(r.commands, func(a, b datedCommand) int { return cmp.Compare(a.step, b.step) })

	if err := datacenter.CheckScheduleCapacity(&cfg.Facility, cfg.Models); err != nil {
		return nil, &capacityError{fmt.Errorf("%w: models: %w", datacenter.ErrInvalidInput, err)}
	}
	pool := made.poolOf(&cfg, stagger)
	readings := newReplayReadings(&cfg, store, pool)
	d := newDemand(&cfg.Config)
	if err := errors.Join(r.checkCapacity(&d), r.checkData(&cfg.Config, readings)); err != nil {
		return nil, err
	}
	r.readings = readings
	cfg.Models = measured(cfg.Models, cfg.Data)
	if r.Pipeline, err = newPipeline(cfg.Config, pool, readings); err != nil {
		return nil, err
	}
	if err := r.Reset(); err != nil {
		return nil, err
	}
	r.horizon = r.steps
	r.firstOverload = func(from, to int64) *overload {
		d := r.demand
		d.shift = slices.Clone(d.shift)
		over, _ := r.walk(&d, from, to, r.next)
		return over
	}
	return r, nil
}

// checkCapacity walks the whole run with its shifts.
func (r *Replay) checkCapacity(d *demand) error {
	over, shift := r.walk(d, 0, r.steps, 0)
	if over == nil {
		return nil
	}
	blame, wayOut := "models: the replica schedules need", ""
	if shift != nil {
		wayOut = d.wayOut(over)
		blame = fmt.Sprintf("replay.commands[%d].shift_replicas: with this shift, before which %d GPUs are free, the models need",
			shift.index, max(shift.freeGPUs, 0))
	}
	return &capacityError{fmt.Errorf("%w: %s %s%s", datacenter.ErrInvalidInput, blame, d.describe(over), wayOut)}
}

// capacityError is a replay for which there is not enough.
type capacityError struct{ error }

func (e *capacityError) Unwrap() error { return e.error }

// walkedShift is a scripted shift that asked for more, and what was free before it.
type walkedShift struct{ index, freeGPUs int }

// walk is [demand.firstOverload] with the commands from number next on carried
// out, in d, when they are due. It also returns the last shift before the
// overload that asked for more.
func (r *Replay) walk(d *demand, from, to int64, next int) (*overload, *walkedShift) {
	var last *walkedShift
	for i := next; ; i++ {
		end := to
		if i < len(r.commands) {
			end = max(from, min(r.commands[i].step, to))
		}
		if over := d.firstOverload(from, end); over != nil || end == to {
			return over, last
		}
		from = end
		shift, ok := r.commands[i].command.(datacenter.ShiftReplicas)
		if !ok {
			continue
		}
		m := slices.IndexFunc(d.cfg.Models, func(m datacenter.ModelSpec) bool { return m.ModelLabel == shift.ModelLabel })
		if m < 0 {
			continue // refused when it is applied, and by the config before
		}
		if shift.ReplicaDelta > 0 {
			last = &walkedShift{r.commands[i].index, d.cfg.Facility.TotalGPUCapacity - d.gpusAt(d.cfg.DT.Times(from))}
		}
		d.shift[m] += shift.ReplicaDelta
	}
}

// checkData checks that there is data for every batch size the run will come to,
// and reports all for which there is none.
func (r *Replay) checkData(cfg *Config, readings *replayReadings) error {
	var problems []error
	for m := range cfg.Models {
		if err := readings.checkBatchSize(m, cfg.Models[m].InitialBatchSize, 0); err != nil {
			problems = append(problems, fmt.Errorf("models[%d].initial_batch_size: %w", m, err))
		}
		if failsafe := cfg.Models[m].FailsafeBatchSize; failsafe != 0 {
			if err := readings.checkBatchSize(m, failsafe, 0); err != nil {
				problems = append(problems, fmt.Errorf("models[%d].failsafe_batch_size: %w", m, err))
			}
		}
	}
	for _, c := range r.commands {
		set, ok := c.command.(datacenter.SetBatchSize)
		if !ok {
			continue
		}
		for m := range cfg.Models {
			label := cfg.Models[m].ModelLabel
			size, named := set.BatchSizeByModel[label]
			if !named {
				continue
			}
			if err := readings.checkBatchSize(m, size, set.RampUpRateByModel[label]); err != nil {
				problems = append(problems, fmt.Errorf("%w: replay.commands[%d].set_batch_size.%s: %w",
					datacenter.ErrInvalidInput, c.index, label, err))
			}
		}
	}
	return errors.Join(problems...)
}

// Steps is the number of steps of the whole run, the largest there is if it is
// endless.
func (r *Replay) Steps() int64 { return r.steps }

// Endless reports whether the run goes on until it is ended.
func (r *Replay) Endless() bool { return r.steps == math.MaxInt64 }

// Reset returns the replay to its start; it then gives the same run again.
func (r *Replay) Reset() error {
	r.next = 0
	r.reset()
	r.readings.reset()
	for m, n := range r.batchSizes {
		if err := r.readings.setBatchSize(m, n, 0); err != nil {
			return err
		}
	}
	return nil
}

// Apply checks a command whole and, only if nothing is wrong with it, applies
// it, as of the next step. A refused command gives a [*datacenter.CommandError].
func (r *Replay) Apply(command datacenter.Command) error {
	switch c := command.(type) {
	case datacenter.SetBatchSize:
		return r.setBatchSizes(c)
	case datacenter.ShiftReplicas:
		return r.shiftReplicas(c)
	case datacenter.Restore:
		return r.restore()
	default:
		return fmt.Errorf("%w: unknown command %T", datacenter.ErrInvalidInput, command)
	}
}

func (r *Replay) setBatchSizes(c datacenter.SetBatchSize) error {
	if err := r.checkBatchSizes(c, r.readings.checkBatchSize); err != nil {
		return err
	}
	return r.applyBatchSizes(c)
}

// restore is what a run begins with, for which there is data.
func (r *Replay) restore() error {
	if err := r.checkRestore(); err != nil {
		return err
	}
	r.undoShifts()
	return r.applyBatchSizes(r.initialBatchSizes())
}

// applyBatchSizes does what was checked.
func (r *Replay) applyBatchSizes(c datacenter.SetBatchSize) error {
	for _, label := range inConfigOrder(r.Pipeline, c.BatchSizeByModel) {
		m := r.modelIndex(label)
		if err := r.readings.setBatchSize(m, c.BatchSizeByModel[label], c.RampUpRateByModel[label]); err != nil {
			return refuse(batchSizeField+"."+label, datacenter.ErrNotPossible, "%v", err)
		}
		r.setBatchSize(m, c.BatchSizeByModel[label])
		r.leaseBatchSize(m, c.LeaseS)
	}
	r.emitBatchSizes()
	return nil
}

// Step applies the commands that are due and computes the next state. After the
// last step it returns io.EOF.
func (r *Replay) Step(due time.Time) (*datacenter.State, error) {
	if r.step >= r.steps {
		return nil, io.EOF
	}
	for ; r.next < len(r.commands) && r.commands[r.next].step <= r.step; r.next++ {
		if err := r.applyScripted(r.commands[r.next].command); err != nil {
			return nil, fmt.Errorf("%w: replay.commands[%d]: %w", datacenter.ErrInvalidInput, r.commands[r.next].index, err)
		}
	}
	return r.Pipeline.Step(due)
}

// applyScripted applies a command of the script. There is room for its shifts:
// the whole script was checked, and what else came since was checked with it.
func (r *Replay) applyScripted(command datacenter.Command) error {
	if shift, ok := command.(datacenter.ShiftReplicas); ok {
		if m := r.modelIndex(shift.ModelLabel); m >= 0 {
			r.shift(m, shift)
			return nil
		}
	}
	return r.Apply(command)
}
