package requests

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"

	"github.com/g2g-agent/g2g-agent/internal/parquetfile"
)

const (
	parquetEnding      = ".parquet"
	columnTurn         = "turn"
	columnConversation = "conversation_a"
	fieldContent       = "content"
	// maxRows bounds the rows of a file: a few bytes can claim billions.
	maxRows = 1 << 26
)

// lmArena is the data set of conversations of LM Arena: Parquet files with a column
// turn, the number of a user's turns, and a column conversation_a, a list of
// {role, content}, where user and assistant take turns.
type lmArena struct{ files []string }

// openLMArena takes a directory with the files, or with data/ that has them, or one
// file.
func openLMArena(path string) (Source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, invalidf("%w", err)
	}
	if !info.IsDir() {
		return lmArena{[]string{path}}, nil
	}
	for _, dir := range []string{filepath.Join(path, "data"), path} {
		entries, err := os.ReadDir(dir) // by name
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		var files []string
		for _, e := range entries {
			if name := e.Name(); isParquet(e) {
				files = append(files, filepath.Join(dir, name))
			}
		}
		if len(files) > 0 {
			return lmArena{files}, nil
		}
	}
	return nil, invalidf("%s: there is no %s file, neither in it nor in its data/; want those of the data set", path, parquetEnding)
}

func isParquet(e fs.DirEntry) bool {
	return !e.IsDir() && filepath.Ext(e.Name()) == parquetEnding && !strings.HasPrefix(e.Name(), ".")
}

// conversation is a row that prompts are made of.
type conversation struct {
	prompts int // that are wanted of it: the first turns
	file    string
	row     int      // in the file, from 0
	texts   []string // as many messages as the prompts need, or as there are
	total   int      // of the messages that there are
}

// wanted is the number of messages that the prompts need: the last one ends with the
// user's turn.
func (c *conversation) wanted() int { return 2*c.prompts - 1 }

