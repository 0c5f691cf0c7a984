package mlenergy

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/npmath"
	"github.com/g2g-agent/g2g-agent/workload"
)

// Selection is the runs that a spec asks for.
type Selection struct {
	Spec workload.DataSpec
	// Runs are in order of batch size, and of the table within one.
	Runs []Run
	// Warnings are remarks about the choice.
	Warnings []string
}

// Select returns the runs of the spec's task, model, GPU model and number of GPUs at
// its batch sizes, stable or not. None is an error.
//
// OpenG2G takes the runs of all tasks of a call for each of its specs; here a spec has
// those of its own.
func Select(runs []Run, spec workload.DataSpec) (*Selection, error) {
	s := &Selection{Spec: spec}
	there := map[int]bool{}
	for i := range runs {
		r := &runs[i]
		if !r.isOf(&spec) {
			continue
		}
		if r.ResultsPath == "" {
			return nil, errorAt(r.File, "row %d, column %s: is empty, and the run is one of model %s", r.Row, quote("results_path"), quote(spec.ModelLabel))
		}
		there[r.BatchSize()] = true
		s.Runs = append(s.Runs, *r)
	}
	if len(s.Runs) == 0 {
		return nil, noRuns(runs, &spec)
	}
	var lacking []int
	for _, b := range spec.BatchSizes {
		if !there[b] {
			lacking = append(lacking, b)
		}
	}
	if len(lacking) > 0 {
		s.warnf("the benchmark has no runs at batch sizes %v: they are left out", lacking)
	}
	s.warnOfMixtures()
	return s, nil
}

// isOf reports whether a spec asks for the run.
func (r *Run) isOf(spec *workload.DataSpec) bool {
	return r.Task == spec.Task && r.ModelID == spec.ModelID && r.GPUModel == spec.GPUModel && r.NumGPUs == float64(spec.GPUsPerReplica) &&
		r.MaxNumSeqs == math.Trunc(r.MaxNumSeqs) && slices.Contains(spec.BatchSizes, r.BatchSize())
}

// batchSizesOf are those of the spec that the runs have.
func batchSizesOf(runs []Run, spec *workload.DataSpec) []int {
	var sizes []int
	for i := range runs {
		if r := &runs[i]; r.isOf(spec) {
			sizes = append(sizes, r.BatchSize())
		}
	}
	slices.Sort(sizes)
	return slices.Compact(sizes)
}

func (s *Selection) warnf(format string, args ...any) {
	s.Warnings = append(s.Warnings, "model "+quote(s.Spec.ModelLabel)+": "+fmt.Sprintf(format, args...))
}

// warnOfMixtures remarks on runs that are merged and were not made alike.
func (s *Selection) warnOfMixtures() {
	for _, c := range columns() {
		if !c.optional {
			continue
		}
		var values []string
		for i := range s.Runs {
			v := ""
			if c.text != nil {
				v = *c.text(&s.Runs[i])
			} else {
				v = fmt.Sprint(*c.number(&s.Runs[i]))
			}
			if !slices.Contains(values, v) {
				values = append(values, v)
			}
		}
		if len(values) > 1 {
			s.warnf("runs with different %s are merged: %s", c.name, strings.Join(quotedAll(values), ", "))
		}
	}
}

func quotedAll(values []string) []string {
	const most = 10
	var shown []string
	for _, v := range values[:min(len(values), most)] {
		shown = append(shown, quote(v))
	}
	return shown
}

// noRuns shows the query, and what the benchmark has that comes close.
func noRuns(runs []Run, spec *workload.DataSpec) error {
	var tasks, gpuModels []string
	var gpus, sizes []float64
	for i := range runs {
		if r := &runs[i]; r.ModelID == spec.ModelID {
			tasks, gpuModels = append(tasks, r.Task), append(gpuModels, r.GPUModel)
			gpus, sizes = append(gpus, r.NumGPUs), append(sizes, r.MaxNumSeqs)
		}
	}
	file := runsFile
	if len(runs) > 0 {
		file = runs[0].File
	}
	query := fmt.Sprintf("no run of model %s matches model_id %s, gpu_model %s, task %s, num_gpus (gpus_per_replica) %d, max_num_seqs (batch_sizes) %v",
		quote(spec.ModelLabel), quote(spec.ModelID), quote(spec.GPUModel), quote(spec.Task), spec.GPUsPerReplica, spec.BatchSizes)
	if len(tasks) == 0 {
		return errorAt(file, "%s; it has no run of this model_id", query)
	}
	return errorAt(file, "%s; of this model_id it has the gpu_model %s, task %s, num_gpus %v, max_num_seqs %v",
		query, strings.Join(quotedAll(distinct(gpuModels)), ", "), strings.Join(quotedAll(distinct(tasks)), ", "), distinct(gpus), distinct(sizes))
}

