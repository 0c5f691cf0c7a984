package workload

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/npmath"
	"github.com/g2g-agent/g2g-agent/internal/nprand"
)

// TrainingTraceParams shape a synthetic power trace of one GPU of a training
// job: high plateaus (compute) and low ones (communication) by turns, noise,
// short dips, and a ramp at the start. Names and defaults are OpenG2G's.
type TrainingTraceParams struct {
	DurationS float64 // length of the trace
	DTS       float64 // time between samples
	Seed      uint64

	PHi, PLo         float64    // power of the plateaus, W
	SigmaHi, SigmaLo float64    // standard deviation of the noise on them, W
	SegLoRange       [2]float64 // shortest and longest low plateau, s
	SegHiRange       [2]float64 // shortest and longest high plateau, s

	DipProbPerSec float64    // expected dips per second
	DipDepthRange [2]float64 // W below the level around them
	DipDurRange   [2]float64 // s

	SmoothWindowS float64 // width of the moving average, s
	RampS         float64 // length of the ramp at the start, s
	RampFrom      float64 // power it starts from, W
}

// Bounds that keep a mistyped parameter from running for hours.
const (
	maxTrainingSamples = 100_000_000
	maxTrainingDips    = 1_000_000
	maxSmoothing       = 20_000_000_000 // samples times window width
)

// Validate returns everything wrong with p, each error wrapping
// [datacenter.ErrInvalidInput].
func (p *TrainingTraceParams) Validate() []error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{datacenter.ErrInvalidInput}, args...)...))
	}
	for _, v := range []struct {
		name  string
		value float64
		least float64
	}{
		{"P_hi", p.PHi, 0}, {"P_lo", p.PLo, 0}, {"sigma_hi", p.SigmaHi, 0}, {"sigma_lo", p.SigmaLo, 0},
		{"dip_prob_per_sec", p.DipProbPerSec, 0}, {"smooth_window_s", p.SmoothWindowS, 0},
		{"ramp_s", p.RampS, 0}, {"ramp_from", p.RampFrom, 0},
		{"duration_s", p.DurationS, math.SmallestNonzeroFloat64}, {"dt_s", p.DTS, math.SmallestNonzeroFloat64},
	} {
		if !(v.value >= v.least) || math.IsInf(v.value, 0) {
			want := ">= 0"
			if v.least > 0 {
				want = "> 0"
			}
			bad("%s must be a finite number %s, got %v", v.name, want, v.value)
		}
	}
	for _, r := range []struct {
		name  string
		value [2]float64
	}{
		{"seg_lo_range", p.SegLoRange}, {"seg_hi_range", p.SegHiRange},
		{"dip_depth_range", p.DipDepthRange}, {"dip_dur_range", p.DipDurRange},
	} {
		if low, high := r.value[0], r.value[1]; !(0 <= low && low <= high) || math.IsInf(high, 0) {
			bad("%s must be two finite numbers, 0 <= low <= high, got %v, %v", r.name, low, high)
		}
	}
	if len(errs) > 0 {
		return errs
	}
	n := p.DurationS / p.DTS
	switch window := p.SmoothWindowS / p.DTS; {
	case n <= 1:
		bad("duration_s (%v) must hold at least two samples of dt_s (%v)", p.DurationS, p.DTS)
	case n > maxTrainingSamples:
		bad("duration_s / dt_s is %.3g samples, at most %d are allowed", n, maxTrainingSamples)
	case p.SegHiRange[1]+p.SegLoRange[1] < 2*p.DTS:
		// Shorter plateaus would mostly round to no sample at all.
		bad("seg_hi_range and seg_lo_range must together reach at least 2 dt_s (%v)", 2*p.DTS)
	case math.RoundToEven(window) > math.Ceil(n):
		bad("smooth_window_s (%v) must not be longer than duration_s (%v)", p.SmoothWindowS, p.DurationS)
	case n*window > maxSmoothing:
		bad("smooth_window_s (%v) is too long for %.3g samples", p.SmoothWindowS, n)
	case p.DipProbPerSec*p.DurationS > maxTrainingDips:
		bad("dip_prob_per_sec * duration_s is %.3g dips, at most %d are allowed", p.DipProbPerSec*p.DurationS, maxTrainingDips)
	}
	return errs
}

