package record

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

const bufferSize = 64 << 10

// CSVWriter writes states as CSV rows under one header.
type CSVWriter struct {
	out    *bufio.Writer
	labels []string
	line   []byte
}

// NewCSVWriter writes the header for the models, in that order, to w. It fails,
// wrapping [datacenter.ErrInvalidInput], for labels that are not distinct UTF-8
// without carriage returns. Rows reach w when the buffer is full, at Flush and
// at Close.
func NewCSVWriter(w io.Writer, models []string) (*CSVWriter, error) {
	if err := checkLabels(models); err != nil {
		return nil, err
	}
	c := &CSVWriter{out: bufio.NewWriterSize(w, bufferSize), labels: slices.Clone(models)}
	for i, name := range csvColumns(models) {
		if i > 0 {
			c.line = append(c.line, ',')
		}
		c.line = datacenter.AppendCSVField(c.line, name)
	}
	c.line = append(c.line, '\n')
	_, err := c.out.Write(c.line)
	return c, err
}

// csvColumns are the column names of states of the models labels.
func csvColumns(labels []string) []string {
	fixed := stateColumns()
	names := fixed[:]
	for _, label := range labels {
		for _, column := range modelColumns() {
			names = append(names, label+column)
		}
	}
	return names
}

// Write appends s as one row. It does not allocate.
func (c *CSVWriter) Write(s *datacenter.State) error {
	if err := checkModels(s, c.labels); err != nil {
		return err
	}
	b := datacenter.AppendFloat(c.line[:0], s.TimeS)
	b = appendPhases(b, s.PowerW)
	for i := range s.Models {
		m := &s.Models[i]
		b = datacenter.AppendFloat(append(b, ','), m.PowerW)
		b = strconv.AppendInt(append(b, ','), int64(m.ActiveReplicas), 10)
		b = strconv.AppendInt(append(b, ','), int64(m.BatchSize), 10)
		b = datacenter.AppendFloat(append(b, ','), m.ObservedITLS)
		b = appendPhases(b, m.PhaseShare)
	}
	c.line = append(b, '\n')
	_, err := c.out.Write(c.line)
	return err
}

func appendPhases(b []byte, p datacenter.ThreePhase) []byte {
	for _, v := range p.Array() {
		b = datacenter.AppendFloat(append(b, ','), v)
	}
	return b
}

// Flush passes on all rows written so far.
func (c *CSVWriter) Flush() error { return c.out.Flush() }

// Close flushes. It does not close the underlying writer.
func (c *CSVWriter) Close() error { return c.out.Flush() }

// readCSV reads the states that a [CSVWriter] wrote. As CSV has no seq,
// wall_time and source, the states are numbered from 0, have no wall time and
// come from [datacenter.SourceReplay]. Errors start with name and the line.
// A last line without its newline is an error: a file that was cut short there
// would otherwise read as a wrong number.
func readCSV(r io.Reader, name string) iter.Seq2[*datacenter.State, error] {
	return func(yield func(*datacenter.State, error) bool) {
		tail := &tailReader{r: r}
		in := csv.NewReader(tail)
		in.FieldsPerRecord = -1 // counted below, for an error that says what was expected
		in.ReuseRecord = true
		fields, err := in.Read()
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("the file is empty, want a header that begins with %s", strings.Join(csvColumns(nil), ","))
		}
		var labels []string
		if err == nil {
			labels, err = csvLabels(fields)
		}
		if err != nil {
			yield(nil, csvError(name, 1, err))
			return
		}
		columns := csvColumns(labels)
		for seq := int64(0); ; seq++ {
			fields, err = in.Read()
			if errors.Is(err, io.EOF) {
				if tail.last != '\n' {
					yield(nil, inputError(name, errors.New("the last line does not end in a newline: the file is cut short")))
				}
				return
			}
			line := 0
			var s *datacenter.State
			if err == nil {
				line, _ = in.FieldPos(0)
				s, err = parseCSVRow(fields, columns, labels)
			}
			if err != nil {
				yield(nil, csvError(name, line, err))
				return
			}
			s.Seq, s.Source = seq, datacenter.SourceReplay
			if !yield(s, nil) {
				return
			}
		}
	}
}

// csvError puts the line of err, which is line unless the CSV syntax itself is
// wrong, after name.
func csvError(name string, line int, err error) error {
	if syntax := (*csv.ParseError)(nil); errors.As(err, &syntax) {
		line, err = syntax.Line, syntax.Err
	}
	return inputError(fmt.Sprintf("%s:%d", name, line), err)
}

// csvLabels returns the model labels of a header.
func csvLabels(header []string) ([]string, error) {
	fixed, perModel := stateColumns(), modelColumns()
	var labels []string
	for i := len(fixed); i < len(header); i += len(perModel) {
		// What is not a label here is found by the comparison below.
		label, _ := strings.CutSuffix(header[i], perModel[0])
		labels = append(labels, strings.Clone(label))
	}
	for i, want := range csvColumns(labels) {
		if i >= len(header) {
			return nil, fmt.Errorf("the header ends after %d columns, want %q next", len(header), want)
		}
		if header[i] != want {
			return nil, fmt.Errorf("column %d is %q, want %q", i+1, header[i], want)
		}
	}
	return labels, checkLabels(labels)
}

// csvRow takes the fields of a row one after the other and keeps the first
// error.
type csvRow struct {
	fields, columns []string
	next            int
	err             error
}

func parseCSVRow(fields, columns, labels []string) (*datacenter.State, error) {
	if len(fields) != len(columns) {
		return nil, fmt.Errorf("the row has %d fields, the header has %d", len(fields), len(columns))
	}
	row := csvRow{fields: fields, columns: columns}
	s := newState(labels)
	s.TimeS = row.float()
	s.PowerW = row.phases()
	for i := range s.Models {
		m := &s.Models[i]
		m.PowerW = row.float()
		m.ActiveReplicas = row.int()
		m.BatchSize = row.int()
		m.ObservedITLS = row.float()
		m.PhaseShare = row.phases()
	}
	return s, row.err
}

func (r *csvRow) float() float64 {
	v, err := strconv.ParseFloat(r.fields[r.next], 64)
	r.took(err, "a number")
	return v
}

func (r *csvRow) int() int {
	v, err := strconv.Atoi(r.fields[r.next])
	r.took(err, "a whole number")
	return v
}

func (r *csvRow) phases() datacenter.ThreePhase {
	a, b, c := r.float(), r.float(), r.float()
	return datacenter.ThreePhase{A: a, B: b, C: c}
}

func (r *csvRow) took(err error, want string) {
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("%s: got %q, want %s", r.columns[r.next], r.fields[r.next], want)
	}
	r.next++
}

// maxLine bounds a line of a file, in bytes, and so what a file that is none of ours
// costs: states of a thousand models take some 300 kB.
const maxLine = 64 << 20

// tailReader remembers the last byte read, and ends where a line grows without bound.
type tailReader struct {
	r    io.Reader
	last byte
	line int // bytes since the latest newline
}

func (t *tailReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if n > 0 {
		t.last = p[n-1]
	}
	if i := bytes.LastIndexByte(p[:n], '\n'); i >= 0 {
		t.line = n - i - 1
	} else {
		t.line += n
	}
	if t.line > maxLine {
		return n, fmt.Errorf("a line is longer than %d MiB: the file has no states", maxLine>>20)
	}
	return n, err
}
