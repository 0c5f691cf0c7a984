// Package nprand reproduces NumPy's numpy.random.default_rng bit for bit:
// SeedSequence, PCG64 and the Generator methods that OpenG2G draws from.
//
// A [Generator] seeded alike and asked alike gives NumPy's numbers, with one
// exception: a normal draw in the tail of the ziggurat (one in 3,700) and the
// lognormal and Poisson draws go through log1p, exp, log and lgamma, where two
// mathematical libraries may differ in the last bit.
//
// The methods were tested against NumPy 1.24 and 2.4.
package nprand

import (
	"math"
	"math/bits"
)

// Generator is the counterpart of numpy.random.Generator over PCG64. It is not
// safe for use by several goroutines at once.
type Generator struct {
	state, inc uint128
	// NumPy serves 32-bit draws from 64-bit ones, low half first, and keeps the
	// high half across calls; 64-bit draws pass the kept half by.
	kept    uint32
	hasKept bool
}

// New returns the generator numpy.random.default_rng(seed) would return.
func New(seed uint64) *Generator {
	w := seedSequence(seed, 4)
	initState, initSeq := uint128{w[0], w[1]}, uint128{w[2], w[3]}
	g := &Generator{inc: uint128{initSeq.hi<<1 | initSeq.lo>>63, initSeq.lo<<1 | 1}}
	g.state = g.state.next(g.inc).add(initState).next(g.inc)
	return g
}

// Uint64 returns the next 64 bits of the stream.
func (g *Generator) Uint64() uint64 {
	g.state = g.state.next(g.inc)
	return g.state.output()
}

// nextUint32 returns the next 32 bits of the buffered 32-bit stream.
func (g *Generator) nextUint32() uint32 {
	if g.hasKept {
		g.hasKept = false
		return g.kept
	}
	v := g.Uint64()
	g.kept, g.hasKept = uint32(v>>32), true
	return uint32(v)
}

// Random returns a double in [0, 1), as Generator.random.
func (g *Generator) Random() float64 {
	return float64(float64(int64(g.Uint64()>>11)) * 0x1p-53)
}

// Uniform returns a double in [low, high), as Generator.uniform.
func (g *Generator) Uniform(low, high float64) float64 {
	return low + float64((high-low)*g.Random())
}

// Integers returns an integer in [low, high), as Generator.integers with the
// default dtype. An empty range, which NumPy refuses, gives low.
func (g *Generator) Integers(low, high int64) int64 {
	if low >= high {
		return low
	}
	return low + int64(g.bounded(uint64(high)-uint64(low)-1))
}

// bounded returns an integer in [0, limit] by Lemire's multiply-shift
// rejection, on 32-bit draws where they suffice.
func (g *Generator) bounded(limit uint64) uint64 {
	switch {
	case limit == 0:
		return 0
	case limit == math.MaxUint32:
		return uint64(g.nextUint32())
	case limit < math.MaxUint32:
		n := uint32(limit) + 1
		m := uint64(g.nextUint32()) * uint64(n)
		if uint32(m) < n {
			for threshold := -n % n; uint32(m) < threshold; {
				m = uint64(g.nextUint32()) * uint64(n)
			}
		}
		return m >> 32
	case limit == math.MaxUint64:
		return g.Uint64()
	default:
		n := limit + 1
		hi, lo := bits.Mul64(g.Uint64(), n)
		if lo < n {
			for threshold := -n % n; lo < threshold; {
				hi, lo = bits.Mul64(g.Uint64(), n)
			}
		}
		return hi
	}
}

// interval returns an integer in [0, limit] by masked rejection, NumPy's
// legacy random_interval, which shuffle still uses.
func (g *Generator) interval(limit uint64) uint64 {
	if limit == 0 {
		return 0
	}
	mask := uint64(1)<<bits.Len64(limit) - 1
	for {
		var v uint64
		if limit <= math.MaxUint32 {
			v = uint64(g.nextUint32())
		} else {
			v = g.Uint64()
		}
		if v &= mask; v <= limit {
			return v
		}
	}
}

// Shuffle reorders s in place, as Generator.shuffle does with a
// one-dimensional array.
func Shuffle[T any](g *Generator, s []T) {
	for i := len(s) - 1; i > 0; i-- {
		j := g.interval(uint64(i))
		s[i], s[j] = s[j], s[i]
	}
}

// Choice returns k distinct numbers below n, as Generator.choice(n, k,
// replace=False). For k above n, which NumPy refuses, it returns n of them.
func (g *Generator) Choice(n, k int) []int {
	n = max(n, 0)
	k = min(max(k, 0), n)
	// NumPy's own thresholds between its two methods.
	const tailShuffleAbove, tailShuffleShare = 10000, 50
	if n > tailShuffleAbove && k > n/tailShuffleShare {
		p := iota0(n)
		g.shuffleDown(p, max(n-k, 1))
		return p[n-k:]
	}
	// Floyd's method: the draw for j is taken unless it was seen, then j is.
	picked := make([]int, 0, k)
	seen := make(map[int]struct{}, k)
	for j := n - k; j < n; j++ {
		v := int(g.bounded(uint64(j)))
		if _, dup := seen[v]; dup {
			v = j
		}
		seen[v] = struct{}{}
		picked = append(picked, v)
	}
	g.shuffleDown(picked, 1)
	return picked
}

// shuffleDown is Fisher-Yates from the last index down to first, on Lemire
// draws (Shuffle draws with masked rejection).
func (g *Generator) shuffleDown(s []int, first int) {
	for i := len(s) - 1; i >= first; i-- {
		j := g.bounded(uint64(i))
		s[i], s[j] = s[j], s[i]
	}
}

func iota0(n int) []int {
	p := make([]int, n)
	for i := range p {
		p[i] = i
	}
	return p
}
