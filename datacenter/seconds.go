package datacenter

import (
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"strconv"
	"strings"
)

// Seconds is an exact, non-negative number of seconds, num/den in lowest terms.
// Steps of a tenth of a second stay exact however many there are. The zero
// value is zero seconds.
type Seconds struct{ num, denMinus1 int64 }

// ParseSeconds reads "1/10", "0.1", "1e-1" or "3".
//
// Numerator and denominator must fit 53 bits each, so that times computed from
// them are correctly rounded.
func ParseSeconds(text string) (Seconds, error) {
	r, ok := parseRat(strings.TrimSpace(text))
	if !ok {
		return Seconds{}, fmt.Errorf("%.64q is not a number of seconds such as 0.1 or \"1/10\"", text)
	}
	const limit = 1 << 53
	switch num, den := r.Num(), r.Denom(); {
	case r.Sign() < 0:
		return Seconds{}, fmt.Errorf("%q is negative", text)
	case !num.IsInt64() || num.Int64() > limit || !den.IsInt64() || den.Int64() > limit:
		return Seconds{}, fmt.Errorf("%q has too many digits to be exact: numerator and denominator must be below 2^53", text)
	default:
		return Seconds{num.Int64(), den.Int64() - 1}, nil
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

func (s Seconds) rat() *big.Rat { return big.NewRat(s.num, s.denMinus1+1) }

// IsZero reports whether s is no time at all.
func (s Seconds) IsZero() bool { return s.num == 0 }

// Float64 returns the nearest double.
func (s Seconds) Float64() float64 { return s.Times(1) }

// Times returns the double nearest to k times s, for k >= 0: the time at step k
// of a run that steps by s.
func (s Seconds) Times(k int64) float64 {
	den := s.denMinus1 + 1
	if hi, lo := bits.Mul64(uint64(k), uint64(s.num)); hi == 0 && lo <= 1<<53 {
		// Both operands are exact, so one division rounds once.
		return float64(lo) / float64(den)
	}
	r := new(big.Rat).SetFrac(new(big.Int).Mul(big.NewInt(k), big.NewInt(s.num)), big.NewInt(den))
	f, _ := r.Float64()
	return f
}

// Cmp compares k times s with other exactly: -1 if less, 0 if equal, +1 if more.
func (s Seconds) Cmp(k int64, other Seconds) int {
	r := new(big.Rat).SetFrac(new(big.Int).Mul(big.NewInt(k), big.NewInt(s.num)), big.NewInt(s.denMinus1+1))
	return r.Cmp(other.rat())
}

// StepsWithin returns how many steps of s start before the end of duration:
// the k with k*s < duration. A zero s gives no steps.
func (s Seconds) StepsWithin(duration Seconds) int64 {
	if s.num == 0 {
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
