package workload

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// The files of OpenG2G's data directories.
const (
	tracesSummaryFile = "traces_summary.csv" // 0.1
	latencyFitsFile   = "latency_fits.csv"   // 0.1
	specsFolder       = "specs"              // 0.2: data/specs/HASH/…
	traceFile         = "trace.csv"          // 0.2
	itlFitFile        = "itl_fit.json"       // 0.2
	manifestFile      = "_manifest.json"     // both
	logisticFitFile   = "logistic_fit.json"  // 0.2
	logisticFitsFile  = "logistic_fits.csv"  // 0.1
)

// manifestSchema is the schema of 0.2's manifests that is understood.
const manifestSchema = 3

// DataQuery names a model whose data is wanted.
type DataQuery struct {
	ModelLabel     string
	ModelID        string
	GPUsPerReplica int
	// FeasibleBatchSizes stand in for the measured ones where Spec names none.
	FeasibleBatchSizes []int
	// Spec narrows the choice where a 0.2 directory holds several measurements
	// of the model.
	Spec SpecFilter
}

// SpecFilter chooses among measurements in the 0.2 layout. Zero fields match
// anything.
type SpecFilter struct {
	// Hash is the measurement's directory; it overrides everything else.
	Hash                             string
	GPUModel, Task, Precision        string
	TensorParallel, ExpertParallel   int
	BatchSizes, FitExcludeBatchSizes []int
}

// ModelData is what a data directory holds about one model.
type ModelData struct {
	// Traces are the measured power traces by batch size.
	Traces map[int]*InferenceTrace
	// ITL are the latency fits by batch size, nil if they were not asked for.
	ITL map[int]ITLMixture
	// Logistic are the fits over the batch size, nil where the directory has none.
	Logistic *LogisticFits
	// SpecHash is the name of the folder that the data came from, and Spec what its
	// manifest says of them, in layout 0.2; empty and nil where there is none.
	SpecHash string
	Spec     *DataSpec
	// Origin and ITLOrigin are the files the traces and the fits came from, for
	// messages.
	Origin, ITLOrigin string
}

// InferenceData is the data of several models, in the order they were asked for.
type InferenceData struct {
	Models []ModelData
	// Warnings are remarks about the data that do not stop a run.
	Warnings []string
}

