package datacenter

import (
	"encoding/json"
	"math"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// TestAppendFloat holds the text to Python's repr.
func TestAppendFloat(t *testing.T) {
	for _, c := range []struct {
		f    float64
		want string
	}{
		{0, "0.0"}, {math.Copysign(0, -1), "-0.0"}, {100, "100.0"}, {-1234.5, "-1234.5"}, {0.1, "0.1"}, {1.0 / 3, "0.3333333333333333"},
		{1e-4, "0.0001"}, {9.999999999999999e-05, "9.999999999999999e-05"}, {1e-5, "1e-05"}, {2.5e-7, "2.5e-07"},
		{9999999999999998, "9999999999999998.0"}, {1e16, "1e+16"}, {123456789012345680, "1.2345678901234568e+17"}, {1e22, "1e+22"}, {-1e100, "-1e+100"},
		{5e-324, "5e-324"}, {math.MaxFloat64, "1.7976931348623157e+308"},
		{math.NaN(), "nan"}, {math.Copysign(math.NaN(), -1), "nan"}, {math.Inf(1), "inf"}, {math.Inf(-1), "-inf"},
	} {
		if got := string(AppendFloat([]byte("1.5,"), c.f)); got != "1.5,"+c.want {
			t.Errorf("AppendFloat(%v) appends %s, want %s", c.f, got, c.want)
		}
	}
}

func TestFloatsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := math.Float64frombits(rapid.Uint64().Draw(t, "bits"))
		text := AppendFloat(nil, f)
		got, err := strconv.ParseFloat(string(text), 64)
		if math.IsNaN(f) && math.IsNaN(got) {
			return
		}
		if err != nil || math.Float64bits(got) != math.Float64bits(f) {
			t.Errorf("%v is written as %s, which reads as %v, %v", f, text, got, err)
		}
		if isFinite(f) && !json.Valid(text) {
			t.Errorf("%s is not JSON", text)
		}
	})
}

func TestAppendCSVField(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "plain text": "plain text", "é'": "é'", "a,b": `"a,b"`, `say "hi"`: `"say ""hi"""`, "a\nb": "\"a\nb\"", "a\rb": "\"a\rb\"",
	} {
		if got := string(AppendCSVField([]byte("x,"), text)); got != "x,"+want {
			t.Errorf("AppendCSVField(%q) appends %s, want %s", text, got, want)
		}
	}
}
