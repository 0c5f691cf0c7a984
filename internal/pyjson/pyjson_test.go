package pyjson

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestPython: what json.dumps itself writes, by scripts/python_vectors.py.
func TestPython(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "testdata", "python", "json.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct{ Doubles, Texts [][2]string }
	if err := json.Unmarshal(raw, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors.Doubles) < 100 || len(vectors.Texts) < 8 {
		t.Fatalf("there are %d doubles and %d texts", len(vectors.Doubles), len(vectors.Texts))
	}
	for _, v := range vectors.Doubles {
		bits, err := strconv.ParseUint(v[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(AppendFloat(nil, math.Float64frombits(bits))); got != v[1] {
			t.Errorf("a double is %s, want %s", got, v[1])
		}
	}
	for _, v := range vectors.Texts {
		if got := string(AppendString([]byte("x"), v[0])); got != "x"+v[1] {
			t.Errorf("a text is %s, want x%s", got, v[1])
		}
	}
}

// TestAppendIndented: as json.dumps(o, indent=2, sort_keys=True).
func TestAppendIndented(t *testing.T) {
	const want = "{\n  \"a\": {},\n  \"b\": [],\n  \"z\": [\n    1,\n    2\n  ],\n  \"\\u00e9\": {\n    \"x\": \"t\",\n    \"y\": [\n      {\n" +
		"        \"k\": null\n      },\n      1.5\n    ]\n  }\n}"
	got, err := AppendIndented(nil, map[string]any{
		"b": []any{}, "a": map[string]any{}, "z": []int{1, 2}, "é": map[string]any{"y": []any{Object{{"k", nil}}, 1.5}, "x": "t"},
	})
	if err != nil || string(got) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
	if _, err := AppendIndented(nil, map[string]any{"a": []any{math.NaN()}}); err == nil || !strings.HasPrefix(err.Error(), "a: [0]: ") {
		t.Errorf("what is no number: %v, want its place", err)
	}
}

// TestDecodeAndAppend: what is read is written as Python's json.dumps(json.loads(…))
// writes it.
func TestDecodeAndAppend(t *testing.T) {
	for given, want := range map[string]string{
		`{"b":1,"a":{"z":[],"y":{}},"b":2.0}`:                                  `{"b": 2.0, "a": {"z": [], "y": {}}}`,
		`[1,-0,-0.0,1e2,1E400e]`:                                               "",
		` [ true , false,null ] `:                                              `[true, false, null]`,
		`[-0, 1e2, 0.5, 123456789012345678901234567890, -9223372036854775809]`: `[0, 100.0, 0.5, 123456789012345678901234567890, -9223372036854775809]`,
		`"\ud83d\ude00\u00e9é"`:                                                `"\ud83d\ude00\u00e9\u00e9"`,
		`1e400`:                                                                "", `[1`: "", `{"a"}`: "", `1 2`: "", ``: "", `{1:2}`: "", `"\ud83d"`: "", "\"\xff\"": "", `[1,]`: "",
		strings.Repeat("9", 5000): "", strings.Repeat("[", 20000): "",
	} {
		value, err := Decode([]byte(given))
		if err != nil {
			if want != "" {
				t.Errorf("%s: %v", given, err)
			}
			continue
		}
		got, err := Append(nil, value)
		if err != nil || string(got) != want {
			t.Errorf("%.50s becomes %s (%v), want %q", given, got, err, want)
		}
	}
}

func TestAppend(t *testing.T) {
	got, err := Append(nil, map[string]any{"b": []any{1, uint64(math.MaxUint64), int64(-2)}, "a": nil, "c": json.RawMessage(`{}`)})
	if want := `{"a": null, "b": [1, 18446744073709551615, -2], "c": {}}`; err != nil || string(got) != want {
		t.Errorf("a map becomes %s (%v), want %s", got, err, want)
	}
	for want, value := range map[string]any{
		"x: [1]: NaN": Object{{"x", []any{1, math.NaN()}}}, "+Inf": math.Inf(1), "struct": struct{}{}, "a: b: ": map[string]any{"a": map[string]any{"b": 'x'}},
	} {
		if _, err := Append(nil, value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", value, err, want)
		}
	}
}

func TestSet(t *testing.T) {
	o := Object{{"a", 1}, {"b", 2}}
	o.Set("a", 3)
	o.Set("c", 4)
	if got, _ := Append(nil, o); string(got) != `{"a": 3, "b": 2, "c": 4}` {
		t.Errorf("the object is %s", got)
	}
	if v, found := o.Get("c"); !found || v != 4 {
		t.Errorf("c is %v", v)
	}
	if _, found := o.Get("d"); found {
		t.Error("d is found")
	}
}

// FuzzDecode: what is decoded can be written, as valid JSON that decodes to the same.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"a": [1, -0.5, "\ud800", null], "a": {"b": 1e400}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		value, err := Decode(raw)
		if err != nil {
			return
		}
		once, err := Append(nil, value)
		if err != nil || !json.Valid(once) {
			t.Fatalf("written as %q (%v)", once, err)
		}
		again, err := Decode(once)
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := Append(nil, again); err != nil || string(twice) != string(once) {
			t.Fatalf("%q becomes %q (%v)", once, twice, err)
		}
	})
}
