// Package npmath reproduces, bit for bit, the NumPy numerical kernels whose
// results depend on the order of operations: pairwise summation, linear
// interpolation, quantiles and their relatives.
//
// Explicit float64 conversions around products keep compilers for processors
// with fused multiply-add (arm64, ppc64, s390x, riscv64) from changing bits.
package npmath

import (
	"math"
	"slices"
	"sort"
)

// Sum returns the sum of x as numpy.sum computes it for a contiguous float64
// vector: pairwise, in blocks of up to 128 elements with eight accumulators.
func Sum(x []float64) float64 {
	const block = 128
	switch n := len(x); {
	case n < 8:
		// NumPy starts from the first element, so a sum of negative zeros stays one.
		if n == 0 {
			return 0
		}
		s := x[0]
		for _, v := range x[1:] {
			s += v
		}
		return s
	case n <= block:
		r0, r1, r2, r3, r4, r5, r6, r7 := x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]
		i := 8
		for ; i+8 <= n; i += 8 {
			v := x[i : i+8 : i+8]
			r0 += v[0]
			r1 += v[1]
			r2 += v[2]
			r3 += v[3]
			r4 += v[4]
			r5 += v[5]
			r6 += v[6]
			r7 += v[7]
		}
		s := ((r0 + r1) + (r2 + r3)) + ((r4 + r5) + (r6 + r7))
		for ; i < n; i++ {
			s += x[i]
		}
		return s
	default:
		half := n / 2
		half -= half % 8
		return Sum(x[:half]) + Sum(x[half:])
	}
}

// Mean returns numpy.mean of x, NaN for none.
func Mean(x []float64) float64 {
	if len(x) == 0 {
		return math.NaN()
	}
	return Sum(x) / float64(len(x))
}

// Std returns numpy.std of x, the population standard deviation, NaN for none.
func Std(x []float64) float64 {
	mean := Mean(x)
	squares := make([]float64, len(x))
	for i, v := range x {
		d := v - mean
		squares[i] = d * d
	}
	return math.Sqrt(Mean(squares))
}

// Median returns numpy.median of x, NaN for none. It does not change x.
func Median(x []float64) float64 {
	if len(x) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(x))
	mid := len(s) / 2
	if len(s)%2 == 1 {
		return s[mid]
	}
	return (s[mid-1] + s[mid]) / 2
}

// Quantile returns numpy.quantile of the sorted x with its default linear
// method, for q in [0, 1]; NaN for none.
func Quantile(sorted []float64, q float64) float64 {
	n := len(sorted)
	if n == 0 {
		return math.NaN()
	}
	at := float64(float64(n-1) * q)
	below := math.Floor(at)
	i := int(below)
	if i >= n-1 {
		return sorted[n-1]
	}
	t := at - below
	a, b := sorted[i], sorted[i+1]
	// NumPy interpolates from the nearer end.
	if t >= 0.5 {
		return b - float64((b-a)*(1-t))
	}
	return a + float64((b-a)*t)
}

// Interp returns numpy.interp(x, xp, fp) for one x: the value at x of the line
// through the points (xp[i], fp[i]), held beyond the ends. xp must be sorted
// and as long as fp, with at least one point.
func Interp(x float64, xp, fp []float64) float64 {
	last := len(xp) - 1
	switch {
	case math.IsNaN(x):
		return x
	case x < xp[0]:
		return fp[0]
	case x >= xp[last]:
		return fp[last]
	}
	return interpBetween(x, xp, fp, sort.Search(last, func(i int) bool { return xp[i+1] > x }))
}

// interpBetween is the value at x for xp[j] <= x < xp[j+1].
func interpBetween(x float64, xp, fp []float64, j int) float64 {
	if x == xp[j] {
		return fp[j]
	}
	slope := (fp[j+1] - fp[j]) / (xp[j+1] - xp[j])
	v := float64(slope*(x-xp[j])) + fp[j]
	if math.IsNaN(v) {
		v = float64(slope*(x-xp[j+1])) + fp[j+1]
		if math.IsNaN(v) && fp[j] == fp[j+1] {
			v = fp[j]
		}
	}
	return v
}

// InterpPeriodic fills dst[k] with the periodic line through the points at
// k*step: numpy.interp(numpy.arange(len(dst))*step % period, xp, fp) for points
// that start at xp[0] = 0 and whose period is the last xp, above 0.
func InterpPeriodic(dst []float64, step float64, xp, fp []float64) {
	last := len(xp) - 1
	period := xp[last]
	j, before := 0, 0.0
	for k := range dst {
		x := math.Mod(float64(float64(k)*step), period)
		if x < before {
			j = 0
		}
		before = x
		for j < last-1 && xp[j+1] <= x {
			j++
		}
		dst[k] = interpBetween(x, xp, fp, j)
	}
}

// Arange returns numpy.arange(0, stop, step) for a positive step.
func Arange(stop, step float64) []float64 {
	n := int(math.Ceil(stop / step))
	x := make([]float64, max(n, 0))
	for i := range x {
		x[i] = float64(float64(i) * step)
	}
	return x
}

// Linspace returns numpy.linspace(start, stop, n).
func Linspace(start, stop float64, n int) []float64 {
	x := make([]float64, max(n, 0))
	if n == 1 {
		x[0] = start
	}
	if n < 2 {
		return x
	}
	delta := stop - start
	step := delta / float64(n-1)
	for i := range x {
		if step == 0 {
			x[i] = float64(float64(i)/float64(n-1)*delta) + start
			continue
		}
		x[i] = float64(float64(i)*step) + start
	}
	x[n-1] = stop
	return x
}

// BoxSmooth returns numpy.convolve(x, ones(width)/width, mode="same") for
// 1 <= width <= len(x): the moving average, zeros beyond both ends. The order
// of its additions is not NumPy's, so the last bits may differ.
func BoxSmooth(x []float64, width int) []float64 {
	weight := 1 / float64(width)
	// "same" keeps the middle of the full convolution, whose element i sums
	// x[i-width+1..i].
	first := (width - 1) / 2
	out := make([]float64, len(x))
	for i := range out {
		s := 0.0
		for _, v := range x[max(i+first-width+1, 0):min(i+first+1, len(x))] {
			s += float64(v * weight)
		}
		out[i] = s
	}
	return out
}
