package decimal

import (
	"strconv"
	"testing"
)

func TestPlain(t *testing.T) {
	for _, text := range []string{"0", "5", "+5", "-5", "5.", ".5", "0.5", "-0.50", "5e-1", "5E+1", "0e0", ".inf", "-.Inf", ".NaN", "10", "18446744073709551616"} {
		if !Plain(text) {
			t.Errorf("%s is no plain number", text)
		}
	}
	for _, text := range []string{
		"", "+", ".", "e1", "1e", "1e+-1", "+-1", "01", "00", "-01", "0x1", "0o1", "0b1", "1_0", "1.5.5", "-.", "inf", "1 ", " 1", "1,0", "1:30", "1.e", "١",
	} {
		if Plain(text) {
			t.Errorf("%q is a plain number", text)
		}
	}
}

func TestOf(t *testing.T) {
	for text, want := range map[string]string{
		"0100": "100", "-010": "-10", "+08": "8", "00": "0", "0x1F": "31", "-0x10": "-16", "0o17": "15", "0b101": "5", "1_000.5": "1000.5", "00.5": "0.5", "01e3": "1e3",
		"0x": "", "0o8": "", "1_": "1", "": "", "x": "", "--1": "", "0x1p3": "", "1.5.5": "",
	} {
		if got := Of(text); got != want {
			t.Errorf("%s is %q, want %q", text, got, want)
		}
	}
}

func FuzzOf(f *testing.F) {
	f.Add("-0x1F")
	f.Add("0_1.5e+07")
	f.Fuzz(func(t *testing.T, text string) {
		got := Of(text)
		if got != "" && !Plain(got) {
			t.Errorf("%q becomes %q, which is not plain", text, got)
		}
		if value, err := strconv.ParseFloat(text, 64); err == nil && Plain(text) && got != "" {
			if same, _ := strconv.ParseFloat(got, 64); same != value {
				t.Errorf("%q becomes %q", text, got)
			}
		}
	})
}
