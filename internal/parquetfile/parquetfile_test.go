package parquetfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type row struct{ N int64 }

func encoded(t testing.TB, options ...parquet.WriterOption) []byte {
	t.Helper()
	var file bytes.Buffer
	w := parquet.NewGenericWriter[row](&file, options...)
	if _, err := w.Write([]row{{1}, {2}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

func TestOpen(t *testing.T) {
	raw := encoded(t)
	file, err := Open(bytes.NewReader(raw), int64(len(raw)))
	if err != nil || file.NumRows() != 2 {
		t.Fatalf("%v, want 2 rows", err)
	}
}

// footer is a Parquet file of nothing but a footer.
func footer(content string) []byte {
	file := append([]byte("PAR1"), content...)
	return append(binary.LittleEndian.AppendUint32(file, uint32(len(content))), "PAR1"...)
}

func TestOpenRefuses(t *testing.T) {
	good := encoded(t)
	for want, raw := range map[string][]byte{
		"too short":              nil,
		"does not end":           good[:len(good)-1],
		"claims more":            footer("\x15\x02\x19\xfc\xff\xff\xff\xff\x07"),
		"nests more than 32":     footer(strings.Repeat("\xcc", 1000)),
		"has compression LZ4":    encoded(t, parquet.Compression(&parquet.Lz4Raw)),
		"value of unknown type ": footer("\x1d\x00"),
	} {
		if _, err := Open(bytes.NewReader(raw), int64(len(raw))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestRecover(t *testing.T) {
	read := func() (err error) {
		defer Recover(&err)
		panic(io.ErrShortBuffer)
	}
	if err := read(); err == nil || !strings.Contains(err.Error(), "the Parquet file is corrupt: short buffer") {
		t.Errorf("a panic becomes %v", err)
	}
	if err := func() (err error) { defer Recover(&err); return io.EOF }(); !errors.Is(err, io.EOF) {
		t.Errorf("an error becomes %v", err)
	}
}

// FuzzOpen: no file makes the program end.
func FuzzOpen(f *testing.F) {
	f.Add(encoded(f))
	f.Fuzz(func(_ *testing.T, raw []byte) { _, _ = Open(bytes.NewReader(raw), int64(len(raw))) })
}
