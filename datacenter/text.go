package datacenter

import (
	"math"
	"strconv"
	"strings"
)

// AppendFloat appends f in the shortest form that reads back to the same bits,
// spelled as Python's repr spells it: 0.0, 1234.5, 1e-05, 1e+16, nan, inf. Apart
// from the last two it is valid JSON.
func AppendFloat(b []byte, f float64) []byte {
	switch abs := math.Abs(f); {
	case abs >= 1e-4 && abs < 1e16 || abs == 0:
		start := len(b)
		b = strconv.AppendFloat(b, f, 'f', -1, 64)
		for _, c := range b[start:] {
			if c == '.' {
				return b
			}
		}
		return append(b, ".0"...)
	case math.IsNaN(f):
		return append(b, "nan"...)
	case math.IsInf(f, 0):
		if f < 0 {
			b = append(b, '-')
		}
		return append(b, "inf"...)
	default:
		return strconv.AppendFloat(b, f, 'e', -1, 64)
	}
}

// AppendCSVField appends text as a field of a CSV row, quoted where RFC 4180
// asks for it.
func AppendCSVField(b []byte, text string) []byte {
	if !strings.ContainsAny(text, "\",\r\n") {
		return append(b, text...)
	}
	b = append(b, '"')
	b = append(b, strings.ReplaceAll(text, `"`, `""`)...)
	return append(b, '"')
}
