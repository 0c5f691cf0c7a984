package record

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
)

func openedParquet(t *testing.T, raw []byte) *parquet.File {
	t.Helper()
	file, err := parquet.OpenFile(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// Readers show columns as they stand in the file.
func TestParquetColumnsStandInTheDocumentedOrder(t *testing.T) {
	labels := []string{"Zeta", "a b", "1", "wall", "seq", "~", "alpha:power_w"}
	file := openedParquet(t, encode(t, parquetEnding, labels, makeStates(labels, 3)))
	var got []string
	for _, path := range file.Schema().Columns() {
		got = append(got, path...)
	}
	want := append([]string{"seq", "wall_time", "source"}, csvColumns(labels)...)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("columns (-want +got):\n%s", diff)
	}
}

// Some readers have no more than what Parquet began with.
func TestParquetHasOnlyWhatEveryReaderHas(t *testing.T) {
	labels := []string{"b", "a"}
	states := makeStates(labels, rowsPerGroup+7)
	states[3].Models[0].ObservedITLS = 0.02 // null before and after
	meta := openedParquet(t, encode(t, parquetEnding, labels, states)).Metadata()
	if len(meta.RowGroups) != 2 {
		t.Errorf("%d row groups, want 2", len(meta.RowGroups))
	}
	// RLE is what the levels of nulls are in, in every file there is.
	encodings := []format.Encoding{format.Plain, format.RLEDictionary, format.RLE}
	for _, group := range meta.RowGroups {
		for _, column := range group.Columns {
			name := column.MetaData.PathInSchema
			for _, e := range column.MetaData.Encoding {
				if !slices.Contains(encodings, e) {
					t.Errorf("column %s has the encoding %v", name, e)
				}
			}
			if len(column.MetaData.EncodingStats) == 0 {
				t.Errorf("column %s does not tell its pages", name)
			}
			for _, pages := range column.MetaData.EncodingStats {
				if pages.PageType != format.DataPage && pages.PageType != format.DictionaryPage {
					t.Errorf("column %s has pages of type %v", name, pages.PageType)
				}
			}
		}
	}
}

// Files of earlier versions have their columns sorted by name, and other encodings.
func TestParquetOfOtherOrdersAndEncodingsIsRead(t *testing.T) {
	labels := []string{"b", "a"}
	states := makeStates(labels, 5)
	columns, group := parquetColumns(labels), parquet.Group{}
	for _, c := range columns {
		group[c.name] = c.node
	}
	group["source"] = parquet.Encoded(parquet.String(), &parquet.DeltaLengthByteArray)
	var out bytes.Buffer
	w := parquet.NewGenericWriter[any](&out, parquet.NewSchema("state", group), parquet.KeyValueMetadata(labelsKey, `["b","a"]`))
	for i := range states {
		row := make(parquet.Row, len(columns))
		for _, c := range columns {
			leaf, _ := w.Schema().Lookup(c.name)
			v, defined := c.value(&states[i]), 0
			if c.node.Optional() && !v.IsNull() {
				defined = 1
			}
			row[leaf.ColumnIndex] = v.Level(0, defined, leaf.ColumnIndex)
		}
		if _, err := w.WriteRows([]parquet.Row{row}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := decode(parquetEnding, out.Bytes())
	if diff := cmp.Diff(states, got, sameBits); err != nil || diff != "" {
		t.Errorf("states read back: %v (-want +got):\n%s", err, diff)
	}
}
