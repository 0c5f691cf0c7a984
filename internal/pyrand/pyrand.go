// Package pyrand reproduces Python's random.Random for whole-number seeds, to the
// last bit: the Mersenne Twister MT19937 and the methods that OpenG2G draws from when
// it makes requests.
//
// The generator is that of M. Matsumoto and T. Nishimura, "Mersenne Twister: A
// 623-dimensionally equidistributed uniform pseudo-random number generator", 1998,
// seeded by their init_by_array (2002). Tested against Python 3.11.
package pyrand

import "math/bits"

// The constants of MT19937: length of the state, distance of the word that is mixed
// in, and the matrix of the twist.
const (
	stateWords = 624
	middle     = 397
	matrix     = 0x9908b0df
	upperMask  = 0x80000000
	lowerMask  = 0x7fffffff
)

// Random is the counterpart of random.Random. It is not safe for use by several
// goroutines at once.
type Random struct {
	state [stateWords]uint32
	next  int // of the state's words; stateWords: all are used up
}

// New returns the generator that random.Random(seed) would return. A negative seed
// gives what its absolute value gives, in Python too.
func New(seed uint64) *Random {
	key := []uint32{uint32(seed)} // least word first, without leading zeros
	if high := uint32(seed >> 32); high != 0 {
		key = append(key, high)
	}
	r := &Random{next: stateWords}
	r.fill(19650218)
	r.mixIn(key)
	return r
}

// fill is init_genrand.
func (r *Random) fill(seed uint32) {
	r.state[0] = seed
	for i := 1; i < stateWords; i++ {
		before := r.state[i-1]
		r.state[i] = 1812433253*(before^before>>30) + uint32(i)
	}
}

// mixIn is the rest of init_by_array, for a key that is shorter than the state.
func (r *Random) mixIn(key []uint32) {
	s := &r.state
	i := 1
	advance := func() {
		if i++; i == stateWords {
			s[0], i = s[stateWords-1], 1
		}
	}
	for k := range stateWords {
		j := k % len(key)
		s[i] = (s[i] ^ (s[i-1]^s[i-1]>>30)*1664525) + key[j] + uint32(j)
		advance()
	}
	for range stateWords - 1 {
		s[i] = (s[i] ^ (s[i-1]^s[i-1]>>30)*1566083941) - uint32(i)
		advance()
	}
	s[0] = upperMask
}

// twist makes the next words of the state.
func (r *Random) twist() {
	s := &r.state
	for i := range s {
		mixed := s[i]&upperMask | s[(i+1)%stateWords]&lowerMask
		s[i] = s[(i+middle)%stateWords] ^ mixed>>1 ^ mixed&1*matrix
	}
	r.next = 0
}

// uint32 returns the next 32 bits, as genrand_int32.
func (r *Random) uint32() uint32 {
	if r.next == stateWords {
		r.twist()
	}
	y := r.state[r.next]
	r.next++
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}

// GetRandBits returns a number of k random bits, as getrandbits for k of 0 to 64;
// a k beyond those is taken for the nearest.
func (r *Random) GetRandBits(k int) uint64 {
	switch k = min(max(k, 0), 64); {
	case k == 0:
		return 0
	case k <= 32:
		return uint64(r.uint32() >> (32 - k))
	default:
		low := uint64(r.uint32())
		return uint64(r.uint32()>>(64-k))<<32 | low
	}
}

// RandBelow returns a whole number in [0, n), as the method that choice and shuffle
// are made of; 0 for an n below 1, which Python refuses.
func (r *Random) RandBelow(n int) int {
	if n < 1 {
		return 0
	}
	k := bits.Len(uint(n))
	for {
		if v := r.GetRandBits(k); v < uint64(n) {
			return int(v)
		}
	}
}

// Shuffle reorders s in place, as shuffle.
func Shuffle[T any](r *Random, s []T) {
	for i := len(s) - 1; i > 0; i-- {
		j := r.RandBelow(i + 1)
		s[i], s[j] = s[j], s[i]
	}
}
