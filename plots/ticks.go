package plots

import (
	"math"
	"strconv"
)

// unit is a unit that numbers are shown in.
type unit struct {
	name string
	size float64 // in the base unit
}

// unitFor returns the largest of the units, which begin with the largest, that most
// is at least one of; else, and if most is no number, the smallest.
func unitFor(most float64, units []unit) unit {
	for _, u := range units {
		if isFinite(most) && math.Abs(most) >= u.size {
			return u
		}
	}
	return units[len(units)-1]
}

func powerUnits() []unit { return []unit{{"GW", 1e9}, {"MW", 1e6}, {"kW", 1e3}, {"W", 1}} }

func latencyUnits() []unit { return []unit{{"s", 1}, {"ms", 1e-3}, {"µs", 1e-6}} }

func throughputUnits() []unit {
	return []unit{{"10⁶ tokens/s", 1e6}, {"10³ tokens/s", 1e3}, {"tokens/s", 1}}
}

// timeUnit is what a run of a length is shown in.
func timeUnit(lengthS float64) unit {
	switch {
	case lengthS <= 600:
		return unit{"s", 1}
	case lengthS <= 3*3600:
		return unit{"min", 60}
	case lengthS <= 4*86400:
		return unit{"h", 3600}
	}
	return unit{"d", 86400}
}

// tick is a labelled value.
type tick struct {
	at    float64 // in the units of the drawing
	label string
}

// ticks are at most about most labelled values in a range.
func (a *Axis) ticks(of span, most int) []tick {
	most = max(most, 2)
	switch {
	case a.At != nil:
		return a.givenTicks(of)
	case a.Scale == Log2:
		return powerTicks(of, most, func(e int) string { return number(math.Exp2(float64(e)), 0) })
	case a.Scale == Log10 && (of.high-of.low > 3.5 || of.high-of.low > 0.7*float64(most)):
		return powerTicks(of, most, func(e int) string { return number(math.Pow10(e), max(0, -e)) })
	case a.Scale == Log10:
		return shortLogTicks(of, most)
	}
	return linearTicks(of, most)
}

// givenTicks are those of the axis's own values that lie in the range.
func (a *Axis) givenTicks(of span) []tick {
	var ticks []tick
	for _, v := range a.At {
		if at := a.Scale.place(v); of.low <= at && at <= of.high {
			ticks = append(ticks, tick{at, strconv.FormatFloat(v, 'g', 6, 64)})
		}
	}
	return ticks
}

// linearTicks are multiples of 1, 2, 2.5 or 5 times a power of ten.
func linearTicks(of span, most int) []tick {
	width := of.high - of.low
	exponent := int(math.Floor(math.Log10(width / float64(most))))
	if !isFinite(width) || exponent < -300 || exponent > 300 {
		return nil
	}
	for ; ; exponent++ {
		for _, part := range []struct {
			size     float64
			decimals int
		}{{1, 0}, {2, 0}, {2.5, 1}, {5, 0}} {
			step := part.size * math.Pow10(exponent)
			first, last := math.Ceil(of.low/step-1e-9), math.Floor(of.high/step+1e-9)
			if last-first+1 > float64(most) {
				continue
			}
			var ticks []tick
			decimals := max(0, part.decimals-exponent)
			for i := first; i <= last; i++ {
				ticks = append(ticks, tick{i * step, number(i*step, decimals)})
			}
			return ticks
		}
	}
}

// powerTicks are whole exponents, at even distances.
func powerTicks(of span, most int, label func(exponent int) string) []tick {
	first, last := int(math.Ceil(of.low-1e-9)), int(math.Floor(of.high+1e-9))
	step := 1
	for (last-first)/step+1 > most {
		step++
	}
	var ticks []tick
	for e := first; e <= last; e++ {
		if (e-first)%step == 0 {
			ticks = append(ticks, tick{float64(e), label(e)})
		}
	}
	return ticks
}

// shortLogTicks label a logarithmic axis that is too short for powers of ten alone:
// with 1, 2 and 5 times these or, within less than an octave or so, evenly.
func shortLogTicks(of span, most int) []tick {
	var ticks []tick
	for e := int(math.Floor(of.low)) - 1; e <= int(math.Ceil(of.high)); e++ {
		for _, part := range []float64{1, 2, 5} {
			v := part * math.Pow10(e)
			if at := math.Log10(v); of.low <= at && at <= of.high {
				ticks = append(ticks, tick{at, number(v, max(0, -e))})
			}
		}
	}
	if len(ticks) >= 2 {
		if len(ticks) > most { // tens alone, as far as there are two
			if tens := powerTicks(of, most, func(e int) string { return number(math.Pow10(e), max(0, -e)) }); len(tens) >= 2 {
				return tens
			}
		}
		return ticks
	}
	ticks = linearTicks(span{math.Pow(10, of.low), math.Pow(10, of.high)}, min(most, 4))
	for i := range ticks {
		ticks[i].at = math.Log10(ticks[i].at)
	}
	return ticks
}

// number spells v for people: with decimals or, where that would be long, by its
// exponent.
func number(v float64, decimals int) string {
	if v == 0 {
		v = 0 // not -0
	}
	if text := strconv.FormatFloat(v, 'f', decimals, 64); len(text) <= 7 {
		return text
	}
	return strconv.FormatFloat(v, 'g', 6, 64)
}