// LoadInferenceData reads the data of the queried models from an OpenG2G data
// directory of either layout: 0.1 (traces_summary.csv) or 0.2 (HASH/trace.csv,
// in dir or in dir/specs). With itl it reads the latency fits as well. The
// errors are [*FileError].
func LoadInferenceData(dir string, queries []DataQuery, itl bool) (*InferenceData, error) {
	l, err := findLayout(dir)
	if err != nil {
		return nil, err
	}
	if l.summary != "" {
		return loadV01(dir, queries, itl)
	}
	return loadV02(l.specsDir, l.measurements, queries, itl)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// manifest is the part of _manifest.json that is read.
type manifest struct {
	SchemaVersion  int       `json:"schema_version"` // 0.2 only
	OpenG2GVersion string    `json:"openg2g_version"`
	Spec           *DataSpec `json:"spec"` // 0.2 only
}

// readManifest reads dir's manifest; a missing one is an empty one.
func readManifest(dir string) (manifest, error) {
	var m manifest
	file := filepath.Join(dir, manifestFile)
	if !exists(file) {
		return m, nil
	}
	err := readJSON(file, &m)
	return m, err
}

// versionWarning remarks on data written by another release line than the
// layout belongs to.
func versionWarning(dir, layout, version string) []string {
	if version == "" || version == layout || strings.HasPrefix(version, layout+".") {
		return nil
	}
	return []string{fmt.Sprintf("%s: written by openg2g %s, while its layout is that of %s", dir, excerpt.Printable(version, maxQuoted), layout)}
}

// loadV01 reads the 0.1 layout: one table of traces, one of fits.
func loadV01(dir string, queries []DataQuery, itl bool) (*InferenceData, error) {
	m, err := readManifest(dir)
	if err != nil {
		return nil, err
	}
	summary := filepath.Join(dir, tracesSummaryFile)
	data := &InferenceData{Models: make([]ModelData, len(queries)), Warnings: versionWarning(dir, "0.1", m.OpenG2GVersion)}
	wanted := map[string]*ModelData{}
	for i, q := range queries {
		data.Models[i] = ModelData{Traces: map[int]*InferenceTrace{}, Origin: summary}
		wanted[q.ModelLabel] = &data.Models[i]
	}
	labels, err := readSummary(summary, wanted)
	if err != nil {
		return nil, err
	}
	for i, q := range queries {
		if len(data.Models[i].Traces) == 0 {
			return nil, fileErrorf(summary, 0, "has no traces of model %s; it has %s", quote(q.ModelLabel), quoted(labels))
		}
	}
	if file := filepath.Join(dir, logisticFitsFile); exists(file) {
		fits, err := loadLogisticFits(file)
		if err != nil {
			return nil, err
		}
		for i, q := range queries {
			data.Models[i].Logistic = fits[q.ModelLabel]
		}
	}
	if !itl {
		return data, nil
	}
	file := filepath.Join(dir, latencyFitsFile)
	fits, err := loadITLFits(file)
	if err != nil {
		return nil, err
	}
	for i, q := range queries {
		data.Models[i].ITLOrigin = file
		if data.Models[i].ITL = fits[q.ModelLabel]; data.Models[i].ITL == nil {
			return nil, fileErrorf(file, 0, "has no ITL fits of model %s; it has %s", quote(q.ModelLabel), quoted(sortedKeys(fits)))
		}
	}
	return data, nil
}

// readSummary reads the traces of the wanted models that the summary lists and
// returns the labels of all models in it.
func readSummary(file string, wanted map[string]*ModelData) ([]string, error) {
	type place struct {
		label     string
		batchSize int
	}
	seen := map[place]int{}
	labels := map[string]bool{}
	columns := []string{"model_label", "num_gpus", "max_num_seqs", "trace_file"}
	err := readTable(file, columns, func(row *table) error {
		label, name := row.text(0), row.text(3)
		gpus, err := row.positiveInt(1)
		if err != nil {
			return err
		}
		batchSize, err := row.positiveInt(2)
		if err != nil {
			return err
		}
		if name == "" {
			return row.errorf("trace_file is empty")
		}
		if first, dup := seen[place{label, batchSize}]; dup {
			return row.errorf("a second trace for model %s at batch size %d; the first is in line %d", quote(label), batchSize, first)
		}
		seen[place{label, batchSize}] = row.line
		labels[label] = true
		model, ok := wanted[label]
		if !ok {
			return nil
		}
		path := filepath.FromSlash(name)
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(file), path)
		}
		if !exists(path) {
			return row.errorf("trace_file: %s does not exist", excerpt.Printable(path, 4*maxQuoted))
		}
		trace := &InferenceTrace{MeasuredGPUs: gpus, Origin: path}
		model.Traces[batchSize] = trace
		err = readTable(path, []string{"relative_time_s", "power_total_W"}, func(row *table) error {
			return appendSample(row, 0, &trace.TS, &trace.PowerW)
		})
		if err != nil {
			return err
		}
		return trace.finish()
	})
	return sortedKeys(labels), err
}

// finish sorts a trace just read and checks that it has enough samples.
func (tr *InferenceTrace) finish() error {
	if n := len(tr.TS); n < minTraceSamples {
		return fileErrorf(tr.Origin, 0, "has %d samples, a trace needs at least %d", n, minTraceSamples)
	}
	sortByTime(tr.TS, tr.PowerW)
	return nil
}

// measurement is one folder of the 0.2 layout.
type measurement struct {
	dir      string
	manifest manifest
}

