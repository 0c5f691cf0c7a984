package mlenergy

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"

	"github.com/parquet-go/parquet-go"

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
	runs, err := readRuns(ctx, f, info.Size())
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, errorAt(path, "%w", err)
	}
	if len(runs) == 0 {
		return nil, errorAt(path, "has no rows, want one for each run")
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
func readRuns(ctx context.Context, r io.ReaderAt, size int64) (runs []Run, err error) {
	defer parquetfile.Recover(&err)
	file, err := parquetfile.Open(r, size)
	if err != nil {
		return nil, err
	}
	// A row takes a byte at least, for its own results_path.
	most := min(maxRuns, size)
	rows := file.NumRows()
	if rows < 0 || rows > most {
		return nil, fmt.Errorf("has %d rows, at most %d are read of a file of %d bytes", rows, most, size)
	}
	nan := math.NaN()
	for row := range int(rows) {
		runs = append(runs, Run{Row: row + 1, NumGPUs: nan, MaxNumSeqs: nan, AvgPowerW: nan, MeanITLMS: nan,
			OutputThroughputTokensPerS: nan, TensorParallel: nan, ExpertParallel: nan})
	}
	for _, c := range columns() {
		leaf, err := parquetfile.FindColumn(file, c.name)
		if err != nil && c.optional {
			continue
		}
		if err != nil {
			return nil, err
		}
		if leaf.MaxRepetitionLevel > 0 {
			return nil, fmt.Errorf("column %s holds lists, want one value a row", quote(c.name))
		}
		if err := c.read(ctx, file, leaf.ColumnIndex, runs); err != nil {
			return nil, fmt.Errorf("column %s: %w", quote(c.name), err)
		}
	}
	return runs, nil
}

// read reads the column's values into the runs, of which there is one a row.
func (c *column) read(ctx context.Context, file *parquet.File, index int, runs []Run) (err error) {
	defer parquetfile.Recover(&err) // here, so that the column is told
	seen := 0
	err = parquetfile.EachValue(ctx, file, index, nil, func(row int, v parquet.Value) error {
		if row >= len(runs) {
			return parquetfile.ErrDamaged
		}
		seen = row + 1
		if err := c.set(&runs[row], v); err != nil {
			return fmt.Errorf("row %d: %w", row+1, err)
		}
		return nil
	})
	if err == nil && seen < len(runs) {
		err = parquetfile.ErrDamaged
	}
	return err
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
