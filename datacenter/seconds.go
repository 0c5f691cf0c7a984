package datacenter

import (
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"strconv"
	"strings"
)

// Seconds is an exact, non-negative number of seconds. Steps of a tenth of a
// second stay exact however many there are. The zero value is zero seconds.
type Seconds struct {
	// The number in lowest terms if both fit 53 bits, else in exact.
	num, denMinus1 int64
	exact          *big.Rat
}

// ParseSeconds reads "1/10", "0.1", "1e-1" or "3".
func ParseSeconds(text string) (Seconds, error) {
	r, ok := parseRat(strings.TrimSpace(text))
	if !ok {
		return Seconds{}, fmt.Errorf("%.64q is not a number of seconds such as 0.1 or \"1/10\"", text)
	}
	switch num, den := r.Num(), r.Denom(); {
	case r.Sign() < 0:
		return Seconds{}, fmt.Errorf("%.64q is negative, want a number of seconds >= 0", text)
	case num.BitLen() > 53 || den.BitLen() > 53:
		return Seconds{exact: r}, nil
	default:
		return Seconds{num: num.Int64(), denMinus1: den.Int64() - 1}, nil
	}
}

// parseRat reads a fraction of two whole numbers or a decimal number.
func parseRat(text string) (*big.Rat, bool) {
	const most = 64 // characters, and ten's exponent: 1e999999999 would ask for gigabytes
	if len(text) > most || strings.ContainsAny(text, "xXoObB_pP") {
		return nil, false
	}
	if num, den, isFraction := strings.Cut(text, "/"); isFraction {
		// Rat.SetString would read 1/010 as one eighth.
		n, ok1 := new(big.Int).SetString(num, 10)
		d, ok2 := new(big.Int).SetString(den, 10)
		if !ok1 || !ok2 || d.Sign() <= 0 || den[0] == '+' {
			return nil, false
		}
		return new(big.Rat).SetFrac(n, d), true
	}
	if _, exponent, hasExponent := strings.Cut(strings.ToLower(text), "e"); hasExponent {
		if e, err := strconv.Atoi(exponent); err != nil || e < -most || e > most {
			return nil, false
		}
	}
	return new(big.Rat).SetString(text)
}

// SecondsOf returns the seconds that f's shortest decimal form denotes: 0.1 is
// one tenth, not the double nearest to it. It fails as ParseSeconds does.
func SecondsOf(f float64) (Seconds, error) {
	return ParseSeconds(strconv.FormatFloat(f, 'g', -1, 64))
}

func (s Seconds) rat() *big.Rat {
	if s.exact != nil {
		return s.exact
	}
	return big.NewRat(s.num, s.denMinus1+1)
}

// times is k times s, exactly.
func (s Seconds) times(k int64) *big.Rat {
	return new(big.Rat).Mul(new(big.Rat).SetInt64(k), s.rat())
}

// IsZero reports whether s is no time at all.
func (s Seconds) IsZero() bool { return s.num == 0 && s.exact == nil }

// Float64 returns the nearest double.
func (s Seconds) Float64() float64 { return s.Times(1) }

// Times returns the double nearest to k times s, for k >= 0: the time at step k
// of a run that steps by s.
func (s Seconds) Times(k int64) float64 {
	if hi, lo := bits.Mul64(uint64(k), uint64(s.num)); hi == 0 && lo <= 1<<53 && s.exact == nil {
		// Both operands are exact, so one division rounds once.
		return float64(lo) / float64(s.denMinus1+1)
	}
	f, _ := s.times(k).Float64()
	return f
}

// StepsWithin returns how many steps of s start before the end of duration:
// the k with k*s < duration. A zero s gives no steps.
func (s Seconds) StepsWithin(duration Seconds) int64 {
	if s.IsZero() {
		return 0
	}
	q := new(big.Rat).Quo(duration.rat(), s.rat())
	n, rest := new(big.Int).QuoRem(q.Num(), q.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		n.Add(n, big.NewInt(1))
	}
	if !n.IsInt64() {
		return math.MaxInt64
	}
	return n.Int64()
}

// FirstStepAt returns the first k with k*step >= s.
func (s Seconds) FirstStepAt(step Seconds) int64 { return step.StepsWithin(s) }

// String returns "1/10", or "3" for whole seconds.
func (s Seconds) String() string { return s.rat().RatString() }