// findMeasurements returns the folders with a trace.csv in dir or, if there are
// none, in dir/specs, and which of the two it was.
func findMeasurements(dir string) (string, []measurement, error) {
	for _, base := range []string{dir, filepath.Join(dir, specsFolder)} {
		entries, err := os.ReadDir(base)
		if err != nil {
			if os.IsNotExist(err) {
				continue
			}
			return "", nil, openError(base, err)
		}
		var found []measurement
		for _, e := range entries {
			folder := filepath.Join(base, e.Name())
			if !exists(filepath.Join(folder, traceFile)) {
				continue
			}
			m, err := readManifest(folder)
			if err != nil {
				return "", nil, err
			}
			found = append(found, measurement{folder, m})
		}
		if len(found) > 0 {
			return base, found, nil
		}
	}
	return "", nil, nil
}

// loadV02 reads the 0.2 layout: a folder a measurement.
func loadV02(dir string, measurements []measurement, queries []DataQuery, itl bool) (*InferenceData, error) {
	data := &InferenceData{}
	for _, q := range queries {
		m, err := choose(dir, measurements, q)
		if err != nil {
			return nil, err
		}
		if s := m.manifest.Spec; s != nil && s.GPUsPerReplica != q.GPUsPerReplica {
			return nil, fileErrorf(filepath.Join(m.dir, manifestFile), 0,
				"model %s was measured with gpus_per_replica %d, the config says %d", quote(q.ModelLabel), s.GPUsPerReplica, q.GPUsPerReplica)
		}
		data.Warnings = append(data.Warnings, versionWarning(m.dir, "0.2", m.manifest.OpenG2GVersion)...)
		if v := m.manifest.SchemaVersion; v != 0 && v != manifestSchema {
			data.Warnings = append(data.Warnings, fmt.Sprintf("%s: schema_version is %d, this program knows %d",
				filepath.Join(m.dir, manifestFile), v, manifestSchema))
		}
		model := ModelData{SpecHash: filepath.Base(m.dir), Spec: m.manifest.Spec, Origin: filepath.Join(m.dir, traceFile)}
		if model.Traces, err = readMeasurement(model.Origin, q.GPUsPerReplica); err != nil {
			return nil, err
		}
		if file := filepath.Join(m.dir, logisticFitFile); exists(file) {
			if model.Logistic, err = loadLogisticFit(file); err != nil {
				return nil, err
			}
		}
		if itl {
			model.ITLOrigin = filepath.Join(m.dir, itlFitFile)
			if model.ITL, err = loadITLFit(model.ITLOrigin); err != nil {
				return nil, err
			}
		}
		data.Models = append(data.Models, model)
	}
	return data, nil
}

// choose finds the measurement of the queried model: the one named by its hash
// or by all the fields the hash is made of, else the one whose manifest has the
// model's label, else the model's id, as far as the filter allows.
func choose(dir string, measurements []measurement, q DataQuery) (measurement, error) {
	if q.Spec.Hash != "" {
		i := slices.IndexFunc(measurements, func(m measurement) bool { return filepath.Base(m.dir) == q.Spec.Hash })
		if i < 0 {
			return measurement{}, fileErrorf(dir, 0, "has no measurement %s, which model %s asks for; it has:%s",
				excerpt.Printable(q.Spec.Hash, maxQuoted), quote(q.ModelLabel), listing(measurements))
		}
		return measurements[i], nil
	}
	if s, complete := q.spec(); complete {
		hash := s.Hash()
		if i := slices.IndexFunc(measurements, func(m measurement) bool { return filepath.Base(m.dir) == hash }); i >= 0 {
			return measurements[i], nil
		}
	}
	matching := func(same func(*DataSpec) bool) []measurement {
		return slices.DeleteFunc(slices.Clone(measurements), func(m measurement) bool {
			return m.manifest.Spec == nil || !same(m.manifest.Spec) || !q.Spec.matches(m.manifest.Spec)
		})
	}
	found := matching(func(s *DataSpec) bool { return s.ModelLabel == q.ModelLabel })
	if len(found) == 0 {
		found = matching(func(s *DataSpec) bool { return q.ModelID != "" && s.ModelID == q.ModelID })
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return measurement{}, fileErrorf(dir, 0, "has no measurement of model %s (%s) as configured; it has:%s",
			quote(q.ModelLabel), excerpt.Printable(q.ModelID, maxQuoted), listing(measurements))
	default:
		return measurement{}, fileErrorf(dir, 0,
			"has several measurements of model %s; choose one with spec_hash or the fields that tell them apart:%s", quote(q.ModelLabel), listing(found))
	}
}

