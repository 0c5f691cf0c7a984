package mlenergy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/internal/parquetfile"
)

// runsFile is the table of all runs, below a compiled directory.
const runsFile = "runs/llm.parquet"

// maxRuns bounds the rows that are read: the public benchmark has some thousands.
const maxRuns = 2_000_000

// Run is a row of the table of runs. Numbers that the row lacks are NaN, texts empty.
type Run struct {
	// Row is the row's number in the table, from 1.
	Row int
	// File is the table.
	File string

	Task, ModelID, GPUModel string
	NumGPUs, MaxNumSeqs     float64
	ResultsPath             string

	AvgPowerW, MeanITLMS, OutputThroughputTokensPerS float64

	// What tells apart runs that a spec takes for the same; a table may lack it.
	WeightPrecision                string
	TensorParallel, ExpertParallel float64
}

// BatchSize is the run's batch size.
func (r *Run) BatchSize() int { return int(r.MaxNumSeqs) }

// column is a column of the table and its place in a run; one of text and number is
// set.
type column struct {
	name     string
	optional bool // the table may lack it
	text     func(*Run) *string
	number   func(*Run) *float64
}

func columns() []column {
	return []column{
		{name: "task", text: func(r *Run) *string { return &r.Task }},
		{name: "model_id", text: func(r *Run) *string { return &r.ModelID }},
		{name: "gpu_model", text: func(r *Run) *string { return &r.GPUModel }},
		{name: "num_gpus", number: func(r *Run) *float64 { return &r.NumGPUs }},
		{name: "max_num_seqs", number: func(r *Run) *float64 { return &r.MaxNumSeqs }},
		{name: "results_path", text: func(r *Run) *string { return &r.ResultsPath }},
		{name: "avg_power_watts", number: func(r *Run) *float64 { return &r.AvgPowerW }},
		{name: "mean_itl_ms", number: func(r *Run) *float64 { return &r.MeanITLMS }},
		{name: "output_throughput_tokens_per_sec", number: func(r *Run) *float64 { return &r.OutputThroughputTokensPerS }},
		{name: "weight_precision", optional: true, text: func(r *Run) *string { return &r.WeightPrecision }},
		{name: "tensor_parallel", optional: true, number: func(r *Run) *float64 { return &r.TensorParallel }},
		{name: "expert_parallel", optional: true, number: func(r *Run) *float64 { return &r.ExpertParallel }},
	}
}

// ReadRuns reads the table of runs. They are in OpenG2G's order, which is that of the
// table, sorted stably by task, model, GPU model, GPUs and batch size.
func ReadRuns(ctx context.Context, source Source) ([]Run, error) {
	dir, err := source.Fetch(ctx, []string{runsFile})
	if err != nil {
		return nil, err
	}
	f, path, err := openFile(dir, runsFile)
	if err != nil {
		return nil, fmt.Errorf("%w (a compiled ML.ENERGY benchmark directory has %s)", err, filepath.FromSlash(runsFile))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	runs, err := readRuns(f, info.Size())
	if err != nil {
		return nil, errorAt(path, "%w", err)
	}
	for i := range runs {
		runs[i].File = path
	}
	slices.SortStableFunc(runs, func(a, b Run) int {
		return cmp.Or(cmp.Compare(a.Task, b.Task), cmp.Compare(a.ModelID, b.ModelID), cmp.Compare(a.GPUModel, b.GPUModel),
			cmp.Compare(a.NumGPUs, b.NumGPUs), cmp.Compare(a.MaxNumSeqs, b.MaxNumSeqs))
	})
	return runs, nil
}

// readRuns reads the needed columns alone. The library may panic on a damaged file.
func readRuns(r io.ReaderAt, size int64) (runs []Run, err error) {
	defer parquetfile.Recover(&err)
	file, err := parquetfile.Open(r, size)
	if err != nil {
		return nil, err
	}
	// A row takes a byte at least, for its own results_path.
	most := min(maxRuns, size)
	if n := file.NumRows(); n < 0 || n > most {
		return nil, fmt.Errorf("has %d rows, at most %d are read of a file of %d bytes", n, most, size)
	}
	var found []column
	var at []int
	for _, c := range columns() {
		leaf, ok := file.Schema().Lookup(c.name)
		if !ok && c.optional {
			continue
		}
		if !ok {
			return nil, fmt.Errorf("column %s is missing; the columns are %s", quote(c.name), columnNames(file))
		}
		if leaf.MaxRepetitionLevel > 0 {
			return nil, fmt.Errorf("column %s holds lists, want one value a row", quote(c.name))
		}
		found, at = append(found, c), append(at, leaf.ColumnIndex)
	}
	for _, group := range file.RowGroups() {
		chunks := group.ColumnChunks()
		for range group.NumRows() {
			if int64(len(runs)) == most {
				return nil, fmt.Errorf("has more than %d rows, in %d bytes", most, size)
			}
			nan := math.NaN()
			runs = append(runs, Run{Row: len(runs) + 1, NumGPUs: nan, MaxNumSeqs: nan, AvgPowerW: nan, MeanITLMS: nan,
				OutputThroughputTokensPerS: nan, TensorParallel: nan, ExpertParallel: nan})
		}
		rows := runs[len(runs)-int(group.NumRows()):]
		for i, c := range found {
			if err := c.read(chunks[at[i]], rows); err != nil {
				return nil, fmt.Errorf("column %s, %w", quote(c.name), err)
			}
		}
	}
	return runs, nil
}

func columnNames(file *parquet.File) string {
	var names []string
	for _, path := range file.Schema().Columns() {
		names = append(names, strings.Join(path, "."))
	}
	return excerpt.Printable(strings.Join(names, ", "), 8*maxQuoted)
}

// read reads the column's values into the rows of its group.
func (c *column) read(chunk parquet.ColumnChunk, rows []Run) (err error) {
	n := 0
	defer func() {
		parquetfile.Recover(&err)
		if err != nil && len(rows) > 0 {
			err = fmt.Errorf("row %d: %w", rows[0].Row+n, err)
		}
	}()
	pages := chunk.Pages()
	defer pages.Close()
	var buffer [128]parquet.Value
	for {
		page, err := pages.ReadPage()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		values := page.Values()
		for {
			got, err := values.ReadValues(buffer[:])
			for _, v := range buffer[:got] {
				if n == len(rows) {
					return fmt.Errorf("there are more values than the %d rows", len(rows))
				}
				if err := c.set(&rows[n], v); err != nil {
					return err
				}
				n++
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			if got == 0 {
				return io.ErrNoProgress
			}
		}
		parquet.Release(page)
	}
	if n < len(rows) {
		return fmt.Errorf("the values end, of %d rows", len(rows))
	}
	return nil
}

// set puts a value into its place in the row. A null leaves it as it is.
func (c *column) set(row *Run, v parquet.Value) error {
	if v.IsNull() {
		return nil
	}
	if c.text != nil {
		if k := v.Kind(); k != parquet.ByteArray {
			return fmt.Errorf("the value is a %v, want a text", k)
		}
		*c.text(row) = string(v.ByteArray())
		return nil
	}
	to := c.number(row)
	switch k := v.Kind(); k {
	case parquet.Int32:
		*to = float64(v.Int32())
	case parquet.Int64:
		*to = float64(v.Int64())
	case parquet.Float:
		*to = float64(v.Float())
	case parquet.Double:
		*to = v.Double()
	default:
		return fmt.Errorf("the value is a %v, want a number", k)
	}
	return nil
}
