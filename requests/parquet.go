package requests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/parquet-go/parquet-go"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/internal/parquetfile"
)

// errDamaged is the error of a file that contradicts itself.
var errDamaged = errors.New("the Parquet file is corrupt: its row counts differ")

// withParquet reads a file. Errors begin with its name.
func withParquet(path string, read func(*parquet.File) error) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && !errors.Is(err, context.Canceled) {
			err = invalidf("%s: %w", path, err)
		}
	}()
	defer parquetfile.Recover(&err)
	if !info.Mode().IsRegular() {
		return errors.New("is no file")
	}
	opened, err := parquetfile.Open(file, info.Size())
	if err != nil {
		return err
	}
	return read(opened)
}

func findColumn(f *parquet.File, name string) (parquet.LeafColumn, error) {
	column, found := f.Schema().Lookup(name)
	if !found {
		return column, missing(f, name)
	}
	return column, nil
}

func missing(f *parquet.File, name string) error {
	var names []string
	for _, field := range f.Schema().Fields() {
		names = append(names, quote(field.Name()))
	}
	return fmt.Errorf("column %s is missing; there are %s", quote(name), excerpt.Of(strings.Join(names, ", "), 5*maxQuoted))
}

// contentColumn is the texts of all messages. A value whose definition level is below
// messageLevel is no message, but a list of none.
type contentColumn struct{ index, messageLevel int }

// findContent finds the texts of the messages, whatever the writer called the levels
// in between: list.element, list.item, or none.
func findContent(f *parquet.File) (contentColumn, error) {
	found := false
	for _, path := range f.Schema().Columns() {
		if path[0] != columnConversation {
			continue
		}
		found = true
		leaf, ok := f.Schema().Lookup(path...)
		if !ok || len(path) < 2 || path[len(path)-1] != fieldContent {
			continue
		}
		if leaf.MaxRepetitionLevel != 1 || leaf.Node.Type().Kind() != parquet.ByteArray {
			break
		}
		return contentColumn{leaf.ColumnIndex, listLevel(f.Schema(), path)}, nil
	}
	if !found {
		return contentColumn{}, missing(f, columnConversation)
	}
	return contentColumn{}, fmt.Errorf("column %s is no list of messages with a text %s", columnConversation, fieldContent)
}

// listLevel is the definition level of the repeated node on the path.
func listLevel(node parquet.Node, path []string) (level int) {
	for _, name := range path {
		for _, field := range node.Fields() {
			if field.Name() == name {
				node = field
				break
			}
		}
		if node.Optional() {
			level++
		}
		if node.Repeated() {
			return level + 1
		}
	}
	return level
}

// eachValue calls do with each value of a column and the row it is of, from 0, a page
// at a time in memory. Groups of rows that wanted, if given, has no use for are passed
// over. A value holds until do returns.
func eachValue(ctx context.Context, f *parquet.File, column int, wanted func(from, to int) bool, do func(row int, v parquet.Value) error) error {
	before := 0 // rows in the groups before
	for _, group := range f.RowGroups() {
		rows := int(group.NumRows())
		if rows < 0 || before+rows < before {
			return errDamaged
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
				return errDamaged
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
				return row, errDamaged
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
			return row, errDamaged
		}
	}
}
