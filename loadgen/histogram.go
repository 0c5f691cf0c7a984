package loadgen

import (
	"math"
	"math/bits"
	"time"
)

// Histograms count durations in log-linear bins: each power of two of
// nanoseconds is divided into binsPerOctave equal bins, so that a value is known
// to within 1/(2·64) = 0.8 % at worst. Bin 0 holds everything below about 1 µs,
// the last bin everything above about 137 s.
//
// They are ours because every token passes here: counting a value takes 4 ns, with
// HdrHistogram 7 ns, and the windows want many small ones that are cheap to merge.
const (
	subBits       = 6
	binsPerOctave = 1 << subBits
	minExponent   = 10 // 1024 ns
	maxExponent   = 37 // 137 s
	numBins       = 1 + (maxExponent-minExponent)*binsPerOctave
)

// binOf is the bin that holds d.
func binOf(d time.Duration) int {
	if d < 1<<minExponent {
		return 0
	}
	exponent := bits.Len64(uint64(d)) - 1
	if exponent >= maxExponent {
		return numBins - 1
	}
	within := int(uint64(d)>>(exponent-subBits)) & (binsPerOctave - 1)
	return 1 + (exponent-minExponent)*binsPerOctave + within
}

// binStart is the least duration in nanoseconds that bin holds; that of numBins
// is the end of the last bin.
func binStart(bin int) float64 {
	if bin == 0 {
		return 0
	}
	octave, within := (bin-1)/binsPerOctave, (bin-1)%binsPerOctave
	return math.Ldexp(1+float64(float64(within)/binsPerOctave), minExponent+octave)
}

// NumBuckets is the number of bounds up to which a [Distribution] counts.
const NumBuckets = 28

// bucketBounds are close together where the deadlines of inter-token latencies
// lie, and reach to what the first token of an overloaded server takes. They
// contain those that OpenTelemetry recommends for the time per output token.
func bucketBounds() [NumBuckets]time.Duration {
	const ms = time.Millisecond
	return [NumBuckets]time.Duration{
		5 * ms, 10 * ms, 15 * ms, 20 * ms, 25 * ms, 30 * ms, 40 * ms, 50 * ms, 60 * ms, 75 * ms, 80 * ms, 100 * ms, 120 * ms, 150 * ms,
		200 * ms, 250 * ms, 300 * ms, 400 * ms, 500 * ms, 750 * ms, 1000 * ms, 1500 * ms, 2000 * ms, 2500 * ms,
		5000 * ms, 10_000 * ms, 30_000 * ms, 60_000 * ms,
	}
}

// BucketBoundsS are the rising bounds, in seconds, of [Distribution.Cumulative].
func BucketBoundsS() [NumBuckets]float64 {
	var boundsS [NumBuckets]float64
	for i, bound := range bucketBounds() {
		boundsS[i] = bound.Seconds()
	}
	return boundsS
}

// histogram counts durations over all time.
type histogram struct {
	bins [numBins]uint64
	// buckets count exactly what the bins know to within 0.8 %: bucket i has what
	// is above bound i-1 and at most bound i, the last one what is above all.
	buckets [NumBuckets + 1]uint64
	count   uint64
	sumNs   float64 // an integer would be full within months
}

func (h *histogram) add(d time.Duration, n uint64) {
	h.bins[binOf(d)] += n
	h.buckets[bucketOf(d)] += n
	h.count += n
	h.sumNs += float64(float64(d) * float64(n))
}

// remove takes out what add has put in.
func (h *histogram) remove(d time.Duration, n uint64) {
	h.bins[binOf(d)] -= n
	h.buckets[bucketOf(d)] -= n
	h.count -= n
	h.sumNs -= float64(float64(d) * float64(n))
}

// bucketOf is the bucket that holds d.
func bucketOf(d time.Duration) int {
	for i, bound := range bucketBounds() {
		if d <= bound {
			return i
		}
	}
	return NumBuckets
}

func (h *histogram) merge(other *histogram) {
	for i, n := range other.bins {
		h.bins[i] += n
	}
	for i, n := range other.buckets {
		h.buckets[i] += n
	}
	h.count += other.count
	h.sumNs += other.sumNs
}

// Distribution sums up the durations of a kind since the start, in seconds; NaN
// when there are none.
type Distribution struct {
	Count                         uint64
	MeanS, P50S, P90S, P95S, P99S float64
	// SumS is the sum of the durations, 0 when there are none.
	SumS float64
	// Cumulative[i] counts exactly the durations of at most [BucketBoundsS][i].
	Cumulative [NumBuckets]uint64
}

func (h *histogram) distribution() Distribution {
	q := quantiles(h.bins[:], h.count)
	d := Distribution{
		Count: h.count, MeanS: h.sumNs / float64(h.count) / 1e9, SumS: h.sumNs / 1e9,
		P50S: q[0], P90S: q[1], P95S: q[2], P99S: q[3],
	}
	var below uint64
	for i := range d.Cumulative {
		below += h.buckets[i]
		d.Cumulative[i] = below
	}
	return d
}

// quantiles are the 50th, 90th, 95th and 99th percentile in seconds of the count
// values in bins, NaN when count is 0. Within a bin, values are taken to be
// spread evenly.
func quantiles(bins []uint64, count uint64) (q [4]float64) {
	if count == 0 {
		nan := math.NaN()
		return [4]float64{nan, nan, nan, nan}
	}
	wanted := [4]float64{0.5, 0.9, 0.95, 0.99}
	var below uint64
	next := 0
	for bin, n := range bins {
		for n > 0 && next < len(wanted) {
			rank := float64(wanted[next] * float64(count))
			if rank > float64(below+n) {
				break
			}
			low, high := binStart(bin), binStart(bin+1)
			q[next] = (low + (high-low)*(rank-float64(below))/float64(n)) / 1e9
			next++
		}
		below += n
	}
	return q
}