// spec is the measurement that OpenG2G would look for given the query, with its
// defaults, and whether the query says enough to tell.
func (q *DataQuery) spec() (s DataSpec, complete bool) {
	f := &q.Spec
	s = DataSpec{
		ModelID: q.ModelID, GPUModel: f.GPUModel, Task: f.Task, Precision: cmp.Or(f.Precision, DefaultPrecision),
		GPUsPerReplica: q.GPUsPerReplica, TensorParallel: cmp.Or(f.TensorParallel, 1), ExpertParallel: cmp.Or(f.ExpertParallel, 1),
		BatchSizes: f.BatchSizes, FitExcludeBatchSizes: f.FitExcludeBatchSizes,
	}
	if s.BatchSizes == nil {
		s.BatchSizes = q.FeasibleBatchSizes
	}
	return s, f.GPUModel != "" && f.Task != ""
}

func (f *SpecFilter) matches(s *DataSpec) bool {
	text := func(want, got string) bool { return want == "" || want == got }
	number := func(want, got int) bool { return want == 0 || want == got }
	sizes := func(want, got []int) bool {
		return want == nil || slices.Equal(slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(got)))
	}
	return text(f.GPUModel, s.GPUModel) && text(f.Task, s.Task) && text(f.Precision, s.Precision) &&
		number(f.TensorParallel, s.TensorParallel) && number(f.ExpertParallel, s.ExpertParallel) &&
		sizes(f.BatchSizes, s.BatchSizes) && sizes(f.FitExcludeBatchSizes, s.FitExcludeBatchSizes)
}

func listing(measurements []measurement) string {
	var b strings.Builder
	for _, m := range measurements {
		fmt.Fprintf(&b, "\n  %s", filepath.Base(m.dir))
		if s := m.manifest.Spec; s != nil {
			fmt.Fprintf(&b, ": %s (%s), gpu_model %s, task %s, precision %s, gpus_per_replica %d, tensor_parallel %d, expert_parallel %d, "+
				"batch_sizes %v, fit_exclude_batch_sizes %v",
				s.ModelLabel, s.ModelID, s.GPUModel, s.Task, s.Precision, s.GPUsPerReplica, s.TensorParallel, s.ExpertParallel, s.BatchSizes, s.FitExcludeBatchSizes)
		} else {
			fmt.Fprintf(&b, ": no %s", manifestFile)
		}
	}
	return b.String()
}

// readMeasurement reads a 0.2 trace.csv: the traces of all batch sizes in one
// table.
func readMeasurement(file string, measuredGPUs int) (map[int]*InferenceTrace, error) {
	traces := map[int]*InferenceTrace{}
	columns := []string{"batch_size", "relative_time_s", "power_total_W"}
	err := readTable(file, columns, func(row *table) error {
		batchSize, err := row.positiveInt(0)
		if err != nil {
			return err
		}
		trace := traces[batchSize]
		if trace == nil {
			trace = &InferenceTrace{MeasuredGPUs: measuredGPUs, Origin: fmt.Sprintf("%s (batch size %d)", file, batchSize)}
			traces[batchSize] = trace
		}
		return appendSample(row, 1, &trace.TS, &trace.PowerW)
	})
	if err != nil {
		return nil, err
	}
	if len(traces) == 0 {
		return nil, fileErrorf(file, 0, "has no rows")
	}
	for _, batchSize := range sortedKeys(traces) {
		if err := traces[batchSize].finish(); err != nil {
			return nil, err
		}
	}
	return traces, nil
}

func quoted(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	const most = 20
	var parts []string
	for _, n := range names[:min(len(names), most)] {
		parts = append(parts, quote(n))
	}
	if len(names) > most {
		parts = append(parts, fmt.Sprintf("and %d more", len(names)-most))
	}
	return strings.Join(parts, ", ")
}