// GenerateTrainingTrace returns the trace that p and its seed give. The
// parameters must be valid.
func GenerateTrainingTrace(p TrainingTraceParams) datacenter.TrainingTrace {
	rng := nprand.New(p.Seed)
	t := npmath.Arange(p.DurationS, p.DTS)
	n := len(t)
	steps := func(seconds float64) int { return int(math.RoundToEven(seconds / p.DTS)) }

	power := make([]float64, n)
	for i, high := 0, true; i < n; high = !high {
		level, lengths := p.PLo, p.SegLoRange
		if high {
			level, lengths = p.PHi, p.SegHiRange
		}
		end := min(n, i+steps(rng.Uniform(lengths[0], lengths[1])))
		for ; i < end; i++ {
			power[i] = level
		}
	}
	addPlateauNoise(power, &p, rng)
	if width := steps(p.SmoothWindowS); width > 1 {
		power = npmath.BoxSmooth(power, width)
	}
	for range rng.Poisson(p.DipProbPerSec * p.DurationS) {
		start := int(rng.Uniform(0, p.DurationS) / p.DTS)
		end := min(n, start+steps(rng.Uniform(p.DipDurRange[0], p.DipDurRange[1])))
		if end <= start {
			continue // too short to be seen; no depth is drawn for it
		}
		depth := rng.Uniform(p.DipDepthRange[0], p.DipDepthRange[1])
		for i := start; i < end; i++ {
			power[i] = max(power[i]-depth, 0)
		}
	}
	if p.RampS > 0 {
		for i, limit := range npmath.Linspace(p.RampFrom, p.PHi, min(n, steps(p.RampS))) {
			power[i] = min(power[i], limit)
		}
	}
	return datacenter.TrainingTrace{TS: t, PowerW: power}
}

// addPlateauNoise draws for all samples of the high plateaus first, then for
// all of the low ones.
func addPlateauNoise(power []float64, p *TrainingTraceParams, rng *nprand.Generator) {
	var high, low []int
	for i, level := range power {
		if level > (p.PHi+p.PLo)/2 {
			high = append(high, i)
		} else {
			low = append(low, i)
		}
	}
	for _, i := range high {
		power[i] += rng.Normal(0, p.SigmaHi)
	}
	for _, i := range low {
		power[i] += rng.Normal(0, p.SigmaLo)
	}
}

// The columns of a training trace file.
const trainingTimeColumn, trainingPowerColumn = "t_s", "power_W"

// LoadTrainingTrace reads a CSV file with the columns t_s and power_W. Rows may
// stand in any order of time; negative power counts as 0. The errors are
// [*FileError].
func LoadTrainingTrace(file string) (datacenter.TrainingTrace, error) {
	var trace datacenter.TrainingTrace
	err := readTable(file, []string{trainingTimeColumn, trainingPowerColumn}, func(row *table) error {
		return appendSample(row, 0, &trace.TS, &trace.PowerW)
	})
	if err != nil {
		return datacenter.TrainingTrace{}, err
	}
	if n := len(trace.TS); n < 2 {
		return datacenter.TrainingTrace{}, fileErrorf(file, 0, "has %d samples, a training trace needs at least 2", n)
	}
	for i, p := range trace.PowerW {
		trace.PowerW[i] = max(p, 0)
	}
	sortByTime(trace.TS, trace.PowerW)
	if first, last := trace.TS[0], trace.TS[len(trace.TS)-1]; !(last > first) {
		return datacenter.TrainingTrace{}, fileErrorf(file, 0, "the trace has no time span: all its times are %v", first)
	}
	if slices.Max(trace.PowerW) <= 0 {
		return datacenter.TrainingTrace{}, fileErrorf(file, 0, "power is nowhere above 0, so the trace cannot be scaled to a peak")
	}
	return trace, nil
}

// appendSample appends the time and power in two neighbouring columns.
func appendSample(row *table, timeColumn int, tS, powerW *[]float64) error {
	t, err := row.finite(timeColumn)
	if err != nil {
		return err
	}
	p, err := row.finite(timeColumn + 1)
	if err != nil {
		return err
	}
	*tS, *powerW = append(*tS, t), append(*powerW, p)
	return nil
}

// WriteTrainingTrace writes the trace as the CSV that LoadTrainingTrace reads,
// every number in the shortest form that reads back to the same bits.
func WriteTrainingTrace(w io.Writer, trace datacenter.TrainingTrace) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "%s,%s\n", trainingTimeColumn, trainingPowerColumn)
	var line []byte
	for i, t := range trace.TS {
		if p := trace.PowerW[i]; math.IsNaN(p) || math.IsInf(p, 0) {
			return fmt.Errorf("%w: the power at t=%v s is not a finite number: check the magnitudes of the parameters",
				datacenter.ErrInvalidInput, t)
		}
		line = datacenter.AppendFloat(line[:0], t)
		line = datacenter.AppendFloat(append(line, ','), trace.PowerW[i])
		b.Write(append(line, '\n'))
	}
	return b.Flush()
}

// TrainingOverlay evaluates a training schedule over time.
type TrainingOverlay struct{ runs []overlayRun }

type overlayRun struct {
	nGPUs          float64
	tStartS, tEndS float64
	tS, powerW     []float64 // one GPU, from time 0, scaled to the target peak
}

// NewTrainingOverlay prepares the schedule's runs: each trace is shifted to
// start at 0 and scaled so that its peak is the run's target. It fails, wrapping
// [datacenter.ErrInvalidInput], for a run that is not valid or a trace without
// time span or positive power.
func NewTrainingOverlay(schedule datacenter.TrainingSchedule) (*TrainingOverlay, error) {
	o := &TrainingOverlay{}
	for i := range schedule {
		run := &schedule[i]
		if err := run.Validate(); err != nil {
			return nil, err
		}
		n := len(run.Trace.TS)
		if n < 2 || n != len(run.Trace.PowerW) || !(run.Trace.TS[n-1] > run.Trace.TS[0]) || !(slices.Max(run.Trace.PowerW) > 0) {
			return nil, fmt.Errorf("%w: training run %d: the trace needs two samples, a time span and positive power", datacenter.ErrInvalidInput, i)
		}
		r := overlayRun{
			nGPUs: float64(run.NGPUs), tStartS: run.TStartS, tEndS: run.TEndS,
			tS: make([]float64, n), powerW: make([]float64, n),
		}
		scale := run.TargetPeakWPerGPU / slices.Max(run.Trace.PowerW)
		for k := range r.tS {
			r.tS[k] = run.Trace.TS[k] - run.Trace.TS[0]
			r.powerW[k] = run.Trace.PowerW[k] * scale
		}
		o.runs = append(o.runs, r)
	}
	return o, nil
}

// AddTo adds to each phase a third of the power, in watts, that every run draws
// at time tS.
func (o *TrainingOverlay) AddTo(phaseW *datacenter.ThreePhase, tS float64) {
	for i := range o.runs {
		third := o.runs[i].powerAt(tS) / 3
		phaseW.A += third
		phaseW.B += third
		phaseW.C += third
	}
}

// powerAt is the power of all the run's GPUs at time tS, 0 outside the run.
func (r *overlayRun) powerAt(tS float64) float64 {
	if tS < r.tStartS || tS > r.tEndS {
		return 0
	}
	period := r.tS[len(r.tS)-1]
	return npmath.Interp(math.Mod(tS-r.tStartS, period), r.tS, r.powerW) * r.nGPUs
}
