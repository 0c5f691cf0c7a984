package config

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestProblemSet(t *testing.T) {
	s := newProblemSet(Problem{Path: "a.b[2].c"}, Problem{Path: ""}, Problem{Path: "x.Llama-3.1"})
	for path, want := range map[string][2]bool{ // around, within
		"a": {false, true}, "a.b": {false, true}, "a.b[2]": {false, true}, "a.b[2].c": {true, true}, "a.b[2].c.d": {true, false}, "a.b[2].c[0]": {true, false},
		"a.b[2].cd": {false, false}, "a.b[20]": {false, false}, "a.bc": {false, false}, "": {true, true}, "y": {false, false},
		"x": {false, true}, "x.Llama-3.1": {true, true}, "x.Llama-3.1.y": {true, false}, "x.Llama-3.10": {false, false},
	} {
		if got := [2]bool{s.around(path), s.within(path)}; got != want {
			t.Errorf("%q: around and within are %v, want %v", path, got, want)
		}
	}
}

// TestManyMistakes: a service that reloads such a config has steps to see to.
func TestManyMistakes(t *testing.T) {
	for name, entry := range map[string]string{"not to be read": "010", "out of range": "-1", "there twice": "8", "fine": ""} {
		var b strings.Builder
		b.WriteString("models:\n  - feasible_batch_sizes: [")
		for i := range 30_000 {
			if entry == "" {
				fmt.Fprintf(&b, "%d, ", i+1)
			} else {
				b.WriteString(entry + ", ")
			}
		}
		b.WriteString("]\n")
		began := time.Now()
		_, err := Parse("x", []byte(b.String()), nil, ForAnything)
		if took := time.Since(began); err == nil || took > 10*time.Second {
			t.Errorf("%s: %v after %v, want an error soon", name, err != nil, took)
		} else {
			t.Logf("%s: %v", name, took)
		}
	}
}
