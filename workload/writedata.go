package workload

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
)

// Layout is a form of OpenG2G's data directories.
type Layout string

// The layouts.
const (
	// Layout01 is one table of traces and one of fits, for all models.
	Layout01 Layout = "0.1"
	// Layout02 is a folder a measurement, named by the hash of its spec.
	Layout02 Layout = "0.2"
)

// What the manifests say of the programs whose files these are: OpenG2G warns of data
// with another version than its own.
const (
	openG2GVersion01    = "0.1.0"
	openG2GVersion02    = "0.2.0.post1"
	mlenergyDataVersion = "0.4.0"
)

// Measured is what was measured of one model.
type Measured struct {
	Spec DataSpec
	// Traces and ITL are by batch size. A batch size may be in one and not in the
	// other.
	Traces map[int]*InferenceTrace
	ITL    map[int]ITLMixture
	// Logistic is nil where no curves were fitted.
	Logistic *LogisticFits
	// Observed is what pictures are made of, written beside the rest if there is some.
	Observed Observed
}

// WriteOptions are how data is written.
type WriteOptions struct {
	// WrittenAt is the time in the manifests.
	WrittenAt time.Time
	// AgentVersion is this program's in the manifests; empty: none.
	AgentVersion string
	// Rounded writes times to 15 significant digits and powers to a milliwatt: digits
	// that every reader takes for the same number. Without it they have as many
	// digits as their bits need, as OpenG2G writes them, which pandas before 3 reads
	// one or two units in the last place off.
	Rounded bool
}

// WriteData writes measurements as an OpenG2G data directory, which is made if it is
// not there.
//
// In layout 0.2 each model gets a folder of dir, and other folders stay; in 0.1 dir
// then holds the given models alone. Files appear under their names only when they
// are complete, and a measurement's manifest after what it vouches for: what was
// there before counts as incomplete from the first change on. A measurement's curves
// come last, in a file of their own, as with OpenG2G.
func WriteData(dir string, models []Measured, layout Layout, options WriteOptions) error {
	if len(models) == 0 {
		return errors.New("there is nothing to write: no model was measured")
	}
	for i := range models {
		if err := models[i].validate(); err != nil {
			return err
		}
	}
	switch layout {
	case Layout01:
		return writeV01(dir, models, options)
	case Layout02:
		for i := range models {
			folder := filepath.Join(dir, models[i].Spec.Hash())
			if err := writeFiles(folder, models[i].v02Files(options), manifestFile, logisticFitFile, observedFile); err != nil {
				return err
			}
		}
		return nil
	default:
		return fmt.Errorf("%w: layout is %s, want %s or %s", datacenter.ErrInvalidInput, quote(string(layout)), Layout02, Layout01)
	}
}

// WriteLogistic writes the curves of a measurement that a 0.2 data directory has.
func WriteLogistic(dir string, spec *DataSpec, fits *LogisticFits) error {
	m := Measured{Spec: *spec, Logistic: fits}
	return writeFiles(filepath.Join(dir, spec.Hash()), []dataFile{m.logisticFile()})
}

// HasMeasurement reports whether a 0.2 data directory has a measurement's traces and
// ITL fits whole, and what is to be remarked on: another version's, or a manifest that
// cannot be read, with which they count as incomplete.
func HasMeasurement(dir string, spec *DataSpec) (bool, []string) {
	folder := filepath.Join(dir, spec.Hash())
	if !exists(filepath.Join(folder, manifestFile)) {
		return false, nil
	}
	m, err := readManifest(folder)
	if err != nil {
		return false, []string{err.Error()}
	}
	if v := m.OpenG2GVersion; v != openG2GVersion02 {
		return true, []string{fmt.Sprintf("%s: its data was made by openg2g %s, this program makes that of %s",
			filepath.Join(folder, manifestFile), quote(v), openG2GVersion02)}
	}
	return true, nil
}

// HasLogistic reports whether a 0.2 data directory has a measurement's curves.
func HasLogistic(dir string, spec *DataSpec) bool {
	return exists(filepath.Join(dir, spec.Hash(), logisticFitFile))
}

