package workload

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// drawFits draws valid fits, with numbers of any size.
func drawFits(t *rapid.T) map[int]ITLMixture {
	parameter := rapid.Float64Range(0, math.MaxFloat64)
	return rapid.MapOfN(rapid.IntRange(1, math.MaxInt32), rapid.Custom(func(t *rapid.T) ITLMixture {
		var m ITLMixture
		for _, p := range itlParams() {
			*p.at(&m) = parameter.Draw(t, p.name)
		}
		if m.PiSteady+m.PiStall == 0 {
			m.PiStall = 1
		}
		return m
	}), 1, 5).Draw(t, "fits")
}

func TestITLFilesRoundTrip(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		// Labels may hold commas, quotes and blanks within.
		fits := ITLFits{"Llama-3.1-8B": drawFits(t), `a "quoted, one"`: drawFits(t), "é": drawFits(t)}
		var b bytes.Buffer
		if err := WriteITLFits(&b, fits); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, latencyFitsFile)
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := loadITLFits(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(fits, got, sameBits); diff != "" {
			t.Fatalf("latency_fits.csv (-want +got):\n%s", diff)
		}

		b.Reset()
		one := fits["Llama-3.1-8B"]
		if err := WriteITLFit(&b, "Llama-3.1-8B", one); err != nil {
			t.Fatal(err)
		}
		file = filepath.Join(dir, itlFitFile)
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		gotOne, err := loadITLFit(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(one, gotOne, sameBits); diff != "" {
			t.Fatalf("itl_fit.json (-want +got):\n%s", diff)
		}
	})
}

// OpenG2G reads what is written: the file says schema, label and all parameters.
func TestITLFitSpelling(t *testing.T) {
	var b bytes.Buffer
	if err := WriteITLFit(&b, "m", map[int]ITLMixture{8: {0.01, 0.9, 0.1, 0.02, 0.1, 0.4, 0.03}}); err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(v02()["h1/itl_fit.json"]), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("itl_fit.json as written (-want +got):\n%s", diff)
	}
	b.Reset()
	if err := WriteITLFits(&b, ITLFits{"m": {8: {0.01, 0.9, 0.1, 0.02, 0.1, 0.4, 0.03}}}); err != nil {
		t.Fatal(err)
	}
	if want := v01()["latency_fits.csv"]; b.String() != want {
		t.Errorf("latency_fits.csv is\n%s\nwant\n%s", b.String(), want)
	}
}

func FuzzLoadITLFit(f *testing.F) {
	f.Add([]byte(v02()["h1/itl_fit.json"]))
	f.Add([]byte(`{"schema": "itl_fit.lognormal_mixture_2", "per_batch": {"8": {"loc": null}}}`))
	f.Add([]byte(`{"schema": "itl_fit.lognormal_mixture_2", "per_batch": {"x": 1}}`))
	f.Add([]byte("{\n]"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, raw []byte) {
		file := filepath.Join(t.TempDir(), itlFitFile)
		if err := os.WriteFile(file, raw, 0o644); err != nil {
			t.Fatal(err)
		}
		fits, err := loadITLFit(file)
		if err != nil {
			wantFileError(t, err, file)
			return
		}
		for batchSize, m := range fits {
			if err := m.validate(""); err != nil || batchSize < 1 {
				t.Errorf("batch size %d has an invalid fit: %v", batchSize, err)
			}
		}
		var b bytes.Buffer
		if err := WriteITLFit(&b, "m", fits); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		again, err := loadITLFit(file)
		if diff := cmp.Diff(fits, again, sameBits); err != nil || diff != "" {
			t.Errorf("fits written and read again (-want +got): %v\n%s", err, diff)
		}
		if len(fits) == 0 {
			t.Error("no fits and no error")
		}
	})
}

// As OpenG2G does, the parameters are taken with the prefix of latency_fits.csv, too.
func TestITLFitWithPrefix(t *testing.T) {
	plain := v02()["h1/itl_fit.json"]
	file := filepath.Join(t.TempDir(), itlFitFile)
	fits := make([]map[int]ITLMixture, 2)
	for i, text := range []string{plain, regexp.MustCompile(`"(loc|[a-z]+_(steady|stall))"`).ReplaceAllString(plain, `"itl_mix_$1"`)} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		var err error
		if fits[i], err = loadITLFit(file); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(fits[0], fits[1], sameBits); diff != "" {
		t.Errorf("fits without and with the prefix:\n%s", diff)
	}
}
