package strictjson

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// faultsOf are the paths and messages of an error.
func faultsOf(t *testing.T, err error) []string {
	t.Helper()
	var wrong *Error
	if !errors.As(err, &wrong) {
		t.Fatalf("%v is no *Error", err)
	}
	var faults []string
	for _, f := range wrong.Faults {
		faults = append(faults, f.Path+" "+f.Message)
	}
	return faults
}

func TestMalformed(t *testing.T) {
	for text, want := range map[string]string{
		"":                         " malformed JSON at byte 0: unexpected end of JSON input",
		"[]":                       " want a JSON object, got an array",
		`"a"`:                      ` want a JSON object, got the string "a"`,
		"{} x":                     " malformed JSON at byte 4: invalid character 'x' after top-level value",
		"{\"a\xff\":1}":            " it is not valid UTF-8",
		`{"a":1,"a":2}`:            ".a it stands there twice",
		`{"a":{"b":1,"\u0062":2}}`: ".a.b it stands there twice",
		strings.Repeat(`{"a":`, 20) + "1" + strings.Repeat("}", 20): strings.Repeat(".a", MaxNesting+1) + " it is nested more than 16 deep",
	} {
		_, err := Parse([]byte(text))
		if diff := cmp.Diff([]string{want}, faultsOf(t, err)); diff != "" {
			t.Errorf("the faults of %s (-want +got):\n%s", text, diff)
		}
		if wrong := new(Error); !errors.As(err, &wrong) || !wrong.Malformed {
			t.Errorf("%s is not malformed", text)
		}
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	o, err := Parse([]byte(`{"n": 1.5, "TEXT": "x", "f": -0, "by": {"m": "x"}, "none": [], "empty": {}}`))
	if err != nil {
		t.Fatal(err)
	}
	o.Members([]string{"text", "n"}, "f", "by", "none", "empty")
	o.Text("text")
	o.Whole("n", 1, 2)
	o.Number("f", "a number", func(float64) bool { return true })
	o.ByModel("by").Whole("m", 1, 2)
	o.ByModel("none")
	o.ByModel("empty")
	want := []string{
		".text is missing",
		`.TEXT unknown member; there are ["text" "n" "f" "by" "none" "empty"]; did you mean "text"?`,
		".n must be a whole number from 1 to 2, got 1.5",
		".f must be a number, got -0",
		`.by.m must be a whole number from 1 to 2, got the string "x"`,
		".none must be an object of values by model label, got an array",
		".empty must name a model at least",
	}
	if diff := cmp.Diff(want, faultsOf(t, o.Err())); diff != "" {
		t.Errorf("the faults (-want +got):\n%s", diff)
	}
	if got, want := o.Err().Error(), "text: is missing; and 6 more"; got != want {
		t.Errorf("the error is %q, want %q", got, want)
	}
}

func TestWholeNumber(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "8": 8, "-8": -8, "64.0": 64, "6.4e1": 64, "640e-1": 64, "6400E-2": 64, "0.064e3": 64, "0e5": 0, "0.000": 0, "1E+2": 100, "123456789012345678": 123456789012345678,
	} {
		if got, ok := wholeNumber(text); !ok || got != want {
			t.Errorf("%s: got %d, %v", text, got, ok)
		}
	}
	for _, text := range []string{"-0", "-0.0", "-0e3", "1.5", "64.01", "1e-1", "1e-400", "1e400", "1e99999999999999999999", "1234567890123456789", "0.1e0"} {
		if got, ok := wholeNumber(text); ok {
			t.Errorf("%s: got %d", text, got)
		}
	}
}

func TestByteOrderMark(t *testing.T) {
	o, err := Parse([]byte("\xef\xbb\xbf {\"a\": 8}"))
	if err != nil || o.Whole("a", 0, 9) != 8 {
		t.Errorf("%v, %v", o, err)
	}
	for text, want := range map[string]string{
		"\xff\xfe{\x00}\x00":         "it is text in UTF-16",
		"{\x00}\x00":                 "it is text in UTF-16",
		"\xef\xbb\xbf\xef\xbb\xbf{}": "malformed JSON",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
