package datacenter

import (
	"math"
	"strings"

	"github.com/g2g-agent/g2g-agent/internal/pyjson"
)

// AppendFloat appends f in the shortest form that reads back to the same bits,
// spelled as Python's repr spells it: 0.0, 1234.5, 1e-05, 1e+16, nan, inf. Apart
// from the last two it is valid JSON.
func AppendFloat(b []byte, f float64) []byte {
	switch {
	case math.IsNaN(f):
		return append(b, "nan"...)
	case math.IsInf(f, 0):
		if f < 0 {
			b = append(b, '-')
		}
		return append(b, "inf"...)
	default:
		return pyjson.AppendFloat(b, f)
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
