package parquetfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/parquet-go/parquet-go"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// ErrDamaged is the error of a file that contradicts itself.
var ErrDamaged = errors.New("the Parquet file is corrupt: its row counts differ")

// FindColumn finds a column of values; if there is none, the error names those that
// there are.
func FindColumn(f *parquet.File, name string) (parquet.LeafColumn, error) {
	column, found := f.Schema().Lookup(name)
	if !found {
		return column, MissingColumn(f, name)
	}
	return column, nil
}

// MissingColumn is the error of a file without a column.
func MissingColumn(f *parquet.File, name string) error {
	const maxQuoted = 100 // bytes
	var names []string
	for _, field := range f.Schema().Fields() {
		names = append(names, excerpt.Quote(field.Name(), maxQuoted))
	}
	return fmt.Errorf("column %s is missing; there are %s", excerpt.Quote(name, maxQuoted), excerpt.Of(strings.Join(names, ", "), 5*maxQuoted))
}

// EachValue calls do with each value of a column and the row it is of, from 0, a page
// at a time in memory. Groups of rows that wanted, if given, has no use for are passed
// over. A value holds until do returns. Errors of the library name the row, from 1; those
// of do come as they are.
func EachValue(ctx context.Context, f *parquet.File, column int, wanted func(from, to int) bool, do func(row int, v parquet.Value) error) error {
	before := 0 // rows in the groups before
	for _, group := range f.RowGroups() {
		rows := int(group.NumRows())
		if rows < 0 || before+rows < before {
			return ErrDamaged
		}
		if wanted == nil || wanted(before, before+rows) {
			if err := eachInGroup(ctx, group.ColumnChunks()[column], before, rows, do); err != nil {
				return err
			}
		}
		before += rows
	}
	return nil
}

func eachInGroup(ctx context.Context, chunk parquet.ColumnChunk, before, rows int, do func(row int, v parquet.Value) error) error {
	pages := chunk.Pages()
	defer pages.Close()
	buffer := make([]parquet.Value, 256)
	row := before - 1
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		page, err := pages.ReadPage()
		if errors.Is(err, io.EOF) {
			if row != before+rows-1 {
				return ErrDamaged
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("row %d: %w", row+2, err)
		}
		row, err = eachInPage(page, buffer, row, before+rows, do)
		parquet.Release(page)
		if err != nil {
			return err
		}
	}
}

// eachInPage returns the row of the page's last value.
func eachInPage(page parquet.Page, buffer []parquet.Value, row, end int, do func(row int, v parquet.Value) error) (int, error) {
	values := page.Values()
	for {
		n, err := values.ReadValues(buffer)
		for _, v := range buffer[:n] {
			if v.RepetitionLevel() == 0 {
				row++
			}
			if row < 0 || row >= end {
				return row, ErrDamaged
			}
			if err := do(row, v); err != nil {
				return row, err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return row, nil
		case err != nil:
			return row, fmt.Errorf("row %d: %w", row+1, err)
		case n == 0:
			return row, ErrDamaged
		}
	}
}
