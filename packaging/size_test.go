package packaging_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

const (
	maxFileLines     = 500
	maxFunctionLines = 60
	// reasonForLength stands in the comment of a function that is longer, with why.
	reasonForLength = "is long because"
)

// TestFilesAndFunctionsAreShort: one that is not says why.
func TestFilesAndFunctionsAreShort(t *testing.T) {
	files := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != "..":
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".go":
			return nil
		}
		files++
		checkSizes(t, path)
		return nil
	})
	if err != nil || files < 100 {
		t.Errorf("%d files of code were found: %v", files, err)
	}
}

func checkSizes(t *testing.T, path string) {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	if ast.IsGenerated(file) {
		return
	}
	if n := set.Position(file.FileEnd).Line; n > maxFileLines+1 {
		t.Errorf("%s has %d lines, want at most %d: split it by subject", path, n-1, maxFileLines)
	}
	for _, declaration := range file.Decls {
		f, ok := declaration.(*ast.FuncDecl)
		if !ok {
			continue
		}
		lines := set.Position(f.End()).Line - set.Position(f.Pos()).Line + 1
		if lines > maxFunctionLines && !strings.Contains(f.Doc.Text(), reasonForLength) {
			t.Errorf("%s: %s has %d lines, want at most %d, or a comment that says it %s …", path, f.Name.Name, lines, maxFunctionLines, reasonForLength)
		}
	}
}
