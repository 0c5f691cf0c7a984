package parquetfile

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
)

func TestEachValue(t *testing.T) {
	type row struct {
		Other string `parquet:"other"`
		N     int64  `parquet:"n"`
	}
	var raw bytes.Buffer
	w := parquet.NewGenericWriter[row](&raw)
	for _, group := range [][]row{{{"a", 10}, {"b", 11}}, {{"c", 12}}, {{"d", 13}, {"e", 14}}} {
		if _, err := w.Write(group); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := Open(bytes.NewReader(raw.Bytes()), int64(raw.Len()))
	if err != nil {
		t.Fatal(err)
	}
	column, err := FindColumn(f, "n")
	if err != nil {
		t.Fatal(err)
	}
	var rows []int
	take := func(row int, v parquet.Value) error {
		if v.Int64() != int64(10+row) {
			t.Errorf("row %d has %v", row, v)
		}
		rows = append(rows, row)
		return nil
	}
	if err := EachValue(t.Context(), f, column.ColumnIndex, nil, take); err != nil || !slices.Equal(rows, []int{0, 1, 2, 3, 4}) {
		t.Errorf("%v, rows %v", err, rows)
	}
	rows = nil
	middle := func(from, to int) bool { return from <= 2 && 2 < to }
	if err := EachValue(t.Context(), f, column.ColumnIndex, middle, take); err != nil || !slices.Equal(rows, []int{2}) {
		t.Errorf("of the middle group: %v, rows %v", err, rows)
	}
	enough := errors.New("enough")
	if err := EachValue(t.Context(), f, column.ColumnIndex, nil, func(int, parquet.Value) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("the error is %v", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := EachValue(ended, f, column.ColumnIndex, nil, take); !errors.Is(err, context.Canceled) {
		t.Errorf("when it is to end: %v", err)
	}
	if _, err := FindColumn(f, "m\n"); err == nil || !strings.HasSuffix(err.Error(), `column "m\n" is missing; there are "n", "other"`) && !strings.HasSuffix(err.Error(), `there are "other", "n"`) {
		t.Errorf("the error is %v", err)
	}
}
