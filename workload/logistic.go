package workload

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/g2g-agent/g2g-agent/internal/npmath"
)

// LogisticFit is a curve over the batch size:
//
//	y = B0 + L * sigmoid(K * (log2(batch size) - X0))
//
// L and B0 have the unit of y.
type LogisticFit struct{ L, X0, K, B0 float64 }

// At returns the curve's value at a batch size; below 1 it is taken as 1.
func (f LogisticFit) At(batchSize int) float64 {
	return f.B0 + float64(f.L*sigmoid(f.K*(logBatch(batchSize)-f.X0)))
}

// LogisticFits are the curves of one model that OpenG2G's controllers use.
type LogisticFits struct {
	// PowerW is the power of one replica, all its GPUs together, in watts.
	PowerW LogisticFit
	// LatencyS is the mean inter-token latency in seconds.
	LatencyS LogisticFit
	// ThroughputTokensPerS is the output of one replica in tokens per second.
	ThroughputTokensPerS LogisticFit
}

func logBatch(batchSize int) float64 { return math.Log2(float64(max(batchSize, 1))) }

func sigmoid(z float64) float64 { return 1 / (1 + math.Exp(-z)) }

// FitLogistic fits a curve to y at the batch sizes, as mlenergy-data does for
// OpenG2G: a grid of 40 values of X0 by 60 of K, least squares for L and B0 in each
// cell, the first of the best cells. Points without a finite y are left out. y that
// hardly varies gives a constant, no points at all zero.
//
// Two points lie on a curve of every cell, and in OpenG2G rounding picks one. Here it
// is the first that meets both, which is the flattest. The warnings say this, and
// what else makes a curve doubtful.
func FitLogistic(batchSizes []int, y []float64) (LogisticFit, []string) {
	var warnings []string
	var at []logisticPoint
	for i, batchSize := range batchSizes[:min(len(batchSizes), len(y))] {
		if math.IsNaN(y[i]) || math.IsInf(y[i], 0) {
			warnings = append(warnings, fmt.Sprintf("batch size %d is left out of the fit: its value is %v", batchSize, y[i]))
			continue
		}
		at = append(at, logisticPoint{batchSize, logBatch(batchSize), y[i]})
	}
	slices.SortStableFunc(at, func(a, b logisticPoint) int { return cmp.Compare(a.batchSize, b.batchSize) })
	x, values := make([]float64, len(at)), make([]float64, len(at))
	for i, p := range at {
		x[i], values[i] = p.x, p.y
	}
	switch {
	case len(at) == 0:
		return LogisticFit{K: 1}, warnings
	case !slices.ContainsFunc(values, func(v float64) bool { return !closeTo(v, values[0]) }):
		return LogisticFit{X0: x[0], K: 1, B0: npmath.Mean(values)}, warnings
	}
	fit := fitLogisticGrid(x, values)
	if len(at) == 2 {
		return fit, append(warnings, fmt.Sprintf("two batch sizes (%d and %d) do not determine a curve: between and beyond them it is a guess",
			at[0].batchSize, at[1].batchSize))
	}
	return fit, append(warnings, fit.doubts(at)...)
}

type logisticPoint struct {
	batchSize int
	x, y      float64
}

// closeTo is numpy.isclose with its defaults.
func closeTo(v, to float64) bool { return math.Abs(v-to) <= 1e-8+float64(1e-5*math.Abs(to)) }

// gridX0 is how many values of X0 mlenergy-data tries.
const gridX0 = 40

