package workload

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/internal/textfile"
)

// Bounds, in bytes: of what a message repeats of a file, and of all that it says of
// one.
const (
	maxQuoted  = 100
	maxMessage = 8192
)

// quote quotes a value of a file.
func quote(text string) string { return excerpt.Quote(text, maxQuoted) }

// FileError is something wrong in a data file. It wraps
// [datacenter.ErrInvalidInput].
type FileError struct {
	File string
	Line int // from 1; 0 when the file as a whole is meant
	Err  error
}

// Error is fit for a terminal, whatever the file holds.
func (e *FileError) Error() string {
	what := excerpt.Printable(e.Err.Error(), maxMessage, '\n')
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, what)
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, what)
}

// Unwrap makes errors.Is find both the cause and datacenter.ErrInvalidInput.
func (e *FileError) Unwrap() []error { return []error{e.Err, datacenter.ErrInvalidInput} }

func fileErrorf(file string, line int, format string, args ...any) error {
	return &FileError{file, line, fmt.Errorf(format, args...)}
}

// openError words a file that cannot be opened or read.
func openError(file string, err error) error {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return &FileError{file, 0, err}
}

// table reads a CSV file whose first row names the columns. Columns may stand
// in any order, and those not asked for are passed over.
type table struct {
	file   string
	reader *csv.Reader
	width  int
	at     []int // per column asked for: its position
	names  []string
	record []string
	line   int // of record
}

// readTable opens the CSV file with the wanted columns, calls row for each of
// its rows and closes it. The row's fields are read by their place in columns.
func readTable(file string, columns []string, row func(*table) error) error {
	f, err := os.Open(file)
	if err != nil {
		return openError(file, err)
	}
	defer f.Close()
	return readTableFrom(f, file, columns, row)
}

func readTableFrom(r io.Reader, file string, columns []string, row func(*table) error) error {
	t := &table{file: file, names: columns, reader: csv.NewReader(textfile.NewReader(r))}
	t.reader.FieldsPerRecord = -1 // counted below, for a message of ours
	t.reader.ReuseRecord = true
	if err := t.readHeader(); err != nil {
		return err
	}
	for {
		switch err := t.next(); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := row(t); err != nil {
			return err
		}
	}
}

func (t *table) readHeader() error {
	header, err := t.reader.Read()
	if errors.Is(err, io.EOF) {
		return fileErrorf(t.file, 0, "is empty; want a header with the columns %s", strings.Join(t.names, ", "))
	}
	if err != nil {
		return t.readError(err)
	}
	header = slices.Clone(header)
	for i := range header {
		header[i] = strings.TrimSpace(header[i])
	}
	t.width = len(header)
	for _, name := range t.names {
		i := slices.Index(header, name)
		if i < 0 {
			return fileErrorf(t.file, 1, "column %q is missing; %s", name, instead(header))
		}
		if slices.Contains(header[i+1:], name) {
			return fileErrorf(t.file, 1, "column %q stands there twice", name)
		}
		t.at = append(t.at, i)
	}
	return nil
}

// instead says what a header has that lacks a column.
func instead(header []string) string {
	text := strings.Join(header, ", ")
	switch {
	case strings.Contains(text, "\r"):
		return "the lines end with CR alone; want LF, or CR LF"
	case strings.HasPrefix(text, "sep="):
		return "the line " + quote(strings.Join(header, ",")) + " is for spreadsheets alone; take it out"
	case len(header) == 1 && strings.ContainsAny(text, ";\t|"):
		return "want commas between the columns, which are " + excerpt.Printable(text, maxQuoted)
	}
	return "the columns are " + excerpt.Printable(text, 4*maxQuoted)
}

func (t *table) next() error {
	record, err := t.reader.Read()
	if err != nil {
		return t.readError(err)
	}
	t.record = record
	t.line, _ = t.reader.FieldPos(0)
	if len(record) != t.width {
		return fileErrorf(t.file, t.line, "has %d fields, the header has %d", len(record), t.width)
	}
	return nil
}

func (t *table) readError(err error) error {
	var parse *csv.ParseError
	switch {
	case errors.Is(err, io.EOF):
		return io.EOF
	case errors.As(err, &parse):
		return &FileError{t.file, parse.StartLine, parse.Err} // where an unclosed quote opens, not where the file ends
	default:
		return openError(t.file, err)
	}
}

// errorf is an error about the current row.
func (t *table) errorf(format string, args ...any) error {
	return fileErrorf(t.file, t.line, format, args...)
}

// text returns a field without the blanks around it.
func (t *table) text(column int) string { return strings.TrimSpace(t.record[t.at[column]]) }

// finite returns a field that must be a finite number.
func (t *table) finite(column int) (float64, error) {
	text := t.text(column)
	v, err := parseFinite(text)
	if err != nil {
		return 0, t.errorf("%s: %w", t.names[column], err)
	}
	return v, nil
}

// positiveInt returns a field that must be a whole number above 0, as 8 or 8.0.
func (t *table) positiveInt(column int) (int, error) {
	v, err := t.finite(column)
	if err != nil {
		return 0, err
	}
	const most = 1 << 31
	if v != float64(int(v)) || v < 1 || v > most {
		return 0, t.errorf("%s: %s is not a whole number above 0", t.names[column], quote(t.text(column)))
	}
	return int(v), nil
}

// parseFinite reads a decimal number; "nan", "inf" and the hexadecimal and
// underscored forms that strconv would take are refused.
func parseFinite(text string) (float64, error) {
	for _, c := range []byte(text) {
		if (c < '0' || c > '9') && !strings.ContainsRune("+-.eE", rune(c)) {
			return 0, fmt.Errorf("%s is not a finite number", quote(text))
		}
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is not a finite number", quote(text))
	}
	return v, nil
}
