package nprand

import "math/bits"

// The multiplier of the 128-bit linear congruential generator behind PCG64,
// high and low word (O'Neill, "PCG: A Family of Simple Fast Space-Efficient
// Statistically Good Algorithms for Random Number Generation", 2014).
const (
	pcgMultHi = 0x2360ed051fc65da4
	pcgMultLo = 0x4385df649fccf645
)

// uint128 is an unsigned 128-bit integer, arithmetic modulo 2^128.
type uint128 struct{ hi, lo uint64 }

func (x uint128) add(y uint128) uint128 {
	lo, carry := bits.Add64(x.lo, y.lo, 0)
	hi, _ := bits.Add64(x.hi, y.hi, carry)
	return uint128{hi, lo}
}

// next is one step of the congruential generator with increment inc.
func (x uint128) next(inc uint128) uint128 {
	hi, lo := bits.Mul64(x.lo, pcgMultLo)
	hi += x.hi*pcgMultLo + x.lo*pcgMultHi
	return uint128{hi, lo}.add(inc)
}

// output is the XSL-RR permutation: the two halves xored, then rotated right
// by the state's top six bits.
func (x uint128) output() uint64 {
	return bits.RotateLeft64(x.hi^x.lo, -int(x.hi>>58))
}

// seedSequence derives n 64-bit words from a seed as numpy.random.SeedSequence
// does with its default pool of four 32-bit words.
func seedSequence(seed uint64, n int) []uint64 {
	const (
		initA, multA       = 0x43b0d7e5, 0x931e8875
		initB, multB       = 0x8b51f9dd, 0x58f38ded
		mixMultL, mixMultR = 0xca01f9dd, 0x4973f715
		xshift             = 16
	)
	hashConst := uint32(initA)
	hash := func(v uint32) uint32 {
		v ^= hashConst
		hashConst *= multA
		v *= hashConst
		return v ^ v>>xshift
	}
	// The entropy of a 64-bit seed never exceeds the pool, so the words beyond
	// the seed's two are zero.
	pool := [4]uint32{uint32(seed), uint32(seed >> 32), 0, 0}
	for i := range pool {
		pool[i] = hash(pool[i])
	}
	for src := range pool {
		for dst := range pool {
			if src != dst {
				mixed := mixMultL*pool[dst] - mixMultR*hash(pool[src])
				pool[dst] = mixed ^ mixed>>xshift
			}
		}
	}
	hashConst = initB
	words := make([]uint64, n)
	for i := range 2 * n {
		v := pool[i%len(pool)] ^ hashConst
		hashConst *= multB
		v *= hashConst
		v ^= v >> xshift
		words[i/2] |= uint64(v) << (32 * (i % 2))
	}
	return words
}
