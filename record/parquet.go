package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/parquetfile"
)

const (
	// labelsKey is the file metadata that holds the model labels as a JSON array in
	// config order, whatever program has since put the columns into another.
	labelsKey = "g2g_agent.model_labels"
	// rowsPerGroup bounds what the writer holds in memory: 8 bytes for each
	// column and row, before compression.
	rowsPerGroup = 32 << 10
	rowsPerRead  = 128
)

// parquetColumn is one column of the files and its place in a state. Value is
// null, and set is given null, only if the column is optional.
type parquetColumn struct {
	name  string
	node  parquet.Node
	value func(*datacenter.State) parquet.Value
	set   func(*datacenter.State, parquet.Value)
}

func doubleColumn(name string, at func(*datacenter.State) *float64) parquetColumn {
	return parquetColumn{
		name, parquet.Leaf(parquet.DoubleType),
		func(s *datacenter.State) parquet.Value { return parquet.DoubleValue(*at(s)) },
		func(s *datacenter.State, v parquet.Value) { *at(s) = v.Double() },
	}
}

func countColumn(name string, at func(*datacenter.State) *int) parquetColumn {
	return parquetColumn{
		name, parquet.Int(64),
		func(s *datacenter.State) parquet.Value { return parquet.Int64Value(int64(*at(s))) },
		func(s *datacenter.State, v parquet.Value) { *at(s) = int(v.Int64()) },
	}
}

func wallTimeColumn() parquetColumn {
	return parquetColumn{
		"wall_time", parquet.Optional(parquet.Timestamp(parquet.Nanosecond)),
		func(s *datacenter.State) parquet.Value {
			if s.WallTime.IsZero() {
				return parquet.NullValue()
			}
			return parquet.Int64Value(s.WallTime.UnixNano())
		},
		func(s *datacenter.State, v parquet.Value) {
			if !v.IsNull() {
				s.WallTime = time.Unix(0, v.Int64()).UTC()
			}
		},
	}
}

// itlColumn is the observed latency of model i, null for none.
func itlColumn(name string, i int) parquetColumn {
	return parquetColumn{
		name, parquet.Optional(parquet.Leaf(parquet.DoubleType)),
		func(s *datacenter.State) parquet.Value {
			if itl := s.Models[i].ObservedITLS; !math.IsNaN(itl) {
				return parquet.DoubleValue(itl)
			}
			return parquet.NullValue()
		},
		func(s *datacenter.State, v parquet.Value) {
			s.Models[i].ObservedITLS = math.NaN()
			if !v.IsNull() {
				s.Models[i].ObservedITLS = v.Double()
			}
		},
	}
}

func parquetColumns(labels []string) []parquetColumn {
	fixed, perModel := stateColumns(), modelColumns()
	columns := []parquetColumn{
		{
			"seq", parquet.Int(64),
			func(s *datacenter.State) parquet.Value { return parquet.Int64Value(s.Seq) },
			func(s *datacenter.State, v parquet.Value) { s.Seq = v.Int64() },
		},
		wallTimeColumn(),
		{
			// Without a word the library would take DELTA_LENGTH_BYTE_ARRAY, which several
			// readers lack.
			"source", parquet.Encoded(parquet.String(), &parquet.Plain),
			func(s *datacenter.State) parquet.Value { return parquet.ByteArrayValue([]byte(s.Source)) },
			func(s *datacenter.State, v parquet.Value) { s.Source = datacenter.SourceKind(v.ByteArray()) },
		},
		doubleColumn(fixed[0], func(s *datacenter.State) *float64 { return &s.TimeS }),
		doubleColumn(fixed[1], func(s *datacenter.State) *float64 { return &s.PowerW.A }),
		doubleColumn(fixed[2], func(s *datacenter.State) *float64 { return &s.PowerW.B }),
		doubleColumn(fixed[3], func(s *datacenter.State) *float64 { return &s.PowerW.C }),
	}
	for i, label := range labels {
		columns = append(columns,
			doubleColumn(label+perModel[0], func(s *datacenter.State) *float64 { return &s.Models[i].PowerW }),
			countColumn(label+perModel[1], func(s *datacenter.State) *int { return &s.Models[i].ActiveReplicas }),
			countColumn(label+perModel[2], func(s *datacenter.State) *int { return &s.Models[i].BatchSize }),
			itlColumn(label+perModel[3], i),
			doubleColumn(label+perModel[4], func(s *datacenter.State) *float64 { return &s.Models[i].PhaseShare.A }),
			doubleColumn(label+perModel[5], func(s *datacenter.State) *float64 { return &s.Models[i].PhaseShare.B }),
			doubleColumn(label+perModel[6], func(s *datacenter.State) *float64 { return &s.Models[i].PhaseShare.C }),
		)
	}
	return columns
}

