package datacenter

import (
	"fmt"
	"math"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func mustSeconds(t testing.TB, text string) Seconds {
	t.Helper()
	s, err := ParseSeconds(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParseSeconds(t *testing.T) {
	for text, want := range map[string]string{
		"1/10": "1/10", "0.1": "1/10", ".1": "1/10", "1e-1": "1/10", "1E-1": "1/10", "2/20": "1/10", " 0.1\n": "1/10",
		"3": "3", "3.": "3", "+3": "3", "3e0": "3", "0.3e1": "3", "30e-1": "3",
		"0": "0", "0/5": "0", "-0": "0", "0e64": "0",
		"1/3": "1/3", "0.25": "1/4",
		"010": "10", "010/1": "10", "1/010": "1/10", "007.5": "15/2", // never octal
		"9007199254740992": "9007199254740992", "1/9007199254740992": "1/9007199254740992",
		"18014398509481984/2": "9007199254740992",
		// What 53 bits do not hold is exact too.
		"9007199254740993": "9007199254740993", "1/9007199254740993": "1/9007199254740993", "0.16666666666666666": "8333333333333333/50000000000000000",
		"99999999999999999999999999/3": "33333333333333333333333333", "1e-30": "1/1000000000000000000000000000000",
	} {
		s, err := ParseSeconds(text)
		if err != nil || s.String() != want {
			t.Errorf("ParseSeconds(%q) = %v, %v, want %s", text, s, err, want)
		}
		if s.IsZero() != (want == "0") {
			t.Errorf("ParseSeconds(%q).IsZero() = %t", text, s.IsZero())
		}
	}
}

func TestParseSecondsRefuses(t *testing.T) {
	const (
		notANumber = "is not a number of seconds such as 0.1 or \"1/10\""
		negative   = "is negative"
	)
	for text, want := range map[string]string{
		"": notANumber, " ": notANumber, "x": notANumber, "1s": notANumber, "0,1": notANumber, "1 000": notANumber,
		"nan": notANumber, "inf": notANumber, "-Inf": notANumber,
		"1/0": notANumber, "0/0": notANumber, "/": notANumber, "1/": notANumber, "/2": notANumber,
		"1/2/3": notANumber, "0.1/2": notANumber, "1 / 2": notANumber, "1/-2": notANumber, "1/+2": notANumber, "1e3/2": notANumber, "2/1e3": notANumber,
		"0x10": notANumber, "0x1p4": notANumber, "1p4": notANumber, "0b1": notANumber, "0o7": notANumber, "1_000": notANumber, "0x1e2": notANumber,
		"1e": notANumber, "e1": notANumber, "1e1.5": notANumber, "1e1e1": notANumber, "1e65": notANumber, "1e-65": notANumber,
		"-1": negative, "-1/10": negative, "-1e-3": negative,
	} {
		s, err := ParseSeconds(text)
		if err == nil || !strings.Contains(err.Error(), want) || s != (Seconds{}) {
			t.Errorf("ParseSeconds(%q) = %v, %v, want no seconds and …%s…", text, s, err, want)
		}
	}
}

// Were these computed, they would take hours or all memory.
func TestParseSecondsRefusesWhatIsHuge(t *testing.T) {
	digits := strings.Repeat("9", 16<<20)
	for _, text := range []string{
		digits, "1/" + digits, "0." + digits, "1e" + digits, "1e-" + digits, digits + "/" + digits,
		"1e999999999", "1e-999999999", "0e99999999999999999999", "1e9223372036854775807",
	} {
		if s, err := ParseSeconds(text); err == nil {
			t.Errorf("ParseSeconds(%.20q…) = %v, want an error", text, s)
		} else if len(err.Error()) > 200 {
			t.Errorf("ParseSeconds(%.20q…): an error of %d bytes", text, len(err.Error()))
		}
	}
}

func TestSecondsOf(t *testing.T) {
	for f, want := range map[float64]string{
		0: "0", math.Copysign(0, -1): "0", 0.1: "1/10", 0.30: "3/10", 1e-5: "1/100000", 3: "3", 300: "300", 1 << 53: "9007199254740992", 1.0 / 3: "3333333333333333/10000000000000000",
	} {
		if s, err := SecondsOf(f); err != nil || s.String() != want || s.Float64() != f {
			t.Errorf("SecondsOf(%v) = %v (%v), %v, want %s", f, s, s.Float64(), err, want)
		}
	}
	for _, f := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -0.1, math.MaxFloat64, math.SmallestNonzeroFloat64} {
		if s, err := SecondsOf(f); err == nil {
			t.Errorf("SecondsOf(%v) = %v, want an error", f, s)
		}
	}
}

func TestZeroSeconds(t *testing.T) {
	var zero Seconds
	tenth := mustSeconds(t, "0.1")
	if !zero.IsZero() || zero != mustSeconds(t, "0") || zero.Float64() != 0 || zero.Times(math.MaxInt64) != 0 || zero.String() != "0" {
		t.Errorf("the zero value is %v", zero)
	}
	if n := zero.StepsWithin(tenth); n != 0 {
		t.Errorf("%d steps of no time", n)
	}
	if n := tenth.StepsWithin(zero); n != 0 {
		t.Errorf("%d steps in no time", n)
	}
}

// drawSeconds draws numerators and denominators of all sizes.
func drawSeconds(t *rapid.T, label string, least int64) Seconds {
	part := func(least int64) int64 {
		return max(least, rapid.Int64Range(0, 1<<rapid.IntRange(0, 53).Draw(t, label+" bits")).Draw(t, label))
	}
	s, err := ParseSeconds(fmt.Sprintf("%d/%d", part(least), part(1)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func drawStep(t *rapid.T) int64 {
	return rapid.OneOf(rapid.Int64Range(0, 1e7), rapid.Int64Range(0, math.MaxInt64)).Draw(t, "k")
}

// product is k*s.
func product(k int64, s Seconds) *big.Rat {
	return new(big.Rat).Mul(new(big.Rat).SetInt64(k), s.rat())
}

func TestTimesIsTheNearestDouble(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, k := drawSeconds(t, "s", 0), drawStep(t)
		if want, _ := product(k, s).Float64(); s.Times(k) != want {
			t.Errorf("(%v).Times(%d) = %v, want %v", s, k, s.Times(k), want)
		}
	})
}

func TestTimesDoesNotDrift(t *testing.T) {
	for text, want := range map[string]map[int64]float64{
		"0.1": {3: 0.3, 6: 0.6, 7: 0.7, 10_000_000: 1e6, 10_000_001: 1000000.1},
		"1/3": {1: 1.0 / 3, 2: 2.0 / 3, 3: 1, 3_000_000_000_000_000: 1e15, math.MaxInt64: 3074457345618258602.33},
	} {
		s := mustSeconds(t, text)
		for k, w := range want {
			if got := s.Times(k); got != w {
				t.Errorf("%d times %s = %v, want %v", k, text, got, w)
			}
		}
	}
}

func TestStepsWithin(t *testing.T) {
	for _, c := range []struct {
		step, duration string
		want           int64
	}{
		{"0.1", "20", 200}, {"0.1", "20.05", 201}, {"0.1", "0.1", 1}, {"0.1", "0.05", 1},
		{"1/3", "1", 3}, {"1/3", "10", 30}, {"1/3", "1/3", 1}, {"1/3", "0.34", 2}, {"1/3", "0.3333333333", 1},
		{"0.1", "0.3", 3}, {"0.7", "2.1", 3}, // 0.1*3 > 0.3 and 0.7*3 < 2.1 in doubles
		{"1/9007199254740992", "9007199254740992", math.MaxInt64}, // more steps than an int64 counts
		{"1/1000", "9007199254740992", 9007199254740992000},
	} {
		step, duration := mustSeconds(t, c.step), mustSeconds(t, c.duration)
		if got := step.StepsWithin(duration); got != c.want {
			t.Errorf("(%s).StepsWithin(%s) = %d, want %d", c.step, c.duration, got, c.want)
		}
		if got := duration.FirstStepAt(step); got != c.want {
			t.Errorf("(%s).FirstStepAt(%s) = %d, want %d", c.duration, c.step, got, c.want)
		}
	}
}

func TestStepsAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		step, end := drawSeconds(t, "step", 1), drawSeconds(t, "end", 0)
		n := step.StepsWithin(end)
		if n > 0 && product(n-1, step).Cmp(end.rat()) >= 0 {
			t.Errorf("step %d of %v does not start before %v", n-1, step, end)
		}
		if n < math.MaxInt64 && product(n, step).Cmp(end.rat()) < 0 {
			t.Errorf("step %d of %v starts before %v too", n, step, end)
		}
		if got := end.FirstStepAt(step); got != n {
			t.Errorf("(%v).FirstStepAt(%v) = %d, want %d", end, step, got, n)
		}
	})
}

func TestSecondsStringReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSeconds(t, "s", 0)
		if again, err := ParseSeconds(s.String()); err != nil || again.rat().Cmp(s.rat()) != 0 {
			t.Errorf("%v reads back as %v, %v", s, again, err)
		}
	})
}
