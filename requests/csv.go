package requests

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/internal/textfile"
)

// csvReader reads the rows of a CSV file as pandas does, which the standard library's
// reader does not: line ends within quotes stay what they are, a quote within a cell
// that does not begin with one is a character like others, lines of nothing but blanks
// are passed over.
type csvReader struct {
	in     *bufio.Reader
	name   string
	line   int // being read, counted from 1
	row    int // read last: 0 is the header, the first below it 1
	begun  int // line at which that begins
	header []string
	record []byte // cells of a row, one after the other
	ends   []int  // of the cells in record
}

// newCSVReader reads the header. Errors of it and its methods begin with the name.
func newCSVReader(r io.Reader, name string) (*csvReader, error) {
	c := &csvReader{in: bufio.NewReaderSize(textfile.NewReader(r), 64<<10), name: name, line: 1, row: -1}
	if err := c.next(); errors.Is(err, io.EOF) {
		return nil, invalidf("%s: the file is empty, want a header of column names", name)
	} else if err != nil {
		return nil, err
	}
	for i := range c.ends {
		c.header = append(c.header, string(c.cell(i)))
	}
	return c, nil
}

// column finds a column, the first if there are several of that name.
func (c *csvReader) column(name string) (int, error) {
	i := slices.Index(c.header, name)
	if i < 0 {
		shown := ""
		for _, other := range c.header {
			shown += ", " + quote(other)
		}
		return 0, invalidf("%s: column %s is missing; there are %s", c.name, quote(name), excerpt.Of(shown[2:], 5*maxQuoted))
	}
	return i, nil
}

// cell returns a cell of the row as it stands, until the next row.
func (c *csvReader) cell(i int) []byte {
	from := 0
	if i > 0 {
		from = c.ends[i-1]
	}
	return c.record[from:c.ends[i]]
}

// text returns a cell of the row as text.
func (c *csvReader) text(i int) (string, error) {
	if i >= len(c.ends) {
		return "", c.fail("column %s: the row ends before it: it has %d cells, the header %d", quote(c.header[i]), len(c.ends), len(c.header))
	}
	cell := c.cell(i)
	if !utf8.Valid(cell) {
		return "", c.fail("column %s: is not text in UTF-8: %s", quote(c.header[i]), quote(string(cell)))
	}
	return string(cell), nil
}

func (c *csvReader) fail(format string, args ...any) error {
	where := fmt.Sprintf("row %d (line %d)", c.row, c.begun)
	if c.row == 0 {
		where = fmt.Sprintf("header (line %d)", c.begun)
	}
	return invalidf("%s: %s: %w", c.name, where, fmt.Errorf(format, args...))
}

// The places in a row at which a character can stand.
const (
	inBlanks   = iota // before the row's first character that is no blank
	atCell            // before a cell
	inCell            // in one without quotes, or behind its closing quote
	inQuotes          // between quotes
	afterQuote        // behind a quote that closes them, unless another one follows
)

// next reads a row; [io.EOF] says that there is none.
func (c *csvReader) next() error {
	c.row++
	c.record, c.ends, c.begun = c.record[:0], c.ends[:0], c.line
	place := inBlanks
	for {
		b, err := c.in.ReadByte()
		switch {
		case errors.Is(err, io.EOF):
			return c.end(place)
		case errors.Is(err, textfile.ErrUTF16):
			return invalidf("%s: %w", c.name, err)
		case err != nil:
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if b == '\r' && place != inQuotes { // alone, too, it ends a line
			if after, _ := c.in.Peek(1); string(after) == "\n" {
				continue
			}
			b = '\n'
		}
		if b == '\n' {
			c.line++
		}
		next, done := c.take(place, b)
		if done {
			return c.checkLength()
		}
		place = next
		if len(c.record) > maxCellBytes {
			return c.fail("has more than %d bytes; is a quote left open?", maxCellBytes)
		}
	}
}

// take takes in one character and returns the place after it, or that it ends the row.
func (c *csvReader) take(place int, b byte) (next int, done bool) {
	endCell := func() { c.ends = append(c.ends, len(c.record)) }
	switch {
	case place == inQuotes && b == '"':
		return afterQuote, false
	case place == inQuotes, place == afterQuote && b == '"':
		c.record = append(c.record, b)
		return inQuotes, false
	case place == inBlanks && b == '\n': // a line of nothing
		c.record, c.begun = c.record[:0], c.line
		return inBlanks, false
	case b == '\n':
		endCell()
		return place, true
	case b == ',':
		endCell()
		return atCell, false
	case b == '"' && (place == atCell || place == inBlanks && len(c.record) == 0):
		return inQuotes, false
	}
	c.record = append(c.record, b)
	if place == inBlanks && (b == ' ' || b == '\t') {
		return inBlanks, false
	}
	return inCell, false
}

// end is what the end of the file means at a place.
func (c *csvReader) end(place int) error {
	switch place {
	case inBlanks:
		return io.EOF
	case inQuotes:
		return c.fail("the file ends within quotes")
	}
	c.ends = append(c.ends, len(c.record))
	return c.checkLength()
}

func (c *csvReader) checkLength() error {
	if c.row > 0 && len(c.ends) > len(c.header) {
		return c.fail("has %d cells, the header %d", len(c.ends), len(c.header))
	}
	return nil
}
