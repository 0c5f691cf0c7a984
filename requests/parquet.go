package requests

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/parquet-go/parquet-go"

	"github.com/g2g-agent/g2g-agent/internal/parquetfile"
)

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
		return contentColumn{}, parquetfile.MissingColumn(f, columnConversation)
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
