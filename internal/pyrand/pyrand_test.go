package pyrand

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func load(t *testing.T, into any, path ...string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(append([]string{"..", "..", "testdata"}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}

func equal[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if len(want) == 0 {
		t.Fatalf("%s: there is nothing to compare with", what)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}

func draw[T any](n int, next func() T) (all []T) {
	for range n {
		all = append(all, next())
	}
	return all
}

// TestPython: what Python itself draws, written by scripts/python_vectors.py.
func TestPython(t *testing.T) {
	var vectors []struct {
		Seed        string   `json:"seed"`
		Bits32      []uint64 `json:"getrandbits32_700th_on"`
		GetRandBits []string `json:"getrandbits"`
		Choice      []int    `json:"choice"`
		Shuffles    [][]int  `json:"shuffles"`
	}
	load(t, &vectors, "python", "random.json")
	for _, v := range vectors {
		t.Run(v.Seed, func(t *testing.T) {
			seed, err := strconv.ParseUint(strings.TrimPrefix(v.Seed, "-"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			r := New(seed)
			equal(t, "32 bits, the 700th on", draw(706, func() uint64 { return r.GetRandBits(32) })[700:], v.Bits32)

			r = New(seed)
			var bits []string
			for _, k := range []int{1, 7, 31, 32, 33, 48, 63, 64} {
				bits = append(bits, strconv.FormatUint(r.GetRandBits(k), 10))
			}
			equal(t, "bits", bits, v.GetRandBits)

			r = New(seed)
			var choices []int
			for _, n := range []int{1, 2, 3, 5, 8, 10, 64, 65, 1000, 1<<31 - 1, 1 << 32, 1<<32 + 1, 1 << 53} {
				choices = append(choices, draw(3, func() int { return r.RandBelow(n) })...)
			}
			equal(t, "choices", choices, v.Choice)

			r = New(seed)
			for _, want := range v.Shuffles {
				s := make([]int, len(want))
				for i := range s {
					s[i] = i
				}
				Shuffle(r, s)
				equal(t, "shuffle", s, want)
			}
		})
	}
}

// TestDrawsOfRequests: the draws behind the golden request files.
func TestDrawsOfRequests(t *testing.T) {
	var vectors []struct {
		Seed     uint64   `json:"seed"`
		Bits     []uint64 `json:"getrandbits32"`
		Choices  []int    `json:"choice_of_37"`
		Shuffles [][]int  `json:"shuffles_of_4"`
	}
	load(t, &vectors, "golden", "requests", "expected", "draws.json")
	for _, v := range vectors {
		r := New(v.Seed)
		equal(t, "bits", draw(len(v.Bits), func() uint64 { return r.GetRandBits(32) }), v.Bits)
		r = New(v.Seed)
		equal(t, "choices", draw(len(v.Choices), func() int { return r.RandBelow(37) }), v.Choices)
		r = New(v.Seed)
		for _, want := range v.Shuffles {
			s := []int{0, 1, 2, 3}
			Shuffle(r, s)
			equal(t, "shuffle", s, want)
		}
	}
}

func TestDegenerateArguments(t *testing.T) {
	r := New(0)
	if r.RandBelow(0) != 0 || r.RandBelow(-5) != 0 || r.GetRandBits(-1) != 0 {
		t.Error("an empty range is not 0")
	}
	Shuffle(r, []int(nil))
	if got, want := r.GetRandBits(99), New(0).GetRandBits(64); got != want {
		t.Errorf("99 bits are %d, want the 64 bits %d, with nothing drawn before", got, want)
	}
}

func BenchmarkRandBelow(b *testing.B) {
	r := New(0)
	for b.Loop() {
		_ = r.RandBelow(1000)
	}
}