// parquetWriter writes states as the rows of a Parquet file, compressed with
// Zstandard. Its columns are seq (int64), wall_time (timestamp in ns UTC, null when
// there is none), source (string) and then those of the CSV in their order; the
// observed ITL is null when there is none. What every reader has is all that it
// uses: pages of version 1, values in the encoding PLAIN.
type parquetWriter struct {
	out     *parquet.GenericWriter[any]
	labels  []string
	columns []parquetColumn // in the order of the file
	row     parquet.Row
}

// newParquetWriter returns a writer to w of states of the models, in that
// order, which the file keeps in its metadata g2g_agent.model_labels. It fails,
// wrapping [datacenter.ErrInvalidInput], for the labels that [NewCSVWriter]
// refuses and for more models than Parquet has columns for.
func newParquetWriter(w io.Writer, models []string) (*parquetWriter, error) {
	if err := checkLabels(models); err != nil {
		return nil, err
	}
	columns := parquetColumns(models)
	if len(columns) > parquet.MaxColumnIndex {
		return nil, fmt.Errorf("%w: %d models need %d columns, Parquet has at most %d",
			datacenter.ErrInvalidInput, len(models), len(columns), parquet.MaxColumnIndex)
	}
	labels, err := json.Marshal(models)
	if err != nil {
		return nil, err
	}
	p := &parquetWriter{labels: slices.Clone(models), columns: columns}
	p.out = parquet.NewGenericWriter[any](w, parquet.NewSchema("state", newRecordNode(columns)),
		parquet.Compression(&parquet.Zstd), parquet.DataPageVersion(1),
		parquet.MaxRowsPerRowGroup(rowsPerGroup), parquet.KeyValueMetadata(labelsKey, string(labels)))
	return p, nil
}

// recordNode is a group whose fields keep their order, where the library's own
// sorts them by name.
type recordNode struct {
	parquet.Group
	fields []parquet.Field
}

func newRecordNode(columns []parquetColumn) recordNode {
	n := recordNode{Group: parquet.Group{}}
	for _, c := range columns {
		n.fields = append(n.fields, parquet.Group{c.name: c.node}.Fields()...)
		n.Group[c.name] = c.node
	}
	return n
}

// Fields implements [parquet.Node].
func (n recordNode) Fields() []parquet.Field { return n.fields }

// Write appends s as one row. It fails for a wall time that does not fit in 64
// bits of nanoseconds (the years 1678 to 2261 do).
func (p *parquetWriter) Write(s *datacenter.State) error {
	if err := checkModels(s, p.labels); err != nil {
		return err
	}
	if year := s.WallTime.UTC().Year(); !s.WallTime.IsZero() && (year < 1678 || year > 2261) {
		return fmt.Errorf("state %d: wall time %v must be in the years 1678 to 2261", s.Seq, s.WallTime)
	}
	p.row = p.row[:0]
	for i, c := range p.columns {
		v := c.value(s)
		defined := 0
		if c.node.Optional() && !v.IsNull() {
			defined = 1
		}
		p.row = append(p.row, v.Level(0, defined, i))
	}
	_, err := p.out.WriteRows([]parquet.Row{p.row})
	return err
}

// Close writes the last rows and the footer, without which no reader takes the
// file. It does not close the underlying writer.
func (p *parquetWriter) Close() error { return p.out.Close() }

// readParquet reads the states that a [parquetWriter] wrote from the size bytes
// of r. Columns it does not know are passed over; without the metadata on model
// order, models come in the order of the columns. Errors start with name and,
// past the footer, the row, counted from 1.
func readParquet(r io.ReaderAt, size int64, name string) iter.Seq2[*datacenter.State, error] {
	return func(yield func(*datacenter.State, error) bool) {
		p, err := openParquet(r, size)
		if err != nil {
			yield(nil, inputError(name, err))
			return
		}
		defer func() { _ = p.close() }() // what was read is unaffected
		for number := 1; ; {
			states, err := p.read()
			for _, s := range states {
				number++
				if !yield(s, nil) {
					return
				}
			}
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(nil, inputError(fmt.Sprintf("%s: row %d", name, number), err))
				return
			}
		}
	}
}