// CheckLayout refuses a directory that holds data in the other layout: nobody reads a
// directory with both.
func CheckLayout(dir string, layout Layout) error {
	if layout == Layout02 {
		if !exists(filepath.Join(dir, tracesSummaryFile)) {
			return nil
		}
		return fileErrorf(dir, 0, "holds data in OpenG2G's layout %s (%s); want a directory of its own for layout %s", Layout01, tracesSummaryFile, Layout02)
	}
	for _, base := range []string{dir, filepath.Join(dir, specsFolder)} {
		file, err := firstTrace(base)
		if err != nil {
			return err
		}
		if file != "" {
			return fileErrorf(dir, 0, "holds data in OpenG2G's layout %s (%s); want a directory of its own for layout %s", Layout02, file, Layout01)
		}
	}
	return nil
}

// MeasurementsDir returns the folder that has a 0.2 data directory's measurements: its
// folder specs if there are some in it and none in the directory itself, as
// [LoadInferenceData] has it. What is written elsewhere hides the rest.
func MeasurementsDir(dir string) string {
	for _, base := range []string{dir, filepath.Join(dir, specsFolder)} {
		if file, err := firstTrace(base); err == nil && file != "" {
			return base
		}
	}
	return dir
}

// firstTrace is the trace of some measurement in the folder; empty: there is none.
func firstTrace(base string) (string, error) {
	entries, err := os.ReadDir(base)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", openError(base, err)
	}
	for _, e := range entries {
		if file := filepath.Join(base, e.Name(), traceFile); exists(file) {
			return file, nil
		}
	}
	return "", nil
}

// HasV01 reports whether a directory holds data in layout 0.1 that was written whole.
func HasV01(dir string) bool {
	return exists(filepath.Join(dir, manifestFile)) && exists(filepath.Join(dir, tracesSummaryFile))
}

// validate refuses what no reader would take.
func (m *Measured) validate() error {
	name := quote(m.Spec.ModelLabel)
	if m.Spec.ModelLabel == "" || m.Spec.GPUsPerReplica < 1 {
		return fmt.Errorf("%w: model %s: a measurement needs a label and at least one GPU", datacenter.ErrInvalidInput, name)
	}
	if len(m.Traces) == 0 || len(m.ITL) == 0 {
		return fmt.Errorf("%w: model %s has %d traces and %d ITL fits, want one or more of each", datacenter.ErrInvalidInput, name, len(m.Traces), len(m.ITL))
	}
	for _, batchSize := range sortedKeys(m.Traces) {
		trace := m.Traces[batchSize]
		if len(trace.TS) < minTraceSamples || len(trace.TS) != len(trace.PowerW) {
			return fmt.Errorf("%w: model %s, batch size %d: trace too short: it has %d times and %d powers, want at least %d",
				datacenter.ErrInvalidInput, name, batchSize, len(trace.TS), len(trace.PowerW), minTraceSamples)
		}
		for i := range trace.TS {
			if sum := trace.TS[i] + trace.PowerW[i]; sum-sum != 0 {
				return fmt.Errorf("%w: model %s, batch size %d: sample %d is %v W at %v s, want finite numbers",
					datacenter.ErrInvalidInput, name, batchSize, i, trace.PowerW[i], trace.TS[i])
			}
		}
	}
	for _, batchSize := range sortedKeys(m.ITL) {
		fit := m.ITL[batchSize]
		if err := fit.validate(""); err != nil {
			return fmt.Errorf("%w: model %s, ITL fit at batch size %d: %w", datacenter.ErrInvalidInput, name, batchSize, err)
		}
	}
	return nil
}

// dataFile is a file to be written.
type dataFile struct {
	name  string // relative to its directory
	write func(io.Writer) error
}

// v02Files are the files of a measurement in the order they appear.
func (m *Measured) v02Files(options WriteOptions) []dataFile {
	fits := dataFile{itlFitFile, func(w io.Writer) error { return WriteITLFit(w, m.Spec.ModelLabel, m.ITL) }}
	files := []dataFile{{traceFile, func(w io.Writer) error { return m.writeTraces(w, options) }}, fits}
	if !m.Observed.isEmpty() {
		files = append(files, dataFile{observedFile, func(w io.Writer) error { return writeObserved(w, []Measured{*m}, fits.write) }})
	}
	files = append(files, dataFile{manifestFile, func(w io.Writer) error {
		o := options.manifest(openG2GVersion02)
		o["schema_version"] = manifestSchema
		o["spec"] = m.Spec.object()
		o["spec_hash"] = m.Spec.Hash()
		return writePyJSON(w, o)
	}})
	if m.Logistic != nil {
		files = append(files, m.logisticFile())
	}
	return files
}

