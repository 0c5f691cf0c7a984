package requests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/g2g-agent/g2g-agent/internal/nprand"
	"github.com/g2g-agent/g2g-agent/internal/pyrand"
)

// gpqaFile is the configuration of the data set that OpenG2G takes.
const gpqaFile = "gpqa_extended.csv"

// shuffleBuffer is that of the datasets library, in rows.
const shuffleBuffer = 1000

// gpqa is GPQA: multiple-choice questions in a CSV file.
type gpqa struct{ file string }

func openGPQA(dir string) (Source, error) {
	file, err := dataFile(dir, gpqaFile)
	return gpqa{file}, err
}

// dataFile is a file of a data set: path itself, or that of the name in the directory.
func dataFile(path, name string) (string, error) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		path = filepath.Join(path, name)
		info, err = os.Stat(path)
	}
	switch {
	case err != nil:
		return "", invalidf("%w", err)
	case !info.Mode().IsRegular():
		return "", invalidf("%s is no file", path)
	}
	return path, nil
}

// gpqaRow is a question with its answers as they stand.
type gpqaRow struct {
	question string
	choices  [4]string // the wrong ones, then the right one
}

// Sample implements [Source]: the rows in the order of NumPy's generator, the choices
// of each in that of one stream of Python's.
func (g gpqa) Sample(ctx context.Context, n int, seed uint64) ([]Prompt, []string, error) {
	rows, err := g.read(ctx)
	if err != nil {
		return nil, nil, err
	}
	order := buffered(len(rows), seed)
	random := pyrand.New(seed)
	var prompts []Prompt
	for _, at := range order[:min(n, len(order))] {
		row := rows[at]
		var choices [4]string
		for i, c := range row.choices {
			choices[i] = strings.TrimFunc(c, isPythonSpace)
		}
		pyrand.Shuffle(random, choices[:])
		text := "What is the correct answer to the following question: " + row.question + "\n\nChoices:"
		for i, c := range choices {
			text += "\n(" + "ABCD"[i:i+1] + ") " + c
		}
		prompts = append(prompts, Prompt{[]Message{{roleUser, text}}, g.file, at + 1})
	}
	var warnings []string
	if len(rows) >= shuffleBuffer {
		warnings = append(warnings, fmt.Sprintf("%s: has %d questions; from %d on, versions of the datasets library before 5.2 have another order",
			g.file, len(rows), shuffleBuffer))
	}
	return prompts, warnings, nil
}

func (g gpqa) read(ctx context.Context) ([]gpqaRow, error) {
	file, err := os.Open(g.file)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	in, err := newCSVReader(file, g.file)
	if err != nil {
		return nil, err
	}
	var columns [5]int
	for i, name := range []string{"Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3", "Correct Answer", "Question"} {
		if columns[i], err = in.column(name); err != nil {
			return nil, err
		}
	}
	var rows []gpqaRow
	var left budget
	for ctx.Err() == nil {
		if err := in.next(); errors.Is(err, io.EOF) {
			if len(rows) == 0 {
				return nil, invalidf("%s: holds no question", g.file)
			}
			return rows, nil
		} else if err != nil {
			return nil, err
		}
		if len(rows) == maxRows {
			return nil, invalidf("%s: has more than %d rows", g.file, maxRows)
		}
		var texts [5]string
		for i, c := range columns {
			if texts[i], err = in.text(c); err == nil {
				err = left.take(texts[i])
			}
			if err != nil {
				return nil, err
			}
		}
		rows = append(rows, gpqaRow{texts[4], [4]string(texts[:4])})
	}
	return nil, ctx.Err()
}

// buffered is the order in which the datasets library (5.2) yields n streamed rows that
// it shuffles: a buffer that is full is shuffled, and half of it yielded. Of fewer rows
// than fit in it is one permutation, in earlier versions too.
func buffered(n int, seed uint64) []int {
	generator := nprand.New(seed)
	order := make([]int, 0, n)
	var buffer []int
	shuffle := func() {
		places := make([]int, len(buffer))
		for i := range places {
			places[i] = i
		}
		nprand.Shuffle(generator, places)
		for i, place := range places {
			places[i] = buffer[place]
		}
		buffer = places
	}
	for row := range n {
		if buffer = append(buffer, row); len(buffer) == shuffleBuffer {
			shuffle()
			order = append(order, buffer[:shuffleBuffer/2]...)
			buffer = buffer[shuffleBuffer/2:]
		}
	}
	shuffle()
	return append(order, buffer...)
}

// permutation is numpy.random.default_rng(seed).permutation(n).
func permutation(n int, seed uint64) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	nprand.Shuffle(nprand.New(seed), order)
	return order
}

// isPythonSpace reports whether str.strip takes a character away.
func isPythonSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }
