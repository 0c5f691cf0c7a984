package report

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// Run is what a config says of a run and its states do not.
type Run struct {
	DTS float64 // seconds between two steps
	// ITLDeadlineS is the models' deadlines by label.
	ITLDeadlineS map[string]float64
}

// FileSummary sums up the states of a file, of whose run less is known than while it
// runs. It keeps one state's worth.
type FileSummary struct {
	run        *Run
	sequence   datacenter.Sequence
	summary    *Summary
	lastS, dtS float64 // time of the latest state, least time between two
	firstS     float64
}

// NewFileSummary returns a summary of the states of run; nil: only the states are
// known. Then the time between two steps is found out, and nothing is told of
// deadlines.
func NewFileSummary(run *Run) *FileSummary { return &FileSummary{run: run, dtS: math.Inf(1)} }

// maxQuoted bounds what an error repeats of a label, in bytes.
const maxQuoted = 100

func invalidf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{datacenter.ErrInvalidInput}, args...)...)
}

// Add takes in the next state. An error wraps [datacenter.ErrInvalidInput]: the
// state does not follow the one before, has other models than it or than the config,
// or a power or latency that is no finite number.
func (f *FileSummary) Add(s *datacenter.State) error {
	number := int64(1)
	if f.summary != nil {
		number = f.summary.Steps + 1
	}
	if err := f.sequence.Next(s); err != nil {
		return err
	}
	if err := check(s); err != nil {
		return fmt.Errorf("state %d: %w", number, err)
	}
	if number == 1 {
		models, err := f.models(s)
		if err != nil {
			return err
		}
		f.summary = NewSummary(datacenter.Seconds{}, models)
		f.firstS = s.TimeS
	} else {
		f.dtS = min(f.dtS, s.TimeS-f.lastS)
	}
	f.lastS = s.TimeS
	f.summary.Add(s)
	return nil
}

// check refuses numbers that cannot be summed up.
func check(s *datacenter.State) error {
	if total := s.PowerW.Total(); !isFinite(total) {
		return invalidf("the power of the three phases is %v W, want a finite number", total)
	}
	for i := range s.Models {
		m := &s.Models[i]
		if !isFinite(m.PowerW) || math.IsInf(m.ObservedITLS, 0) {
			return invalidf("model %s has power_w %v and observed_itl_s %v, want finite numbers", excerpt.Quote(m.ModelLabel, maxQuoted), m.PowerW, m.ObservedITLS)
		}
	}
	return nil
}

func isFinite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// models are those of the state, which must be the config's.
func (f *FileSummary) models(s *datacenter.State) ([]datacenter.ModelSpec, error) {
	models := make([]datacenter.ModelSpec, len(s.Models))
	for i := range s.Models {
		models[i] = datacenter.ModelSpec{ModelLabel: s.Models[i].ModelLabel, ITLDeadlineS: math.NaN()}
		if f.run == nil {
			continue
		}
		deadline, ok := f.run.ITLDeadlineS[models[i].ModelLabel]
		if !ok {
			return nil, invalidf("the states have a model %s that the config has not; it has %s",
				excerpt.Quote(models[i].ModelLabel, maxQuoted), excerpt.Of(fmt.Sprintf("%q", slices.Sorted(maps.Keys(f.run.ITLDeadlineS))), 4*maxQuoted))
		}
		models[i].ITLDeadlineS = deadline
	}
	if f.run != nil && len(models) != len(f.run.ITLDeadlineS) {
		return nil, invalidf("the states have %d models, the config has %d: it is another run's", len(models), len(f.run.ITLDeadlineS))
	}
	return models, nil
}

// Finish returns the summary. Its errors wrap [datacenter.ErrInvalidInput]: there were
// no states, or they are closer together than the config says.
func (f *FileSummary) Finish() (*Summary, error) {
	if f.summary == nil {
		return nil, invalidf("there are no states")
	}
	span := f.lastS - f.firstS
	dtS := math.NaN() // of one state nobody knows
	switch {
	case f.run != nil:
		dtS = f.run.DTS
		const most = 1.001 // times are rounded
		if f.dtS*most < dtS {
			return nil, invalidf("the states are %.6g s apart, the config's dt_s is %v: it is another run's", f.dtS, dtS)
		}
	case f.summary.Steps > 1:
		dtS = span / math.Round(span/f.dtS)
	}
	if f.summary.Steps > 1 {
		const most = 1 << 53 // steps that a double counts
		f.summary.MissingSteps = max(int64(min(math.Round(span/dtS), most))+1-f.summary.Steps, 0)
	}
	f.summary.hold(dtS)
	return f.summary, nil
}
