package characterize

import (
	"math/rand/v2"
	"slices"
	"sort"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/npmath"
	"github.com/g2g-agent/g2g-agent/workload"
)

// traceStepS is the step of traces, in seconds, as in OpenG2G's data.
const traceStepS = 0.1

// interval is time that counts, in nanoseconds since a point began.
type interval struct{ from, to int64 }

// intervals are the stretches of time that count, put together where they touch.
func (p *Point) intervals() []interval {
	var all []interval
	for _, s := range p.Spans {
		switch n := len(all); {
		case s.LeftOut != "":
		case n > 0 && all[n-1].to == s.FromNS:
			all[n-1].to = s.ToNS
		default:
			all = append(all, interval{s.FromNS, s.ToNS})
		}
	}
	return all
}

// measuredS is the time that counts, in seconds.
func (p *Point) measuredS() float64 {
	var total int64
	for _, i := range p.intervals() {
		total += i.to - i.from
	}
	return float64(total) / 1e9
}

// courses are the readings of those GPUs that have some, on a clock that is 0 when the
// point began.
func (p *Point) courses() [][]reading {
	var all [][]reading
	for _, g := range p.GPUs {
		if len(g.AtNS) == 0 {
			continue
		}
		course := make([]reading, len(g.AtNS))
		for i, at := range g.AtNS {
			course[i] = reading{time.Unix(0, at), g.PowerW[i]}
		}
		all = append(all, course)
	}
	return all
}

// meanOver is the mean power of a GPU from and to times of the point, in watts.
func meanOver(courses [][]reading, from, to int64) float64 {
	means := make([]float64, len(courses))
	for i, course := range courses {
		means[i] = meanW(course, time.Unix(0, from), time.Unix(0, to))
	}
	return npmath.Mean(means)
}

// PowerW is the mean power of a replica, in watts: by its GPUs' energy counters if they
// tell, else by the readings.
func (p *Point) PowerW() float64 {
	if w, ok := p.energyPowerW(); ok {
		return w
	}
	return p.ReadingsPowerW()
}

// ReadingsPowerW is the mean power of a replica by the readings, in watts.
func (p *Point) ReadingsPowerW() float64 {
	courses := p.courses()
	var energy, seconds float64
	for _, i := range p.intervals() {
		length := float64(i.to-i.from) / 1e9
		energy += float64(meanOver(courses, i.from, i.to) * length)
		seconds += length
	}
	return energy / seconds * float64(p.GPUsPerReplica)
}

const (
	// leastMetered is the share of the time that counts between the first and the last
	// reading of a counter in each stretch of it, for the counter to tell.
	leastMetered = 0.5
	// mostApart is the share by which counters may differ from the readings: one that is
	// off by more counts something else.
	mostApart = 0.2
)

// energyPowerW is the mean power of a replica by the energy that its GPUs took; not ok
// unless all have counters that tell.
func (p *Point) energyPowerW() (powerW float64, ok bool) {
	intervals, measuredS := p.intervals(), p.measuredS()
	var means []float64
	for _, g := range p.GPUs {
		var energyJ, seconds float64
		for _, i := range intervals {
			from, _ := slices.BinarySearch(g.EnergyAtNS, i.from)
			to, _ := slices.BinarySearch(g.EnergyAtNS, i.to)
			if to-from < 2 {
				continue
			}
			rise := g.EnergyJ[to-1] - g.EnergyJ[from]
			if rise < 0 { // it began anew
				return 0, false
			}
			energyJ += rise
			seconds += float64(g.EnergyAtNS[to-1]-g.EnergyAtNS[from]) / 1e9
		}
		if seconds < leastMetered*measuredS {
			return 0, false
		}
		means = append(means, energyJ/seconds)
	}
	powerW = npmath.Mean(means) * float64(p.GPUsPerReplica)
	readings := p.ReadingsPowerW()
	return powerW, powerW >= (1-mostApart)*readings && powerW <= (1+mostApart)*readings
}

// timeline is the power of a replica: the mean over each step, with what does not count
// cut out.
func (p *Point) timeline() workload.Timeline {
	const step = int64(traceStepS * 1e9)
	courses := p.courses()
	var t workload.Timeline
	for _, i := range p.intervals() {
		for from := i.from; from+step <= i.to; from += step {
			t.TS = append(t.TS, float64(len(t.TS))*traceStepS)
			t.PowerW = append(t.PowerW, meanOver(courses, from, from+step)*float64(p.GPUsPerReplica))
		}
	}
	return t
}

// eachLatency calls f with each sample in time that counts: so many tokens of a latency
// in seconds.
func (p *Point) eachLatency(f func(itlS float64, tokens int)) {
	for _, i := range p.intervals() {
		from := sort.Search(len(p.ITL.AtNS), func(k int) bool { return p.ITL.AtNS[k] >= i.from })
		for k := from; k < len(p.ITL.AtNS) && p.ITL.AtNS[k] < i.to; k++ {
			f(float64(p.ITL.ITLNS[k])/1e9, p.ITL.Tokens[k])
		}
	}
}

// LatenciesS are the latencies of single tokens that count, in seconds: those of tokens
// that came together are equal.
func (p *Point) LatenciesS() []float64 {
	var all []float64
	p.eachLatency(func(itlS float64, tokens int) {
		all = append(all, slices.Repeat([]float64{itlS}, tokens)...)
	})
	return all
}

// LatenciesS are the latencies of single tokens of several points that count, in
// seconds. Where a smaller share was kept of one point, so much is taken of all, drawn at
// random, and always the same: each token that came is as likely to be there.
func LatenciesS(points []*Point) []float64 {
	least := 1.0
	for _, p := range points {
		least = min(least, p.ITL.Share)
	}
	var all []float64
	for i, p := range points {
		random := rand.New(rand.NewPCG(fitSeed, uint64(i)))
		keep := least / p.ITL.Share
		p.eachLatency(func(itlS float64, tokens int) {
			if keep >= 1 || random.Float64() < keep {
				all = append(all, slices.Repeat([]float64{itlS}, tokens)...)
			}
		})
	}
	return all
}

// MeanITLS is the mean latency of a token, in seconds, NaN if there is none.
func (p *Point) MeanITLS() float64 {
	var sum float64
	n := 0
	p.eachLatency(func(itlS float64, tokens int) {
		sum += float64(itlS * float64(tokens))
		n += tokens
	})
	return sum / float64(n)
}

// ThroughputTokensPerS is what a replica makes, in tokens a second.
func (p *Point) ThroughputTokensPerS() float64 {
	var tokens uint64
	var ns int64
	for _, s := range p.Spans {
		if s.LeftOut == "" {
			tokens += s.Tokens
			ns += s.ToNS - s.FromNS
		}
	}
	replicas := max(p.NumGPUs/p.GPUsPerReplica, 1)
	return float64(tokens) / (float64(ns) / 1e9) / float64(replicas)
}
