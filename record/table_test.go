package record

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func testColumns() []Column {
	return []Column{{"seq", IntColumn}, {"power_w", FloatColumn}, {"gpu", TextColumn}}
}

func testRows() [][]Cell {
	return [][]Cell{
		{Int(1), Float(0.1), Text("node1:4938/0")},
		{Missing(IntColumn), Float(math.NaN()), Text("a \"b\",\nc")},
		{Int(-1 << 60), Float(math.Inf(1)), Missing(TextColumn)},
	}
}

func TestTableFormats(t *testing.T) {
	for ending, want := range map[string]string{
		".csv":   "seq,power_w,gpu\n1,0.1,node1:4938/0\n,,\"a \"\"b\"\",\nc\"\n-1152921504606846976,,\n",
		".jsonl": `{"seq":1,"power_w":0.1,"gpu":"node1:4938/0"}` + "\n" + `{"seq":null,"power_w":null,"gpu":"a \"b\",\nc"}` + "\n" + `{"seq":-1152921504606846976,"power_w":null,"gpu":null}` + "\n",
	} {
		path := writeTable(t, ending)
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", ending, err, got, want)
		}
	}
}

func TestTableInParquet(t *testing.T) {
	raw, err := os.ReadFile(writeTable(t, ".parquet"))
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		Seq    *int64   `parquet:"seq"`
		PowerW *float64 `parquet:"power_w"`
		GPU    *string  `parquet:"gpu"`
	}
	r := parquet.NewGenericReader[row](bytes.NewReader(raw))
	defer r.Close()
	rows := make([]row, 4)
	n, err := r.Read(rows)
	if n != 3 || err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("%d rows, %v", n, err)
	}
	if *rows[0].Seq != 1 || *rows[0].PowerW != 0.1 || *rows[0].GPU != "node1:4938/0" || rows[1].Seq != nil || rows[1].PowerW != nil || *rows[1].GPU != "a \"b\",\nc" || *rows[2].Seq != -1<<60 || rows[2].GPU != nil {
		t.Errorf("the rows are %+v", rows)
	}
}

func writeTable(t *testing.T, ending string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x"+ending)
	table, err := CreateTable(path, testColumns())
	if err != nil {
		t.Fatal(err)
	}
	defer table.Abort()
	for _, row := range testRows() {
		if err := table.Write(row); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(path); err == nil {
		t.Errorf("%s is there before it is complete", path)
	}
	if err := table.Commit(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTableRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{filepath.Join(dir, "x.txt"), filepath.Join(dir, "none", "x.csv")} {
		if _, err := CreateTable(path, testColumns()); !errors.Is(err, datacenter.ErrInvalidInput) {
			t.Errorf("%s: the error is %v", path, err)
		}
	}
	for _, row := range [][]Cell{{Int(1)}, {Int(1), Int(2), Text("")}} {
		table, err := CreateTable(filepath.Join(dir, "x.csv"), testColumns())
		if err != nil {
			t.Fatal(err)
		}
		if table.Write(row) == nil || table.Commit() == nil {
			t.Errorf("a row of %v was written", row)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
