package requests

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// readCSV returns all cells, those of a row joined by |.
func readCSV(text string) (rows []string, err error) {
	in, err := newCSVReader(strings.NewReader(text), "x.csv")
	if err != nil {
		return nil, err
	}
	for {
		if err := in.next(); errors.Is(err, io.EOF) {
			return rows, nil
		} else if err != nil {
			return rows, err
		}
		var cells []string
		for i := range in.ends {
			cells = append(cells, string(in.cell(i)))
		}
		rows = append(rows, strings.Join(cells, "|"))
	}
}

// TestCSVIsReadAsPandasDoes: the wanted cells are those of pandas.read_csv 3.1.1.
func TestCSVIsReadAsPandasDoes(t *testing.T) {
	for text, want := range map[string][]string{
		"a,b\n1,2":                                   {"1|2"},
		"\ufeffa,b\r\n1,2\r\n":                       {"1|2"},
		"a,b\n\n  \t\n1,2\n\n":                       {"1|2"},
		"a,b\n\"x\ny\",\"z\r\nz\"\n":                 {"x\ny|z\r\nz"},
		"a,b\n\"say \"\"hi\"\"\",x\"y\"\"z\"\n":      {`say "hi"|x"y""z"`},
		"a,b\n\"x\"y\"z,2\n":                         {`xy"z|2`},
		"a,b\n  \"x\",\n":                            {`  "x"|`},
		"a,b\n\"\",\n,\n":                            {"|", "|"},
		"a,b\n1\n":                                   {"1"},
		"a,b\n  ,x\n \t":                             {"  |x"},
		"a,b\r1,2\r3,\"4\r5\"\r":                     {"1|2", "3|4\r5"},
		"a,b\nNA,null\n":                             {"NA|null"},
		"\n\na,b\n1,2\n":                             {"1|2"},
		"a,b\n\"" + strings.Repeat("x\n", 3) + "\",": {"x\nx\nx\n|"},
	} {
		if rows, err := readCSV(text); err != nil || !slices.Equal(rows, want) {
			t.Errorf("%q: %q (%v), want %q", text, rows, err, want)
		}
	}
}

func TestCSVRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                      "x.csv: the file is empty",
		" \n\n":                 "x.csv: the file is empty",
		"a\x00,\x00":            "UTF-16",
		"a,b\n1,2\n\"x\ny":      "x.csv: row 2 (line 3): the file ends within quotes",
		"a,b\n\"x\n\",2\n1,2,3": "x.csv: row 2 (line 4): has 3 cells, the header 2",
		"a,b\n\"" + strings.Repeat("x", maxCellBytes+2): "x.csv: row 1 (line 2): has more than",
	} {
		if _, err := readCSV(text); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.30q: %v, want %q", text, err, want)
		}
	}
}

// FuzzCSV: what is read can be written and read again, and takes no more than the text.
func FuzzCSV(f *testing.F) {
	f.Add("a,b\n\"x\r\ny\",\"z\"\"\"\n\r ,\t\n")
	f.Fuzz(func(t *testing.T, text string) {
		in, err := newCSVReader(strings.NewReader(text), "x.csv")
		if err != nil {
			return
		}
		var again strings.Builder
		fmt.Fprintf(&again, "h%s\n", strings.Repeat(",h", len(in.header)-1))
		var rows []string
		for in.next() == nil {
			cells := make([]string, len(in.ends))
			for i := range cells {
				cells[i] = `"` + strings.ReplaceAll(string(in.cell(i)), `"`, `""`) + `"`
			}
			rows = append(rows, strings.Join(cells, ","))
			again.WriteString(rows[len(rows)-1] + "\n")
		}
		second, err := newCSVReader(strings.NewReader(again.String()), "x.csv")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range rows {
			if err := second.next(); err != nil {
				t.Fatal(err)
			}
			cells := make([]string, len(second.ends))
			for i := range cells {
				cells[i] = `"` + strings.ReplaceAll(string(second.cell(i)), `"`, `""`) + `"`
			}
			if got := strings.Join(cells, ","); got != want {
				t.Fatalf("%q is read again as %q", want, got)
			}
		}
	})
}

func gpqaText(rows ...string) []byte {
	return []byte("Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\n" + strings.Join(rows, "\n") + "\n")
}

