package agent

import (
	"math"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/recording"
	"github.com/g2g-agent/g2g-agent/rig"
)

// tape hands to a recorder what the steps of a live run read. It is for the goroutine
// that steps.
type tape struct {
	to      Recorder
	labels  []string
	startMs int64         // Unix milliseconds of the run's zero
	zero    time.Duration // the run's zero on the clock of the power histories
	loads   [][]loadSeen  // by model and server
	power   []powerSeen   // by GPU
	dt      datacenter.Seconds
	stale   time.Duration
	next    int64 // step from which on what holds is told anew
	anew    bool  // at this step
	itl     recording.ITL
	metrics recording.Metrics
}

// loadSeen is what a step saw last of a server's load.
type loadSeen struct {
	at     time.Time
	tooOld bool
}

// powerSeen is what came last of a GPU's power.
type powerSeen struct {
	entry rig.FeedEntry
	known bool
	stale bool
}

// anewEveryS is how often, in seconds, what holds for long is told anew: power that is
// stale and what servers last said. Whoever begins in the middle learns of it.
const anewEveryS = 10

// begin tells of a step and of the power that it is the first to see. now is when it is
// due, on the clock of the power histories.
func (t *tape) begin(step int64, due time.Time, now time.Duration, entries []rig.FeedEntry) {
	t.to.BeginStep(step, due.UnixMilli(), time.Since(due).Microseconds())
	for i := range entries {
		e := &entries[i]
		seen := &t.power[e.GPU]
		p := t.entry(step, e)
		if seen.stale && p.Mark == recording.MarkReading {
			p.Mark = recording.MarkFresh
		}
		*seen = powerSeen{entry: *e, known: true}
		t.to.Power(e.GPU, p)
	}
	if t.anew = step >= t.next; t.anew {
		t.next = step + max(int64(anewEveryS/t.dt.Float64()), 1)
	}
	for gpu := range t.power {
		seen := &t.power[gpu]
		// That a GPU is lost is told once: told again it could be more than it was, since a
		// model's last GPU is held until others are heard of.
		if !seen.known || seen.entry.Lost || now-seen.entry.At < t.stale || seen.stale && !t.anew {
			continue
		}
		seen.stale = true
		p := t.entry(step, &seen.entry)
		p.Mark = recording.MarkStale
		t.to.Power(gpu, p)
	}
}

// entry is an entry as it is recorded: its time on the run's clock is to the
// nanosecond that of the source's time stamp with the correction.
func (t *tape) entry(step int64, e *rig.FeedEntry) recording.PowerEntry {
	runNs := int64(e.At - t.zero)
	stampMs := e.StampMs
	if stampMs == 0 {
		stampMs = t.startMs + floorDiv(runNs, int64(time.Millisecond))
	}
	p := recording.PowerEntry{
		TMs: stampMs, PowerMW: e.PowerMW, Step: step, OffsetNs: runNs - (stampMs-t.startMs)*int64(time.Millisecond), Mark: recording.MarkReading,
	}
	switch {
	case e.Lost:
		p.Mark = recording.MarkLost
	case e.Confirmation:
		p.Mark = recording.MarkConfirmation
	}
	return p
}

// floorDiv is a/b, rounded down.
func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// observe tells of a model's tokens since the last step, and of what its servers have
// said since then.
func (t *tape) observe(step int64, m int, came *loadgen.StepITL, loads []rig.LoadReading) {
	if came.Count > 0 || came.Output > 0 || len(came.Bins) > 0 {
		t.itl = recording.ITL{
			Seq: step, ModelLabel: t.labels[m], OutputTokens: came.Output, Count: came.Count, SumNs: came.SumNs,
			Method: recording.Method(came.Method()), Bins: came.Bins, Counts: came.Counts,
		}
		t.to.ITL(&t.itl)
	}
	for len(t.loads[m]) < len(loads) {
		t.loads[m] = append(t.loads[m], loadSeen{})
	}
	for i := range loads {
		r := &loads[i]
		seen := loadSeen{r.At, r.Load == nil}
		if r.At.IsZero() || seen == t.loads[m][i] && !t.anew {
			continue
		}
		t.loads[m][i] = seen
		nan := math.NaN()
		load := datacenter.ServerLoad{NumRequestsRunning: nan, NumRequestsWaiting: nan, KVCacheUsagePerc: nan}
		if r.Load != nil {
			load = *r.Load
		}
		if len(loads) > 1 || r.Load == nil {
			load.NumPreemptionsTotal = r.Preempted
		}
		t.metrics = recording.Metrics{
			Step: step, ModelLabel: t.labels[m], ServerIndex: int64(i), TooOld: r.Load == nil,
			NumRequestsRunning: load.NumRequestsRunning, NumRequestsWaiting: load.NumRequestsWaiting,
			KVCacheUsagePerc: load.KVCacheUsagePerc, NumPreemptionsTotal: load.NumPreemptionsTotal,
		}
		t.to.Metrics(&t.metrics)
	}
}
