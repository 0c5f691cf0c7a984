package characterize

import (
	"time"

	"github.com/g2g-agent/g2g-agent/internal/npmath"
)

// Progress is how far a characterization is.
type Progress struct {
	// Done and Wanted count points.
	Done, Wanted int
	// Models are those that are under way.
	Models []ModelProgress
	// Left is about how long it still takes.
	Left time.Duration
}

// ModelProgress is how far a model is.
type ModelProgress struct {
	ModelLabel string
	BatchSize  int
	Phase      Phase
	// MeasuredS is how much is measured, of MeasureS, in seconds.
	MeasuredS, MeasureS float64
}

// settleGuess is how long it takes to settle, as a multiple of the time to be steady,
// before that is known.
const settleGuess = 2

// progress is how far it is; mu is held. The models run side by side, so that the one
// with the most left to do tells how long it takes.
func (r *run) progress(now time.Time) Progress {
	p := Progress{}
	settleS := settleGuess * r.cfg.Steady.Seconds()
	if len(r.settles) > 0 {
		settleS = npmath.Mean(r.settles)
	}
	for m := range r.models {
		model := &r.models[m]
		p.Wanted += len(model.specs)
		p.Done += len(model.specs) - model.left()
		leftS := 0.0
		for i := range model.specs {
			switch {
			case model.points[i] != nil || model.tried[i] && model.at != i:
			case model.at == i && model.phase == PhaseMeasuring:
				leftS += max(r.cfg.Measure.Seconds()-model.measuredS, 0)
			case model.at == i:
				leftS += max(settleS-now.Sub(model.began).Seconds(), 0) + r.cfg.Measure.Seconds()
			default:
				leftS += settleS + r.cfg.Measure.Seconds()
			}
		}
		p.Left = max(p.Left, time.Duration(leftS*float64(time.Second)))
		if model.at >= 0 {
			p.Models = append(p.Models, ModelProgress{
				ModelLabel: model.specs[model.at].ModelLabel, BatchSize: model.specs[model.at].BatchSize,
				Phase: model.phase, MeasuredS: model.measuredS, MeasureS: r.cfg.Measure.Seconds(),
			})
		}
	}
	return p
}
