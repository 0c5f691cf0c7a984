package requests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

type parquetMessage struct {
	Role    string  `parquet:"role"`
	Content *string `parquet:"content,optional"`
}

type parquetRow struct {
	Question string           `parquet:"question_id"`
	Turn     *int64           `parquet:"turn,optional"`
	A        []parquetMessage `parquet:"conversation_a,list"`
	B        []parquetMessage `parquet:"conversation_b,list"`
}

// talk is a row of so many turns and messages.
func talk(turns int64, texts ...string) parquetRow {
	row := parquetRow{Question: "q", Turn: &turns, B: []parquetMessage{{"user", nil}}}
	for _, text := range texts {
		row.A = append(row.A, parquetMessage{"?", &text})
	}
	return row
}

func parquetOf[T any](t testing.TB, rows []T, options ...parquet.WriterOption) []byte {
	t.Helper()
	var file bytes.Buffer
	w := parquet.NewGenericWriter[T](&file, options...)
	if _, err := w.Write(rows); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// dataDir is a directory with files of the given contents.
func dataDir(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func sample(t *testing.T, open func(string) (Source, error), path string, n int) ([]Prompt, []string, error) {
	t.Helper()
	source, err := open(path)
	if err != nil {
		return nil, nil, err
	}
	return source.Sample(t.Context(), n, 0)
}

// TestLMArenaFiles: files in the order of their names, wherever they lie; rows without
// turns, without prompts; several row groups; other encodings.
func TestLMArenaFiles(t *testing.T) {
	groups := parquet.MaxRowsPerRowGroup(2)
	one := parquetOf(t, []parquetRow{talk(1, "a"), talk(0, "no"), talk(-5), talk(2, "b", "B", "c")}, groups, parquet.Compression(&parquet.Zstd))
	two := parquetOf(t, []parquetRow{talk(0), talk(1, "d", "D"), talk(3, "e", "E", "f", "F", "g", "G")}, groups, parquet.Compression(&parquet.Snappy))
	type required struct {
		Turn int32 `parquet:"turn"`
		A    []struct {
			Content string `parquet:"content,dict"`
		} `parquet:"conversation_a"`
	}
	three := required{Turn: 1}
	three.A = append(three.A, struct {
		Content string `parquet:"content,dict"`
	}{"h"})
	// Neither optional nor wrapped as a list, in the one column chunk of another writer.
	files := map[string][]byte{"z.parquet": parquetOf(t, []required{three}), "a.parquet": one, "b.parquet": two, "._a.parquet": []byte("x"), "README.md": nil}
	in := map[string][]byte{"x.parquet": []byte("what is beside data/ does not count")}
	for name, content := range files {
		in["data/"+name] = content
	}
	var want []string
	for _, dir := range []string{dataDir(t, files), dataDir(t, in)} {
		prompts, warnings, err := sample(t, openLMArena, dir, 100)
		if err != nil || len(warnings) > 0 {
			t.Fatalf("%v, %q", err, warnings)
		}
		var got []string
		for _, p := range prompts {
			line := fmt.Sprintf("%s:%d", filepath.Base(p.File), p.Row)
			for _, m := range p.Messages {
				line += " " + m.Role[:1] + "=" + m.Text
			}
			got = append(got, line)
		}
		if want == nil {
			want = got
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	slices.Sort(want) // the order is the golden files' business
	if all := []string{
		"a.parquet:1 u=a", "a.parquet:4 u=b", "a.parquet:4 u=b a=B u=c", "b.parquet:2 u=d",
		"b.parquet:3 u=e", "b.parquet:3 u=e a=E u=f", "b.parquet:3 u=e a=E u=f a=F u=g", "z.parquet:1 u=h",
	}; !slices.Equal(want, all) {
		t.Errorf("got %q, want %q", want, all)
	}
}

// TestShortConversations are taken whole, as OpenG2G does, and told.
func TestShortConversations(t *testing.T) {
	path := filepath.Join(dataDir(t, map[string][]byte{"x.parquet": parquetOf(t, []parquetRow{talk(3, "a", "b"), talk(2, "c")})}), "x.parquet")
	prompts, warnings, err := sample(t, openLMArena, path, 100)
	if err != nil || len(prompts) != 5 || len(warnings) != 1 || !strings.Contains(warnings[0], "x.parquet: row ") || !strings.Contains(warnings[0], "2 rows in all") {
		t.Fatalf("%v, %d prompts, %q", err, len(prompts), warnings)
	}
	longest := 0
	for _, p := range prompts {
		longest = max(longest, len(p.Messages))
	}
	if longest != 2 {
		t.Errorf("the longest prompt has %d messages, want 2", longest)
	}
}

func TestLMArenaRefuses(t *testing.T) {
	good := parquetOf(t, []parquetRow{talk(1, "a"), talk(1, "b")}, parquet.Compression(&parquet.Snappy))
	nothing := talk(1, "x")
	nothing.A[0].Content = nil
	noTurn := talk(1, "x")
	noTurn.Turn = nil
	type noContent struct {
		Turn int64    `parquet:"turn"`
		A    []string `parquet:"conversation_a,list"`
	}
	type textTurn struct {
		Turn string           `parquet:"turn"`
		A    []parquetMessage `parquet:"conversation_a,list"`
	}
	type noLists struct {
		Turn int64 `parquet:"turn"`
	}
	for want, content := range map[string][]byte{
		"x.parquet: the file is too short to be a Parquet file":                    {},
		"x.parquet: the file does not end as a Parquet file":                       good[:len(good)-9],
		"x.parquet: holds no row":                                                  parquetOf(t, []parquetRow{}),
		`x.parquet: column "turn" is missing; there are "role", "content"`:         parquetOf(t, []parquetMessage{{"", nil}}),
		`x.parquet: column "conversation_a" is missing; there are "turn"`:          parquetOf(t, []noLists{{1}}),
		"x.parquet: column conversation_a is no list of messages with a text":      parquetOf(t, []noContent{{1, []string{"x"}}}),
		"x.parquet: column turn is STRING, want whole numbers":                     parquetOf(t, []textTurn{{"1", nil}}),
		"x.parquet: row 2: column turn is null":                                    parquetOf(t, []parquetRow{talk(1, "a"), noTurn}),
		"x.parquet: row 1: column conversation_a is empty, though turn says":       parquetOf(t, []parquetRow{talk(1)}),
		"x.parquet: row 1: column conversation_a: message 1: has no content":       parquetOf(t, []parquetRow{nothing}),
		"x.parquet: row 1: column conversation_a: message 1: is not text in UTF-8": parquetOf(t, []parquetRow{talk(1, "a\xff")}),
		"x.parquet: row 1: column conversation_a: message 1: has 16777217 bytes":   parquetOf(t, []parquetRow{talk(1, strings.Repeat("x", maxCellBytes+1))}, parquet.Compression(&parquet.Zstd)),
	} {
		_, _, err := sample(t, openLMArena, dataDir(t, map[string][]byte{"x.parquet": content}), 10)
		if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for want, dir := range map[string]string{"there is no .parquet file": dataDir(t, map[string][]byte{"data/x.csv": nil}), "no such file": "nowhere"} {
		if _, err := openLMArena(dir); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestLMArenaDamaged: whatever byte is wrong, there is an error or there are prompts.
func TestLMArenaDamaged(t *testing.T) {
	good := parquetOf(t, []parquetRow{talk(1, "a"), talk(2, "b", "c", "d")}, parquet.Compression(&parquet.Snappy))
	dir := dataDir(t, map[string][]byte{"x.parquet": good})
	failed := 0
	for at := 0; at < len(good); at += 2 {
		bad := bytes.Clone(good)
		bad[at] ^= 0x41
		if err := os.WriteFile(filepath.Join(dir, "x.parquet"), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := sample(t, openLMArena, dir, 10); err != nil {
			failed++
			if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "x.parquet") {
				t.Errorf("byte %d: %v", at, err)
			}
		}
	}
	if failed == 0 {
		t.Error("no damage was found")
	}
}

func TestSampleIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	prompts, err := OpenFile(filepath.Join(dataDir(t, map[string][]byte{"x.txt": []byte("a\n")}), "x.txt"), "")
	if err != nil {
		t.Fatal(err)
	}
	for name, source := range map[string]Source{"lm-arena-chat": openDataset(t, "lm-arena-chat"), "gpqa": openDataset(t, "gpqa"), "file": prompts} {
		if _, _, err := source.Sample(ctx, 10, 0); !errors.Is(err, context.Canceled) || errors.Is(err, datacenter.ErrInvalidInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