// Sample implements [Source]: the rows in the order of NumPy's generator, a prompt for
// each turn of the user. Only the texts of the rows that are taken are kept.
func (l lmArena) Sample(ctx context.Context, n int, seed uint64) ([]Prompt, []string, error) {
	turns := make([][]int32, len(l.files)) // of each file's rows
	total := 0
	for i, file := range l.files {
		err := withParquet(file, func(f *parquet.File) (err error) {
			turns[i], err = readTurns(ctx, f)
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		total += len(turns[i])
	}
	if total == 0 {
		return nil, nil, invalidf("%s: holds no row", strings.Join(l.files, ", "))
	}
	chosen, byFile := l.choose(turns, permutation(total, seed), n)
	var left budget
	for i, file := range l.files {
		if len(byFile[i]) == 0 {
			continue
		}
		err := withParquet(file, func(f *parquet.File) error { return readConversations(ctx, f, byFile[i], &left) })
		if err != nil {
			return nil, nil, err
		}
	}
	return prompted(chosen)
}

// choose returns the rows that the first n prompts are of, in the order given, and the
// same by file and row.
func (l lmArena) choose(turns [][]int32, order []int, n int) (chosen []*conversation, byFile []map[int]*conversation) {
	byFile = make([]map[int]*conversation, len(l.files))
	for i := range byFile {
		byFile[i] = map[int]*conversation{}
	}
	for _, at := range order {
		if n == 0 {
			break
		}
		file := 0
		for ; at >= len(turns[file]); file++ {
			at -= len(turns[file])
		}
		if prompts := min(int(turns[file][at]), n); prompts > 0 {
			c := &conversation{prompts: prompts, file: l.files[file], row: at}
			chosen = append(chosen, c)
			byFile[file][at] = c
			n -= prompts
		}
	}
	return chosen, byFile
}

// prompted makes the prompts. A conversation that is shorter than its turns say is
// used again as it is, as OpenG2G does.
func prompted(chosen []*conversation) (prompts []Prompt, warnings []string, err error) {
	short := 0
	for _, c := range chosen {
		if len(c.texts) == 0 {
			return nil, nil, invalidf("%s: row %d: column %s is empty, though %s says that the user has a turn", c.file, c.row+1, columnConversation, columnTurn)
		}
		if len(c.texts) < c.wanted() {
			if short++; short == 1 {
				warnings = append(warnings, fmt.Sprintf("%s: row %d: column %s has %d messages, and %s asks for the first %d; the whole of it is taken",
					c.file, c.row+1, columnConversation, c.total, columnTurn, c.wanted()))
			}
		}
		messages := make([]Message, len(c.texts)) // which its prompts share
		for i, text := range c.texts {
			messages[i] = Message{roleUser, text}
			if i%2 == 1 {
				messages[i].Role = roleAssistant
			}
		}
		for turn := range c.prompts {
			prompts = append(prompts, Prompt{messages[:min(2*turn+1, len(messages))], c.file, c.row + 1})
		}
	}
	if short > 1 {
		warnings[0] += fmt.Sprintf("; so it is with %d rows in all", short)
	}
	return prompts, warnings, nil
}

// readTurns reads the column turn.
func readTurns(ctx context.Context, f *parquet.File) ([]int32, error) {
	column, err := parquetfile.FindColumn(f, columnTurn)
	if err != nil {
		return nil, err
	}
	if kind := column.Node.Type().Kind(); kind != parquet.Int32 && kind != parquet.Int64 || column.MaxRepetitionLevel > 0 {
		return nil, fmt.Errorf("column %s is %v, want whole numbers", columnTurn, column.Node.Type())
	}
	if f.NumRows() > maxRows {
		return nil, fmt.Errorf("has %d rows, want at most %d", f.NumRows(), maxRows)
	}
	var turns []int32
	err = parquetfile.EachValue(ctx, f, column.ColumnIndex, nil, func(row int, v parquet.Value) error {
		if row != len(turns) {
			return parquetfile.ErrDamaged
		}
		turn := int64(0)
		switch v.Kind() {
		case parquet.Int32:
			turn = int64(v.Int32())
		case parquet.Int64:
			turn = v.Int64()
		default: // it is null
			return fmt.Errorf("row %d: column %s is null, want a whole number", row+1, columnTurn)
		}
		turns = append(turns, int32(min(max(turn, 0), math.MaxInt32)))
		return nil
	})
	if err == nil && int64(len(turns)) != f.NumRows() {
		err = parquetfile.ErrDamaged
	}
	return turns, err
}

// readConversations reads the texts of some rows.
func readConversations(ctx context.Context, f *parquet.File, rows map[int]*conversation, left *budget) error {
	column, err := findContent(f)
	if err != nil {
		return err
	}
	wanted := func(from, to int) bool {
		for row := range rows {
			if row >= from && row < to {
				return true
			}
		}
		return false
	}
	fail := func(row, message int, format string, args ...any) error {
		return fmt.Errorf("row %d: column %s: message %d: %w", row+1, columnConversation, message+1, fmt.Errorf(format, args...))
	}
	return parquetfile.EachValue(ctx, f, column.index, wanted, func(row int, v parquet.Value) error {
		c := rows[row]
		if c == nil || v.DefinitionLevel() < column.messageLevel {
			return nil // another row, or a list of nothing
		}
		at := c.total
		if c.total++; at >= c.wanted() {
			return nil
		}
		switch text := v.ByteArray(); {
		case v.IsNull():
			return fail(row, at, "has no %s", fieldContent)
		case len(text) > maxCellBytes:
			return fail(row, at, "has %d bytes, want at most %d", len(text), maxCellBytes)
		case !utf8.Valid(text):
			return fail(row, at, "is not text in UTF-8: %s", quote(string(text)))
		default:
			c.texts = append(c.texts, string(text))
			return left.take(c.texts[at])
		}
	})
}
