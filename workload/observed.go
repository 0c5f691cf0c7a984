package workload

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/g2g-agent/g2g-agent/internal/pyjson"
)

// observedFile has what was measured and what neither replays nor OpenG2G need: pictures
// are made of it. OpenG2G passes it over.
const observedFile = "observed.json"

// observedSchema is its schema.
const observedSchema = "observed_v1"

// Observed is what was measured of a model, beside what data directories of OpenG2G have.
// Its zero value is nothing.
type Observed struct {
	// Points are what the logistic fits were made from, and those left out of them, in
	// order of batch size. Several may have one.
	Points []Point
	// ITL are the inter-token latencies by batch size.
	ITL map[int]*ITLHistogram
}

// Point is what was measured at one batch size. What is not known is NaN.
type Point struct {
	BatchSize            int
	PowerW               float64 // of one replica, all its GPUs together
	LatencyS             float64 // mean inter-token latency
	ThroughputTokensPerS float64 // of one replica
	// NotInFit says that the logistic fits were made without it.
	NotInFit bool
}

func (o *Observed) isEmpty() bool { return len(o.Points) == 0 && len(o.ITL) == 0 }

// writeObserved writes what was measured of the models, and the sum of the latency fits
// beside it: who makes those anew and knows nothing of this file must not leave us with
// histograms of other latencies.
func writeObserved(w io.Writer, models []Measured, writeFits func(io.Writer) error) error {
	sum := sha256.New()
	if err := writeFits(sum); err != nil {
		return err
	}
	list := []any{}
	for i := range models {
		o := &models[i].Observed
		if o.isEmpty() {
			continue
		}
		points := []any{}
		for _, p := range o.Points {
			points = append(points, pyjson.Object{
				{Name: "batch_size", Value: p.BatchSize}, {Name: "power_w", Value: known(p.PowerW)}, {Name: "latency_s", Value: known(p.LatencyS)},
				{Name: "throughput_tokens_per_s", Value: known(p.ThroughputTokensPerS)}, {Name: "in_fit", Value: !p.NotInFit},
			})
		}
		histograms := []any{}
		for _, batchSize := range sortedKeys(o.ITL) {
			h := o.ITL[batchSize]
			histograms = append(histograms, pyjson.Object{
				{Name: "batch_size", Value: batchSize}, {Name: "samples", Value: h.Samples}, {Name: "mean_s", Value: h.MeanS},
				{Name: "from_decade", Value: h.FromDecade}, {Name: "decades", Value: h.Decades}, {Name: "counts", Value: h.Counts},
			})
		}
		list = append(list, pyjson.Object{{Name: "model_label", Value: models[i].Spec.ModelLabel}, {Name: "points", Value: points}, {Name: "itl", Value: histograms}})
	}
	text, err := pyjson.Append(nil, pyjson.Object{
		{Name: "schema", Value: observedSchema}, {Name: "itl_fits_sha256", Value: hex.EncodeToString(sum.Sum(nil))}, {Name: "models", Value: list},
	})
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// known is a number, or null.
func known(v float64) any {
	if v-v != 0 {
		return nil
	}
	return v
}

// LoadObserved reads what was measured of the queried models beside the data that
// [LoadInferenceData] reads, in their order, empty where there is nothing. A warning tells
// of a file that cannot be used. The errors are [*FileError].
func LoadObserved(dir string, queries []DataQuery) (observed []Observed, warnings []string, err error) {
	l, err := findLayout(dir)
	if err != nil {
		return nil, nil, err
	}
	if l.summary != "" {
		byLabel, warnings := readObserved(dir, latencyFitsFile)
		for _, q := range queries {
			observed = append(observed, byLabel[q.ModelLabel])
		}
		return observed, warnings, nil
	}
	for _, q := range queries {
		m, err := choose(l.specsDir, l.measurements, q)
		if err != nil {
			return nil, nil, err
		}
		byLabel, remarks := readObserved(m.dir, itlFitFile)
		warnings = append(warnings, remarks...)
		var of Observed
		for _, o := range byLabel { // there is one
			of = o
		}
		observed = append(observed, of)
	}
	return observed, warnings, nil
}

// readObserved reads the file of a folder by model label. What cannot be used is a
// warning.
func readObserved(dir, fitsFile string) (map[string]Observed, []string) {
	file := filepath.Join(dir, observedFile)
	if !exists(file) {
		return nil, nil
	}
	byLabel, fits, err := parseObserved(file)
	if err != nil {
		return nil, []string{fmt.Sprintf("%v: drawn without what was measured", err)}
	}
	if sum, err := fileSum(filepath.Join(dir, fitsFile)); err != nil || sum != fits {
		return nil, []string{fmt.Sprintf("%s: %s was changed since: drawn without what was measured", file, fitsFile)}
	}
	return byLabel, nil
}

func fileSum(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	return hex.EncodeToString(sum.Sum(nil)), err
}

func parseObserved(file string) (byLabel map[string]Observed, fits string, err error) {
	var content struct {
		Schema  string `json:"schema"`
		FitsSum string `json:"itl_fits_sha256"`
		Models  []struct {
			ModelLabel string `json:"model_label"`
			Points     []struct {
				BatchSize            int      `json:"batch_size"`
				PowerW               *float64 `json:"power_w"`
				LatencyS             *float64 `json:"latency_s"`
				ThroughputTokensPerS *float64 `json:"throughput_tokens_per_s"`
				InFit                bool     `json:"in_fit"`
			} `json:"points"`
			ITL []struct {
				BatchSize int `json:"batch_size"`
				ITLHistogram
			} `json:"itl"`
		} `json:"models"`
	}
	if err := readJSON(file, &content); err != nil {
		return nil, "", err
	}
	if content.Schema != observedSchema {
		return nil, "", fileErrorf(file, 0, "schema is %s, want %q", quote(content.Schema), observedSchema)
	}
	byLabel = map[string]Observed{}
	for i, m := range content.Models {
		o := Observed{ITL: map[int]*ITLHistogram{}}
		for k, p := range m.Points {
			if p.BatchSize < 1 {
				return nil, "", fileErrorf(file, 0, "models[%d].points[%d].batch_size is %d, want at least 1", i, k, p.BatchSize)
			}
			o.Points = append(o.Points, Point{p.BatchSize, orNaN(p.PowerW), orNaN(p.LatencyS), orNaN(p.ThroughputTokensPerS), !p.InFit})
		}
		for k, h := range m.ITL {
			if h.BatchSize < 1 {
				return nil, "", fileErrorf(file, 0, "models[%d].itl[%d].batch_size is %d, want at least 1", i, k, h.BatchSize)
			}
			if err := h.validate(); err != nil {
				return nil, "", fileErrorf(file, 0, "models[%d].itl[%d]: %w", i, k, err)
			}
			o.ITL[h.BatchSize] = &h.ITLHistogram
		}
		byLabel[m.ModelLabel] = o
	}
	return byLabel, content.FitsSum, nil
}

func orNaN(v *float64) float64 {
	if v == nil {
		return math.NaN()
	}
	return *v
}
