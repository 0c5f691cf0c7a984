package workload

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// sameBits compares floats by their bits.
var sameBits = cmp.Comparer(func(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) })

// folder writes the files, named by their paths, into a new folder.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// with returns the files with some replaced or, where the text is "-", left out.
func with(files map[string]string, changes ...string) map[string]string {
	out := map[string]string{}
	for name, text := range files {
		out[name] = text
	}
	for i := 0; i < len(changes); i += 2 {
		if out[changes[i]] = changes[i+1]; changes[i+1] == "-" {
			delete(out, changes[i])
		}
	}
	return out
}

// wantInvalid fails unless err is an invalid input with exactly the wanted
// message, in which DIR stands for dir.
func wantInvalid(t *testing.T, err error, dir, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", want)
	}
	if got := strings.ReplaceAll(err.Error(), dir, "DIR"); got != want {
		t.Errorf("the error is\n%s\nwant\n%s", got, want)
	}
	var fileErr *FileError
	if !errors.Is(err, datacenter.ErrInvalidInput) || !errors.As(err, &fileErr) {
		t.Errorf("%v is not a *FileError that is an invalid input", err)
	}
}

// rows is a CSV file of n rows made by the format from the row's number.
func rows(header, format string, n int) string {
	text := header + "\n"
	for i := range n {
		text += fmt.Sprintf(format, i) + "\n"
	}
	return text
}

// defaultTrainingTraceParams returns OpenG2G's defaults.
func defaultTrainingTraceParams() TrainingTraceParams {
	return TrainingTraceParams{
		DurationS: 1000, DTS: 0.1, Seed: 2,
		PHi: 225, PLo: 175, SigmaHi: 50, SigmaLo: 50,
		SegLoRange: [2]float64{10, 15}, SegHiRange: [2]float64{35, 40},
		DipProbPerSec: 0.01, DipDepthRange: [2]float64{120, 125}, DipDurRange: [2]float64{0.06, 0.14},
		SmoothWindowS: 0.3, RampS: 18, RampFrom: 50,
	}
}