func distinct[T string | float64](values []T) []T {
	slices.Sort(values)
	return slices.Compact(values)
}

// Logistic fits the curves over the batch size to the table's columns, without the
// batch sizes that the spec excludes. It is nil, with a warning, if none is left.
func (s *Selection) Logistic() (*workload.LogisticFits, []string, error) {
	var warnings []string
	fits := &workload.LogisticFits{}
	for _, metric := range []struct {
		name, column string
		at           func(*Run) float64
		fit          *workload.LogisticFit
	}{
		{"power", "avg_power_watts", func(r *Run) float64 { return r.AvgPowerW }, &fits.PowerW},
		{"latency", "mean_itl_ms", func(r *Run) float64 { return r.MeanITLMS / 1000 }, &fits.LatencyS},
		{"throughput", "output_throughput_tokens_per_sec", func(r *Run) float64 { return r.OutputThroughputTokensPerS }, &fits.ThroughputTokensPerS},
	} {
		var sizes []int
		var y []float64
		for _, group := range s.groups() {
			if slices.Contains(s.Spec.FitExcludeBatchSizes, group[0].BatchSize()) {
				continue
			}
			var values []float64
			for i := range group {
				v := metric.at(&group[i])
				if v-v != 0 {
					return nil, nil, errorAt(group[i].File, "row %d, column %s: is %s, want a number", group[i].Row, quote(metric.column), numberOrNull(v))
				}
				values = append(values, v)
			}
			sizes, y = append(sizes, group[0].BatchSize()), append(y, npmath.Median(values))
		}
		if len(sizes) == 0 {
			return nil, []string{fmt.Sprintf("model %s: no batch size is left for the logistic fits", quote(s.Spec.ModelLabel))}, nil
		}
		fit, doubts := workload.FitLogistic(sizes, y)
		*metric.fit = fit
		for _, d := range doubts {
			warnings = append(warnings, fmt.Sprintf("model %s: logistic fit of %s: %s", quote(s.Spec.ModelLabel), metric.name, d))
		}
	}
	return fits, warnings, nil
}

// points are what the table says of the runs, each by itself.
func (s *Selection) points() []workload.Point {
	var points []workload.Point
	for i := range s.Runs {
		r := &s.Runs[i]
		points = append(points, workload.Point{
			BatchSize: r.BatchSize(), PowerW: r.AvgPowerW, LatencyS: r.MeanITLMS / 1000, ThroughputTokensPerS: r.OutputThroughputTokensPerS,
			NotInFit: slices.Contains(s.Spec.FitExcludeBatchSizes, r.BatchSize()),
		})
	}
	return points
}

func numberOrNull(v float64) string {
	if math.IsNaN(v) {
		return "null"
	}
	return fmt.Sprint(v)
}

// groups are the runs by batch size.
func (s *Selection) groups() [][]Run {
	var groups [][]Run
	for from := 0; from < len(s.Runs); {
		to := from + 1
		for to < len(s.Runs) && s.Runs[to].MaxNumSeqs == s.Runs[from].MaxNumSeqs {
			to++
		}
		groups = append(groups, s.Runs[from:to])
		from = to
	}
	return groups
}

// checkSpec refuses what cannot be looked for.
func checkSpec(s *workload.DataSpec) error {
	if s.ModelLabel == "" || s.ModelID == "" || s.GPUModel == "" || s.Task == "" || len(s.BatchSizes) == 0 {
		return fmt.Errorf("%w: model %s: want model_label, model_id, gpu_model, task and batch_sizes", datacenter.ErrInvalidInput, quote(s.ModelLabel))
	}
	return nil
}
