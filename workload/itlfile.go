package workload

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"slices"
	"strconv"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/internal/textfile"
)

// ITLFits are ITL mixtures by model label and batch size.
type ITLFits map[string]map[int]ITLMixture

// itlDist is the only kind of fit there is.
const itlDist = "lognormal_mixture_2"

// itlPrefix stands before the parameters' names in latency_fits.csv.
const itlPrefix = "itl_mix_"

// itlSchema is the schema of itl_fit.json.
const itlSchema = "itl_fit." + itlDist

// itlParam is a parameter of the mixture as files spell it.
type itlParam struct {
	name string
	at   func(*ITLMixture) *float64
}

// itlParams are the parameters in the order OpenG2G writes them.
func itlParams() []itlParam {
	return []itlParam{
		{"loc", func(m *ITLMixture) *float64 { return &m.Loc }},
		{"pi_steady", func(m *ITLMixture) *float64 { return &m.PiSteady }},
		{"sigma_steady", func(m *ITLMixture) *float64 { return &m.SigmaSteady }},
		{"scale_steady", func(m *ITLMixture) *float64 { return &m.ScaleSteady }},
		{"pi_stall", func(m *ITLMixture) *float64 { return &m.PiStall }},
		{"sigma_stall", func(m *ITLMixture) *float64 { return &m.SigmaStall }},
		{"scale_stall", func(m *ITLMixture) *float64 { return &m.ScaleStall }},
	}
}

// validate returns what is wrong with the mixture; prefix comes before the names
// of its parameters.
func (m *ITLMixture) validate(prefix string) error {
	for _, p := range itlParams() {
		if v := *p.at(m); !(v >= 0) || math.IsInf(v, 0) {
			return fmt.Errorf("%s%s must be a finite number >= 0, got %v", prefix, p.name, v)
		}
	}
	if !(m.PiSteady+m.PiStall > 0) {
		return fmt.Errorf("%spi_steady and %spi_stall are both 0; one must be above 0", prefix, prefix)
	}
	return nil
}

// add puts a fit in its place and reports whether the place was free.
func (f ITLFits) add(label string, batchSize int, m ITLMixture) bool {
	if f[label] == nil {
		f[label] = map[int]ITLMixture{}
	}
	_, taken := f[label][batchSize]
	f[label][batchSize] = m
	return !taken
}

// itlColumns are the columns of latency_fits.csv.
func itlColumns() []string {
	columns := []string{"model_label", "max_num_seqs", "itl_dist"}
	for _, p := range itlParams() {
		columns = append(columns, itlPrefix+p.name)
	}
	return columns
}