// TestGPQAKeepsTexts that pandas takes for missing, and every line end.
func TestGPQAKeepsTexts(t *testing.T) {
	dir := dataDir(t, map[string][]byte{gpqaFile: gpqaText("\"a\r\nb\",NA,null,,\u00a0nan\x1c")})
	for _, path := range []string{dir, filepath.Join(dir, gpqaFile)} {
		prompts, _, err := sample(t, openGPQA, path, 5)
		if err != nil || len(prompts) != 1 {
			t.Fatalf("%v, %d prompts", err, len(prompts))
		}
		// random.Random(0) puts the four in the order [2, 0, 1, 3].
		const want = "What is the correct answer to the following question: a\r\nb\n\nChoices:\n(A) nan\n(B) null\n(C) \n(D) NA"
		if got := prompts[0].Messages[0].Text; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestGPQARefuses(t *testing.T) {
	for want, content := range map[string][]byte{
		"holds no question": gpqaText(),
		`gpqa_extended.csv: column "Incorrect Answer 1" is missing; there are "Question"`: []byte("Question\nx\n"),
		`row 2 (line 3): column "Incorrect Answer 3": the row ends before it: it has 4`:   gpqaText("q,c,1,2,3", "q,c,1,2"),
		`row 1 (line 2): column "Correct Answer": is not text in UTF-8`:                   gpqaText("q,\xff,1,2,3"),
	} {
		_, _, err := sample(t, openGPQA, dataDir(t, map[string][]byte{gpqaFile: content}), 5)
		if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := openGPQA(t.TempDir()); !errors.Is(err, datacenter.ErrInvalidInput) {
		t.Errorf("an empty directory: %v", err)
	}
}

// TestGPQAOrder: what load_dataset(…, streaming=True).shuffle(seed) of datasets 5.2.0
// yields of so many rows.
func TestGPQAOrder(t *testing.T) {
	for _, c := range []struct {
		rows        int
		seed        uint64
		first, last string
		sha256      string // of the order as a JSON list
	}{
		{999, 3, "[780,934,188", "261,659,760]", "fa2a3d937d481a798c0d2e0bdb75c8be62cbb31c0ad9932c241c71c99fb17867"},
		{1000, 3, "[334,618,590", "480,130,647]", "0e1d00e98a5d2af6078acbc2c5cef2604e22f5d85c8c8c424a37fc9371e66367"},
		{1001, 0, "[459,206,222", "248,239,804]", "3d3b927f44d0add8a9d37de6f57e7f6ab7558733d1922230d0a2208ecbf023d4"},
		{1499, 5, "[478,816,154", "1101,141,49]", "636b18d7e8414ad6a3593d12dcc0d90d118b28a7c04973000756bb4dfa25205f"},
		{1500, 5, "[478,816,154", "1327,1447,101]", "b2af425d0be4af53a6b0a717ed8d046064d44d8ec9eb39242079523c9d26fd80"},
		{2300, 3, "[334,618,590", "2090,1908,2172]", "5f1b36d079108ce1b1b731beef4694b6f88c1999e0dd1615e2af17e9eba58b39"},
		{11000, 1, "[705,649,543", "10516,9907,10070]", "72658b422344ee8fcebcbe0b8481759b0edd12f12fa204d830b3d07c1dd2bb80"},
	} {
		order, err := json.Marshal(buffered(c.rows, c.seed))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(order); !strings.HasPrefix(got, c.first) || !strings.HasSuffix(got, c.last) || fmt.Sprintf("%x", sha256.Sum256(order)) != c.sha256 {
			t.Errorf("%d rows, seed %d: %.30s…, want %s…%s", c.rows, c.seed, got, c.first, c.last)
		}
	}
	for rows, warned := range map[int]bool{999: false, 1000: true} {
		text := gpqaText(slices.Repeat([]string{"q,c,1,2,3"}, rows)...)
		_, warnings, err := sample(t, openGPQA, dataDir(t, map[string][]byte{gpqaFile: text}), 5)
		if err != nil || (len(warnings) > 0) != warned {
			t.Errorf("%d rows: %v, warnings %q", rows, err, warnings)
		}
	}
}

// TestWhiteSpace: what str.strip of Python takes away.
func TestWhiteSpace(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "testdata", "python", "json.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		Spaces []rune `json:"white_space"`
	}
	if err := json.Unmarshal(raw, &vectors); err != nil || len(vectors.Spaces) < 20 {
		t.Fatalf("%v, %d characters", err, len(vectors.Spaces))
	}
	for r := range utf8.MaxRune + 1 {
		if want := slices.Contains(vectors.Spaces, r); isPythonSpace(r) != want {
			t.Errorf("%U: white space is %v, want %v", r, !want, want)
		}
	}
}