// parquetReader reads batches of states. Its methods turn the panics of the
// Parquet library on corrupt files into errors; a consumer's own never pass
// through them.
type parquetReader struct {
	labels  []string
	columns map[int]parquetColumn // by their index in the file
	groups  []parquet.RowGroup    // still to be read
	rows    parquet.Rows          // of the group being read, nil between groups
	left    int64                 // rows that rows still has to give
	buffer  [rowsPerRead]parquet.Row
}

func openParquet(r io.ReaderAt, size int64) (p *parquetReader, err error) {
	defer parquetfile.Recover(&err)
	file, err := parquetfile.Open(r, size)
	if err != nil {
		return nil, err
	}
	p = &parquetReader{columns: map[int]parquetColumn{}, groups: file.RowGroups()}
	if p.labels, err = parquetLabels(file); err != nil {
		return nil, err
	}
	for _, c := range parquetColumns(p.labels) {
		leaf, ok := file.Schema().Lookup(c.name)
		if !ok {
			return nil, fmt.Errorf("column %q is missing", c.name)
		}
		if !sameType(leaf, c.node) {
			return nil, fmt.Errorf("column %q is %v, want %v", c.name, leaf.Node.Type(), c.node.Type())
		}
		p.columns[leaf.ColumnIndex] = c
	}
	return p, nil
}

// sameType tells whether a file's column holds what node does. Whether it is
// optional does not matter: other programs make every column so.
func sameType(leaf parquet.LeafColumn, node parquet.Node) bool {
	got, want := leaf.Node.Type(), node.Type()
	if got.Kind() != want.Kind() || leaf.MaxRepetitionLevel > 0 {
		return false
	}
	return !isTimestamp(want, false) || isTimestamp(got, true)
}

// isTimestamp tells whether t is a timestamp, and in nanoseconds if that is asked.
func isTimestamp(t parquet.Type, inNanoseconds bool) bool {
	logical := t.LogicalType()
	if logical == nil {
		return false
	}
	timestamp, ok := logical.Value.(*format.TimestampType)
	if !ok || !inNanoseconds {
		return ok
	}
	_, ok = timestamp.Unit.Value.(*format.NanoSeconds)
	return ok
}

func parquetLabels(file *parquet.File) ([]string, error) {
	var labels []string
	if text, ok := file.Lookup(labelsKey); ok {
		if err := json.Unmarshal([]byte(text), &labels); err != nil {
			return nil, fmt.Errorf("metadata %s must be a JSON array of model labels: %w", labelsKey, err)
		}
	} else {
		suffix := modelColumns()[0]
		for _, path := range file.Schema().Columns() {
			if n := len(path[0]) - len(suffix); len(path) == 1 && n >= 0 && path[0][n:] == suffix {
				labels = append(labels, path[0][:n])
			}
		}
	}
	return labels, checkLabels(labels)
}

// read returns the next states and, after the last ones, io.EOF. States before
// an error are good.
func (p *parquetReader) read() (states []*datacenter.State, err error) {
	defer parquetfile.Recover(&err)
	if p.rows == nil {
		if len(p.groups) == 0 {
			return nil, io.EOF
		}
		p.rows, p.left = p.groups[0].Rows(), p.groups[0].NumRows()
		p.groups = p.groups[1:]
	}
	n, err := p.rows.ReadRows(p.buffer[:])
	for _, row := range p.buffer[:n] {
		s, err := p.state(row)
		if err != nil {
			return states, err
		}
		states = append(states, s)
	}
	p.left -= int64(n)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return states, err
	case err == nil && n == 0, err != nil && p.left != 0:
		return states, errors.New("the Parquet file is corrupt: its row counts differ")
	case err != nil:
		rows := p.rows
		p.rows = nil
		return states, rows.Close()
	}
	return states, nil
}

func (p *parquetReader) state(row parquet.Row) (*datacenter.State, error) {
	s := newState(p.labels)
	read := 0
	for _, v := range row {
		c, ok := p.columns[v.Column()]
		if !ok {
			continue
		}
		if v.IsNull() && !c.node.Optional() {
			return nil, fmt.Errorf("column %q is null", c.name)
		}
		if !v.IsNull() && v.Kind() != c.node.Type().Kind() {
			return nil, fmt.Errorf("column %q has a value of type %v, want %v", c.name, v.Kind(), c.node.Type())
		}
		c.set(s, v)
		read++
	}
	if read != len(p.columns) {
		return nil, fmt.Errorf("the row has %d values, want %d", read, len(p.columns))
	}
	return s, nil
}

func (p *parquetReader) close() (err error) {
	defer parquetfile.Recover(&err)
	if p.rows != nil {
		return p.rows.Close()
	}
	return nil
}
