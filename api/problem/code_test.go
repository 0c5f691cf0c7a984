package problem

import (
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the table of codes in docs/api.md")

// The table of codes in the guide is the one that programs are answered by.
func TestCodesInDocs(t *testing.T) {
	const file, begin, end = "../../docs/api.md", "<!-- The table is written by go test ./api/problem -run CodesInDocs -update -->\n\n", "\n\n"
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(raw), begin)
	got, after, found2 := strings.Cut(rest, end)
	if !found || !found2 {
		t.Fatalf("%s has no table of codes: it begins after the line %s", file, begin)
	}
	rows := []string{"| `code` | status | |", "| --- | ---: | --- |"}
	for _, c := range Codes() {
		rows = append(rows, fmt.Sprintf("| `%s` | %d | %s |", c.Code, c.Status, c.Description))
	}
	want := strings.Join(rows, "\n")
	if *update {
		if err := os.WriteFile(file, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		got = want
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("go test ./api/problem -run %s -update rewrites %s; its table of codes (-want +got):\n%s", t.Name(), file, diff)
	}
}

// Every constant is in the table, once, and every status has one usual code.
func TestCodes(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "code.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var constants []string
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "Code") {
			constants = append(constants, strings.Trim(spec.Values[0].(*ast.BasicLit).Value, `"`))
		}
		return true
	})
	var listed []string
	usual := map[int]int{}
	for _, c := range Codes() {
		listed = append(listed, c.Code)
		usual[c.Status] += 0
		if c.Usual {
			usual[c.Status]++
			if got := New(c.Status, "no").Code; got != c.Code {
				t.Errorf("a problem of status %d has the code %q, want %q", c.Status, got, c.Code)
			}
		}
		if http.StatusText(c.Status) == "" || c.Description == "" {
			t.Errorf("%+v", c)
		}
	}
	slices.Sort(listed)
	slices.Sort(constants)
	if diff := cmp.Diff(constants, listed); diff != "" {
		t.Errorf("the codes (-constants +table):\n%s", diff)
	}
	for status, n := range usual {
		if n != 1 {
			t.Errorf("status %d has %d usual codes, want one", status, n)
		}
	}
	if got := New(http.StatusTeapot, "no").Code; got != "i'm-a-teapot" {
		t.Errorf("a status without codes gives the code %q", got)
	}
}

// The problem has the code of its parts where they agree, else that of its status.
func TestCodesOfParts(t *testing.T) {
	p := New(http.StatusUnprocessableEntity, "no").AtCoded("body.a", "a", CodeInfeasibleBatchSize).AtCoded("body.b", "b", CodeInfeasibleBatchSize)
	if p.Code != CodeInfeasibleBatchSize {
		t.Errorf("parts that agree: %q", p.Code)
	}
	if p.AtCoded("body.c", "c", CodeUnknownModel); p.Code != CodeInvalidRequest {
		t.Errorf("parts that do not: %q", p.Code)
	}
	if p := New(http.StatusUnprocessableEntity, "no").At("body.a", "a").AtCoded("body.b", "b", CodeUnknownModel); p.Code != CodeInvalidRequest {
		t.Errorf("a part without one: %q", p.Code)
	}
	text, err := json.Marshal(New(http.StatusConflict, "no").At("body", "no").Coded(CodeRunOver))
	if want := `{"title":"Conflict","status":409,"code":"run-over","detail":"no","errors":[{"message":"no","location":"body"}]}`; err != nil || string(text) != want {
		t.Errorf("%s (%v), want %s", text, err, want)
	}
}