func (m *Measured) logisticFile() dataFile {
	return dataFile{logisticFitFile, func(w io.Writer) error { return WriteLogisticFit(w, m.Spec.ModelLabel, m.Logistic) }}
}

// manifest is what the manifests of both layouts say.
func (o WriteOptions) manifest(openG2GVersion string) map[string]any {
	m := map[string]any{
		"openg2g_version": openG2GVersion, "mlenergy_data_version": mlenergyDataVersion,
		"written_utc": o.WrittenAt.UTC().Format("2006-01-02T15:04:05+00:00"),
	}
	if o.AgentVersion != "" {
		m["g2g_agent_version"] = o.AgentVersion
	}
	return m
}

// writeTraces writes all traces of the model as one table.
func (m *Measured) writeTraces(w io.Writer, options WriteOptions) error {
	b := bufio.NewWriter(w)
	b.WriteString("batch_size,relative_time_s,power_total_W\n")
	var line []byte
	for _, batchSize := range sortedKeys(m.Traces) {
		for i := range m.Traces[batchSize].TS {
			line = append(strconv.AppendInt(line[:0], int64(batchSize), 10), ',')
			b.Write(options.appendSample(line, m.Traces[batchSize], i))
		}
	}
	return b.Flush()
}

func (o WriteOptions) appendSample(line []byte, trace *InferenceTrace, i int) []byte {
	t, p := trace.TS[i], trace.PowerW[i]
	if o.Rounded {
		t, p = roundTo(t, 'g', 15), roundTo(p, 'f', 3)
	}
	line = datacenter.AppendFloat(line, t)
	return append(datacenter.AppendFloat(append(line, ','), p), '\n')
}

// roundTo returns the number that v's digits in the format stand for.
func roundTo(v float64, format byte, digits int) float64 {
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(v, format, digits, 64), 64)
	if err != nil {
		return v // rounded beyond the largest number
	}
	return rounded
}

// writeV01 writes the 0.1 layout.
func writeV01(dir string, models []Measured, options WriteOptions) error {
	models = slices.Clone(models)
	slices.SortStableFunc(models, func(a, b Measured) int { return strings.Compare(a.Spec.ModelLabel, b.Spec.ModelLabel) })
	var files []dataFile
	summary := []byte("model_label,num_gpus,max_num_seqs,trace_file\n")
	fits := ITLFits{}
	curves, observed := false, false
	for i, m := range models {
		if i > 0 && m.Spec.ModelLabel == models[i-1].Spec.ModelLabel {
			return fmt.Errorf("%w: two measurements of model %s: layout %s has one a label", datacenter.ErrInvalidInput, quote(m.Spec.ModelLabel), Layout01)
		}
		fits[m.Spec.ModelLabel] = m.ITL
		curves, observed = curves || m.Logistic != nil, observed || !m.Observed.isEmpty()
		for _, batchSize := range sortedKeys(m.Traces) {
			name := fmt.Sprintf("traces/%s_num_gpus_%d_max_num_seqs_%d.csv", fileName(m.Spec.ModelLabel), m.Spec.GPUsPerReplica, batchSize)
			summary = datacenter.AppendCSVField(summary, m.Spec.ModelLabel)
			summary = fmt.Appendf(summary, ",%d,%d,", m.Spec.GPUsPerReplica, batchSize)
			summary = append(datacenter.AppendCSVField(summary, name), '\n')
			files = append(files, dataFile{name, func(w io.Writer) error { return options.writeTrace(w, m.Traces[batchSize]) }})
		}
	}
	fitsFile := dataFile{latencyFitsFile, func(w io.Writer) error { return WriteITLFits(w, fits) }}
	files = append(files, fitsFile)
	if observed {
		files = append(files, dataFile{observedFile, func(w io.Writer) error { return writeObserved(w, models, fitsFile.write) }})
	}
	if curves {
		files = append(files, dataFile{logisticFitsFile, func(w io.Writer) error { return writeLogisticFits(w, models) }})
	}
	files = append(files,
		dataFile{tracesSummaryFile, func(w io.Writer) error { _, err := w.Write(summary); return err }},
		dataFile{manifestFile, func(w io.Writer) error { return writePyJSON(w, options.manifest(openG2GVersion01)) }})
	old := tracesOf(dir)
	if err := writeFiles(dir, files, manifestFile, tracesSummaryFile, logisticFitsFile, observedFile); err != nil {
		return err
	}
	return removeOthers(dir, old, files)
}

