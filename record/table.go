package record

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/parquet-go/parquet-go"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
)

// ColumnType is the type of a column of a [Table].
type ColumnType int

// The types of columns.
const (
	IntColumn ColumnType = iota
	FloatColumn
	TextColumn
)

// Column is a column of a [Table].
type Column struct {
	Name string
	Type ColumnType
}

// Cell is a value of a row. Its type must be its column's.
type Cell struct {
	kind  ColumnType
	null  bool
	whole int64
	float float64
	text  string
}

// Int is a whole number.
func Int(v int64) Cell { return Cell{kind: IntColumn, whole: v} }

// Float is a number; NaN and the infinities are missing.
func Float(v float64) Cell {
	return Cell{kind: FloatColumn, float: v, null: math.IsNaN(v) || math.IsInf(v, 0)}
}

// Text is a text.
func Text(v string) Cell { return Cell{kind: TextColumn, text: v} }

// Missing is a value that is not there: null, in CSV nothing.
func Missing(kind ColumnType) Cell { return Cell{kind: kind, null: true} }

// rowWriter writes the rows of a table in one format.
type rowWriter interface {
	row([]Cell) error
	close() error
}

// Table writes rows to a file that appears under its name only when it is complete, as
// CSV, JSON lines or Parquet. It is not safe for concurrent use.
type Table struct {
	path    string
	file    *atomicfile.File
	rows    rowWriter
	columns []Column
	err     error
}

// CreateTable starts a file of rows of these columns, in the format that the ending of
// path asks for. It fails as [Create] does.
func CreateTable(path string, columns []Column) (*Table, error) {
	format, err := formatOf(path)
	if err != nil {
		return nil, err
	}
	file, err := atomicfile.Create(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", datacenter.ErrInvalidInput, err)
	}
	t := &Table{path: path, file: file, columns: columns}
	switch format.ending {
	case csvEnding:
		t.rows = newCSVRows(file, columns)
	case jsonlEnding:
		t.rows = &jsonlRows{out: bufio.NewWriterSize(file, bufferSize), columns: columns}
	default:
		t.rows = newParquetRows(file, columns)
	}
	return t, nil
}

// Write appends a row: a cell for each column. After an error the file cannot be
// committed.
func (t *Table) Write(row []Cell) error {
	if t.err != nil {
		return t.err
	}
	if len(row) != len(t.columns) {
		t.err = fmt.Errorf("write %s: a row of %d cells for %d columns", t.path, len(row), len(t.columns))
		return t.err
	}
	for i, c := range row {
		if c.kind != t.columns[i].Type {
			t.err = fmt.Errorf("write %s: a cell of another type than column %s", t.path, t.columns[i].Name)
			return t.err
		}
	}
	if err := t.rows.row(row); err != nil {
		t.err = fmt.Errorf("write %s: %w", t.path, err)
	}
	return t.err
}

// Commit completes the file, makes it durable and puts it under its name. If it fails,
// nothing is left behind.
func (t *Table) Commit() error {
	if t.err == nil {
		if err := t.rows.close(); err != nil {
			t.err = fmt.Errorf("write %s: %w", t.path, err)
		}
	}
	if t.err != nil {
		t.file.Abort()
		return t.err
	}
	t.err = fmt.Errorf("write %s: it is closed", t.path)
	return t.file.Commit()
}

// Abort discards the file. It does nothing after Commit, so that it can be deferred.
func (t *Table) Abort() { t.file.Abort() }

type csvRows struct {
	out  *bufio.Writer
	line []byte
}

func newCSVRows(w io.Writer, columns []Column) *csvRows {
	c := &csvRows{out: bufio.NewWriterSize(w, bufferSize)}
	for i, column := range columns {
		if i > 0 {
			c.out.WriteByte(',')
		}
		c.out.Write(datacenter.AppendCSVField(nil, column.Name))
	}
	c.out.WriteByte('\n')
	return c
}

func (c *csvRows) row(row []Cell) error {
	b := c.line[:0]
	for i, cell := range row {
		if i > 0 {
			b = append(b, ',')
		}
		switch {
		case cell.null:
		case cell.kind == TextColumn:
			b = datacenter.AppendCSVField(b, cell.text)
		default:
			b = cell.appendNumber(b)
		}
	}
	c.line = append(b, '\n')
	_, err := c.out.Write(c.line)
	return err
}

func (c *csvRows) close() error { return c.out.Flush() }

func (c Cell) appendNumber(b []byte) []byte {
	if c.kind == IntColumn {
		return strconv.AppendInt(b, c.whole, 10)
	}
	return datacenter.AppendFloat(b, c.float)
}

type jsonlRows struct {
	out     *bufio.Writer
	columns []Column
	line    []byte
}

func (j *jsonlRows) row(row []Cell) error {
	b := append(j.line[:0], '{')
	for i, cell := range row {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendQuote(b, j.columns[i].Name) // names are plain
		b = append(b, ':')
		switch {
		case cell.null:
			b = append(b, "null"...)
		case cell.kind == TextColumn:
			text, err := json.Marshal(cell.text)
			if err != nil {
				return err
			}
			b = append(b, text...)
		default:
			b = cell.appendNumber(b)
		}
	}
	j.line = append(b, '}', '\n')
	_, err := j.out.Write(j.line)
	return err
}

func (j *jsonlRows) close() error { return j.out.Flush() }

type parquetRows struct {
	out   *parquet.GenericWriter[any]
	cells parquet.Row
}

// newParquetRows uses what every reader has, as the states do.
func newParquetRows(w io.Writer, columns []Column) *parquetRows {
	nodes := make([]parquetColumn, len(columns))
	for i, c := range columns {
		node := parquet.Int(64)
		switch c.Type {
		case FloatColumn:
			node = parquet.Leaf(parquet.DoubleType)
		case TextColumn:
			node = parquet.Encoded(parquet.String(), &parquet.Plain)
		case IntColumn:
		}
		nodes[i] = parquetColumn{name: c.Name, node: parquet.Optional(node)}
	}
	return &parquetRows{out: parquet.NewGenericWriter[any](w, parquet.NewSchema("row", newRecordNode(nodes)),
		parquet.Compression(&parquet.Zstd), parquet.DataPageVersion(1), parquet.MaxRowsPerRowGroup(rowsPerGroup))}
}

func (p *parquetRows) row(row []Cell) error {
	p.cells = p.cells[:0]
	for i, cell := range row {
		v, defined := parquet.NullValue(), 0
		if !cell.null {
			defined = 1
			switch cell.kind {
			case IntColumn:
				v = parquet.Int64Value(cell.whole)
			case FloatColumn:
				v = parquet.DoubleValue(cell.float)
			case TextColumn:
				v = parquet.ByteArrayValue([]byte(cell.text))
			}
		}
		p.cells = append(p.cells, v.Level(0, defined, i))
	}
	_, err := p.out.WriteRows([]parquet.Row{p.cells})
	return err
}

func (p *parquetRows) close() error { return p.out.Close() }
