package workload

import (
	"math"
	"slices"

	"github.com/g2g-agent/g2g-agent/internal/npmath"
	"github.com/g2g-agent/g2g-agent/internal/nprand"
)

// ITLMixture is the distribution of a model's inter-token latency (ITL), in
// seconds, at one batch size: with weight PiSteady the steady component,
// Loc + LogNormal(ln ScaleSteady, SigmaSteady), else the stall component. The
// weights need not add up to 1.
type ITLMixture struct {
	Loc         float64 `json:"loc"`
	PiSteady    float64 `json:"pi_steady"`
	SigmaSteady float64 `json:"sigma_steady"`
	ScaleSteady float64 `json:"scale_steady"`
	PiStall     float64 `json:"pi_stall"`
	SigmaStall  float64 `json:"sigma_stall"`
	ScaleStall  float64 `json:"scale_stall"`
}

// weights returns the normalised weights of the two components.
func (m *ITLMixture) weights() (steady, stall float64) {
	total := max(m.PiSteady+m.PiStall, 1e-12)
	return m.PiSteady / total, m.PiStall / total
}

// MeanS is the mean of the mixture in seconds: of latencies that it does not follow well
// it can be far from theirs, since the stalls' tail has no end.
func (m *ITLMixture) MeanS() float64 {
	mean, _ := m.meanVar()
	return mean
}

// meanVar returns the mixture's mean (s) and variance (s^2). The variance is
// E[x^2] - E[x]^2, at least 0.
func (m *ITLMixture) meanVar() (mean, variance float64) {
	p1, p2 := m.weights()
	m1, v1 := logNormalMeanVar(m.SigmaSteady, m.ScaleSteady)
	m2, v2 := logNormalMeanVar(m.SigmaStall, m.ScaleStall)
	m1 += m.Loc
	m2 += m.Loc
	mean = float64(p1*m1) + float64(p2*m2)
	square := float64(p1*(v1+float64(m1*m1))) + float64(p2*(v2+float64(m2*m2)))
	return mean, max(square-float64(mean*mean), 0)
}

func logNormalMeanVar(sigma, scale float64) (mean, variance float64) {
	s2 := sigma * sigma
	mean = scale * math.Exp(0.5*s2)
	variance = scale * scale * (math.Exp(s2) - 1) * math.Exp(s2)
	return mean, variance
}

// ITLSampler draws from a mixture.
type ITLSampler struct {
	loc                   float64
	steadyWeight          float64
	logSteady, logStall   float64
	sigmaSteady, sigStall float64
	mean, variance        float64
}

// NewITLSampler prepares the draws from m.
func NewITLSampler(m ITLMixture) *ITLSampler {
	const minScale = 1e-15
	s := &ITLSampler{
		loc:         m.Loc,
		logSteady:   math.Log(max(m.ScaleSteady, minScale)),
		logStall:    math.Log(max(m.ScaleStall, minScale)),
		sigmaSteady: max(m.SigmaSteady, 0),
		sigStall:    max(m.SigmaStall, 0),
	}
	s.steadyWeight, _ = m.weights()
	s.mean, s.variance = m.meanVar()
	return s
}

// one draws the latency of one token, in seconds.
func (s *ITLSampler) one(rng *nprand.Generator) float64 {
	if rng.Random() < s.steadyWeight {
		return s.loc + rng.LogNormal(s.logSteady, s.sigmaSteady)
	}
	return s.loc + rng.LogNormal(s.logStall, s.sigStall)
}

// maxExactReplicas is how many replicas ITLSampler.Avg draws one by one; for
// more it takes their mean as normal.
const maxExactReplicas = 30

// Avg draws the latency averaged over the given number of replicas, in seconds;
// NaN for none, and +Inf for a mixture whose mean or variance outgrows a double
// where it is needed.
func (s *ITLSampler) Avg(rng *nprand.Generator, replicas int) float64 {
	switch {
	case replicas <= 0:
		return math.NaN()
	case replicas <= maxExactReplicas:
		var draws [maxExactReplicas]float64
		for i := range replicas {
			draws[i] = s.one(rng)
		}
		return npmath.Mean(draws[:replicas])
	case math.IsInf(s.mean, 0) || math.IsInf(s.variance, 0) || math.IsNaN(s.variance):
		return math.Inf(1) // the draw would be NaN, or 0
	default:
		return max(rng.Normal(s.mean, math.Sqrt(max(s.variance/float64(replicas), 0))), 0)
	}
}

// FitITL fits a mixture to latency samples in seconds by expectation
// maximisation, as mlenergy-data does for OpenG2G. Samples that are not finite
// and positive are left out; of more than maxSamples (0: no limit) that many
// are drawn with default_rng(seed). Too few samples to tell two components
// apart give one, with weight 1; none at all a placeholder of about 1 ms.
func FitITL(samplesS []float64, maxSamples int, seed uint64) ITLMixture {
	x := slices.DeleteFunc(slices.Clone(samplesS), func(v float64) bool {
		return !(v > 0) || math.IsInf(v, 0)
	})
	return FitITLRuns([][]float64{x}, maxSamples, seed)
}

// FitITLRuns is [FitITL] of the samples of several runs, one after the other, which are
// finite and above 0. It copies no more of them than it needs.
func FitITLRuns(runsS [][]float64, maxSamples int, seed uint64) ITLMixture {
	n := 0
	for _, run := range runsS {
		n += len(run)
	}
	var x []float64
	if maxSamples > 0 && n > maxSamples {
		x = make([]float64, maxSamples)
		for i, at := range nprand.New(seed).Choice(n, maxSamples) {
			run := 0
			for ; at >= len(runsS[run]); run++ {
				at -= len(runsS[run])
			}
			x[i] = runsS[run][at]
		}
	} else {
		x = slices.Concat(runsS...)
	}
	if len(x) == 0 {
		return ITLMixture{Loc: 0, PiSteady: 1, SigmaSteady: 0.1, ScaleSteady: 1e-3, SigmaStall: 0.1, ScaleStall: 2e-3}
	}
	// The shift leaves the smallest sample just above 0.
	loc := max(0, slices.Min(x)-1e-6)
	z := make([]float64, len(x))
	for i, v := range x {
		z[i] = math.Log(max(v-loc, 1e-12))
	}
	sd := npmath.Std(z)
	if len(z) < 5 || sd < 1e-6 {
		mean, sigma := npmath.Mean(z), max(sd, 0.1)
		return ITLMixture{
			Loc: loc, PiSteady: 1, SigmaSteady: sigma, ScaleSteady: math.Exp(mean),
			SigmaStall: sigma, ScaleStall: math.Exp(mean + sigma),
		}
	}
	steady, stall := fitTwoNormals(z, sd)
	if steady.mu > stall.mu {
		steady, stall = stall, steady
	}
	return ITLMixture{
		Loc:      loc,
		PiSteady: steady.pi, SigmaSteady: steady.sigma, ScaleSteady: math.Exp(steady.mu),
		PiStall: stall.pi, SigmaStall: stall.sigma, ScaleStall: math.Exp(stall.mu),
	}
}

// component is one normal of a mixture over the logarithms.
type component struct{ pi, mu, sigma float64 }

// density is the component's weighted density at z, without the constant factor.
func (c *component) density(z float64) float64 {
	d := (z - c.mu) / c.sigma
	return c.pi * math.Exp(-0.5*d*d) / (c.sigma + 1e-12)
}

// update moves the component to the samples it is responsible for.
func (c *component) update(z, responsibility []float64, total float64, scratch []float64) {
	for i, r := range responsibility {
		scratch[i] = r * z[i]
	}
	c.mu = npmath.Sum(scratch) / total
	for i, r := range responsibility {
		d := z[i] - c.mu
		scratch[i] = r * d * d
	}
	c.sigma = max(math.Sqrt(npmath.Sum(scratch)/total), 0.05)
}

// fitTwoNormals runs expectation maximisation on z, whose standard deviation is sd.
func fitTwoNormals(z []float64, sd float64) (component, component) {
	const rounds = 80
	sorted := slices.Sorted(slices.Values(z))
	c1 := component{0.8, npmath.Quantile(sorted, 0.35), max(sd*0.5, 0.1)}
	c2 := component{0.2, npmath.Quantile(sorted, 0.85), max(sd, 0.1)}
	r1, r2, scratch := make([]float64, len(z)), make([]float64, len(z)), make([]float64, len(z))
	for range rounds {
		for i, v := range z {
			p1, p2 := c1.density(v), c2.density(v)
			all := p1 + p2 + 1e-12
			r1[i], r2[i] = p1/all, p2/all
		}
		w1, w2 := npmath.Sum(r1), npmath.Sum(r2)
		if w1 <= 1e-9 || w2 <= 1e-9 {
			break
		}
		c1.pi = w1 / float64(len(z))
		c2.pi = 1 - c1.pi
		c1.update(z, r1, w1, scratch)
		c2.update(z, r2, w2, scratch)
	}
	return c1, c2
}