// gridK is numpy.logspace(-2, 2, 60) where the processor has AVX-512; elsewhere the
// last bits of four of them differ, and Go's math.Pow would differ in more.
func gridK() [60]float64 {
	return [...]float64{
		0.01, 0.011689518164985783, 0.013664483492953258, 0.01597312280060254, 0.018671810912919196, 0.02182644728397487,
		0.025514065200312887, 0.02982471286216891, 0.03486365227678084, 0.040753929658717776, 0.047639380104013404, 0.0556881399094527,
		0.0650967523045817, 0.07609496685459875, 0.08895134973108236, 0.103979841848149, 0.12154742500762865, 0.14208308325339222,
		0.1660882782627716, 0.19414919457438806, 0.22695105366946683, 0.26529484644318957, 0.3101168926574778, 0.3625117049988533,
		0.4237587160604063, 0.495353520895917, 0.5790443980602487, 0.6768750009458534, 0.7912342618981323, 0.9249147277217336,
		1.0811807510766078, 1.2638482029342983, 1.4773776525985112, 1.7269832906594342, 2.018760254679039, 2.359833466782194,
		2.7585316176291843, 3.2245905452963948, 3.7693909753883594, 4.406236427773573, 5.150678076168122, 6.020894493336131,
		7.0381355549315545, 8.227241341700465, 9.617248711152964, 11.242100350620863, 13.141473626117568, 15.36174946671828,
		17.957144943716408, 20.991037201085547, 24.537511066398167, 28.683168133420118, 33.529241492495565, 39.194067748472214,
		45.81597669054491, 53.55666917706896, 62.605165720148214, 73.18242219076174, 85.54672535565685, 100,
	}
}

func fitLogisticGrid(x, y []float64) LogisticFit {
	x0s := npmath.Linspace(x[0]-1, x[len(x)-1]+1, gridX0)
	ks := gridK()
	goodEnough := 0.0
	if len(x) == 2 {
		const met = 1e-24 // of the mean square: what rounding leaves is far below
		goodEnough = met * (float64(y[0]*y[0]) + float64(y[1]*y[1])) / 2
	}
	meanY := compensatedSum(len(y), func(i int) float64 { return y[i] }) / float64(len(y))
	best, least := LogisticFit{}, math.Inf(1)
	s := make([]float64, len(x))
	for _, x0 := range x0s {
		for _, k := range ks {
			for i, v := range x {
				s[i] = sigmoid(k * (v - x0))
			}
			l, b0 := leastSquares(s, y, meanY)
			mse := compensatedSum(len(y), func(i int) float64 {
				d := y[i] - (b0 + float64(l*s[i]))
				return float64(d * d)
			}) / float64(len(y))
			if mse < least {
				best, least = LogisticFit{L: l, X0: x0, K: k, B0: b0}, mse
			}
			if least <= goodEnough {
				return best
			}
		}
	}
	return best
}

// leastSquares returns l and b0 of the straight line b0 + l*s through y, whose mean is
// meanY; l is 0 where s does not vary.
func leastSquares(s, y []float64, meanY float64) (l, b0 float64) {
	n := len(s)
	meanS := compensatedSum(n, func(i int) float64 { return s[i] }) / float64(n)
	spread := compensatedSum(n, func(i int) float64 { d := s[i] - meanS; return float64(d * d) })
	const noSpread = 1e-30
	if spread > noSpread*float64(n) {
		l = compensatedSum(n, func(i int) float64 { return float64((s[i] - meanS) * (y[i] - meanY)) }) / spread
	}
	return l, meanY - float64(l*meanS)
}

// compensatedSum adds up n terms as Neumaier does, so that the grid's best cell does
// not hang on rounding.
func compensatedSum(n int, term func(i int) float64) float64 {
	var sum, lost float64
	for i := range n {
		v := term(i)
		t := sum + v
		if math.Abs(sum) >= math.Abs(v) {
			lost += (sum - t) + v
		} else {
			lost += (v - t) + sum
		}
		sum = t
	}
	return sum + lost
}

// doubts are OpenG2G's remarks on a fit to the points, which ascend.
func (f LogisticFit) doubts(at []logisticPoint) []string {
	var doubts []string
	add := func(format string, args ...any) { doubts = append(doubts, fmt.Sprintf(format, args...)) }
	const flat, steep = 0.3, 3
	if f.K < flat {
		add("k is %.3g, below %v: the curve is so flat that its slope says little", f.K, flat)
	}
	if f.K > steep {
		add("k is %.3g, above %v: the curve is a step at log2(batch size) = %.2f and flat elsewhere", f.K, steep, f.X0)
	}
	if f.L < 0 {
		add("L is %.3g: the curve falls with the batch size", f.L)
	}
	if f.B0 < 0 {
		add("b0 is %.3g: the curve begins below 0", f.B0)
	}
	first, last := at[0], at[len(at)-1]
	if f.At(last.batchSize) < f.At(first.batchSize) && last.y > first.y {
		add("the curve falls from batch size %d to %d, while what was measured rises from %.3g to %.3g", first.batchSize, last.batchSize, first.y, last.y)
	}
	return doubts
}