// tracesOf are the files that a 0.1 directory's summary names, as far as it can be read.
func tracesOf(dir string) (names []string) {
	_ = readTable(filepath.Join(dir, tracesSummaryFile), []string{"trace_file"}, func(row *table) error {
		names = append(names, row.text(0))
		return nil
	})
	return names
}

// removeOthers removes the old files that are none of the new ones. A summary may name
// what is no trace: only tables in dir itself or its folders go, not what a link leads to.
func removeOthers(dir string, old []string, written []dataFile) error {
	if len(old) == 0 {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range old {
		name = path.Clean(name)
		info, err := root.Lstat(filepath.FromSlash(name))
		if err != nil || !info.Mode().IsRegular() || path.Ext(name) != ".csv" || slices.ContainsFunc(written, func(f dataFile) bool { return f.name == name }) {
			continue
		}
		if err := root.Remove(filepath.FromSlash(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: remove an old trace: %w", dir, err)
		}
	}
	return nil
}

// writeTrace writes one trace as a table of its own.
func (o WriteOptions) writeTrace(w io.Writer, trace *InferenceTrace) error {
	b := bufio.NewWriter(w)
	b.WriteString("relative_time_s,power_total_W\n")
	var line []byte
	for i := range trace.TS {
		line = o.appendSample(line[:0], trace, i)
		b.Write(line)
	}
	return b.Flush()
}

// fileName returns the label as a part of a file's name: itself, unless a file system
// would mind, or take it for a path.
func fileName(label string) string {
	const longest = 100
	plain := strings.Map(func(r rune) rune {
		if strings.ContainsRune(`/\:*?"<>|`, r) || r < ' ' || r == 0x7f {
			return '_'
		}
		return r
	}, label)
	if plain == label && len(label) <= longest && !strings.HasPrefix(label, ".") {
		return label
	}
	plain = strings.TrimLeft(plain, ".")
	sum := sha256.Sum256([]byte(label)) // so that two labels stay two
	return strings.ToValidUTF8(plain[:min(len(plain), longest)], "") + "_" + hex.EncodeToString(sum[:4])
}

// writeFiles writes files into dir in their order. All are written out before the
// first appears, so that a full disk changes nothing. first are files that go before
// that if they are there: without them nothing takes what is between for complete.
func writeFiles(dir string, files []dataFile, first ...string) (err error) {
	made, err := makeFolder(dir)
	if err != nil {
		return err
	}
	var open []*atomicfile.File
	defer func() {
		for _, f := range open {
			f.Abort()
		}
		if err != nil && made {
			_ = os.Remove(dir) // it stays if there is something in it
		}
	}()
	for _, file := range files {
		path := filepath.Join(dir, filepath.FromSlash(file.name))
		if _, err := makeFolder(filepath.Dir(path)); err != nil {
			return err
		}
		atomicfile.TakeLeftovers(path, func(_ *os.File, leftover string) { _ = os.Remove(leftover) }) // of a run that was killed
		f, err := atomicfile.Create(path)
		if err != nil {
			return err
		}
		open = append(open, f)
		if err := file.write(f); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	for _, name := range first {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, f := range open {
		if err := f.Commit(); err != nil {
			return err
		}
	}
	return nil
}

// makeFolder makes dir and what is above it, and reports whether dir is new.
func makeFolder(dir string) (bool, error) {
	if exists(dir) {
		return false, nil
	}
	const mode = 0o755
	if err := os.MkdirAll(dir, mode); err != nil {
		return false, fmt.Errorf("make the directory %s: %w", dir, err)
	}
	return true, nil
}