// loadITLFits reads fits from OpenG2G 0.1's latency_fits.csv. The errors are
// [*FileError].
func loadITLFits(file string) (ITLFits, error) {
	fits := ITLFits{}
	err := readTable(file, itlColumns(), func(row *table) error {
		label := row.text(0)
		batchSize, err := row.positiveInt(1)
		if err != nil {
			return err
		}
		if dist := row.text(2); dist != itlDist {
			return row.errorf("itl_dist is %s, want %q", quote(dist), itlDist)
		}
		var m ITLMixture
		for i, p := range itlParams() {
			if *p.at(&m), err = row.finite(3 + i); err != nil {
				return err
			}
		}
		if err := m.validate(itlPrefix); err != nil {
			return row.errorf("%w", err)
		}
		if !fits.add(label, batchSize, m) {
			return row.errorf("a second fit for model %s at batch size %d", quote(label), batchSize)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(fits) == 0 {
		return nil, fileErrorf(file, 0, "has no rows")
	}
	return fits, nil
}

// WriteITLFits writes fits as latency_fits.csv, in order of label and batch size.
func WriteITLFits(w io.Writer, fits ITLFits) error {
	b := bufio.NewWriter(w)
	for i, c := range itlColumns() {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(c)
	}
	b.WriteByte('\n')
	for _, label := range sortedKeys(fits) {
		for _, batchSize := range sortedKeys(fits[label]) {
			m := fits[label][batchSize]
			line := datacenter.AppendCSVField(nil, label)
			line = append(strconv.AppendInt(append(line, ','), int64(batchSize), 10), ","+itlDist...)
			for _, p := range itlParams() {
				line = datacenter.AppendFloat(append(line, ','), *p.at(&m))
			}
			b.Write(append(line, '\n'))
		}
	}
	return b.Flush()
}

// itlFile is itl_fit.json of OpenG2G 0.2.
type itlFile struct {
	Schema     string                         `json:"schema"`
	ModelLabel string                         `json:"model_label"`
	PerBatch   map[string]map[string]*float64 `json:"per_batch"`
}

// loadITLFit reads one model's fits by batch size from OpenG2G 0.2's
// itl_fit.json. The errors are [*FileError].
func loadITLFit(file string) (map[int]ITLMixture, error) {
	var content itlFile
	if err := readJSON(file, &content); err != nil {
		return nil, err
	}
	if content.Schema != itlSchema {
		return nil, fileErrorf(file, 0, "schema is %s, want %q", quote(content.Schema), itlSchema)
	}
	fits := map[int]ITLMixture{}
	for _, key := range sortedKeys(content.PerBatch) {
		batchSize, err := strconv.Atoi(key)
		if err != nil || batchSize < 1 || strconv.Itoa(batchSize) != key {
			return nil, fileErrorf(file, 0, "per_batch: %s is not a batch size", quote(key))
		}
		var m ITLMixture
		for _, p := range itlParams() {
			v := content.PerBatch[key][p.name]
			if v == nil { // OpenG2G takes them with the prefix of latency_fits.csv, too
				v = content.PerBatch[key][itlPrefix+p.name]
			}
			if v == nil {
				return nil, fileErrorf(file, 0, "per_batch.%s.%s is missing", key, p.name)
			}
			*p.at(&m) = *v
		}
		if err := m.validate("per_batch." + key + "."); err != nil {
			return nil, &FileError{file, 0, err}
		}
		fits[batchSize] = m
	}
	if len(fits) == 0 {
		return nil, fileErrorf(file, 0, "per_batch is empty")
	}
	return fits, nil
}

// WriteITLFit writes one model's fits as itl_fit.json, byte for byte as OpenG2G
// does.
func WriteITLFit(w io.Writer, modelLabel string, fits map[int]ITLMixture) error {
	perBatch := map[string]any{}
	for batchSize, m := range fits {
		params := map[string]any{}
		for _, p := range itlParams() {
			params[p.name] = *p.at(&m)
		}
		perBatch[strconv.Itoa(batchSize)] = params
	}
	return writePyJSON(w, map[string]any{"schema": itlSchema, "model_label": modelLabel, "per_batch": perBatch})
}

// readJSON reads a JSON file into v, naming the line of a syntax error.
func readJSON(file string, v any) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return openError(file, err)
	}
	if raw, err = textfile.Strip(raw); err != nil {
		return &FileError{file, 0, err}
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return &FileError{file, jsonErrorLine(raw, err), jsonError(err)}
	}
	return nil
}

// jsonError words a value of the wrong type in the file's terms.
func jsonError(err error) error {
	var mismatch *json.UnmarshalTypeError
	if !errors.As(err, &mismatch) {
		return err
	}
	want := "an object"
	switch mismatch.Type.Kind() {
	case reflect.Int:
		want = "a whole number"
	case reflect.Float64:
		want = "a finite number"
	case reflect.String:
		want = "a string"
	case reflect.Slice:
		want = "an array"
	}
	if mismatch.Field == "" {
		return fmt.Errorf("want %s, got %s", want, excerpt.Of(mismatch.Value, maxQuoted))
	}
	return fmt.Errorf("%s: want %s, got %s", excerpt.Printable(mismatch.Field, maxQuoted), want, excerpt.Of(mismatch.Value, maxQuoted))
}

func jsonErrorLine(raw []byte, err error) int {
	var syntax *json.SyntaxError
	var mismatch *json.UnmarshalTypeError
	var offset int64
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &mismatch):
		offset = mismatch.Offset
	default:
		return 0
	}
	line := 1
	for _, c := range raw[:min(int(offset), len(raw))] {
		if c == '\n' {
			line++
		}
	}
	return line
}

func sortedKeys[K string | int, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
