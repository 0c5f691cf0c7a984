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
	// reasonForLength begins the comment in a function that is longer, with why.
	reasonForLength = "In one piece: "
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
		if lines > maxFunctionLines && !hasReason(file, f) {
			t.Errorf("%s: %s has %d lines, want at most %d, or a comment in it that begins with %q", path, f.Name.Name, lines, maxFunctionLines, reasonForLength)
		}
	}
}

// hasReason reports whether a comment in the function says why it is long.
func hasReason(file *ast.File, f *ast.FuncDecl) bool {
	for _, comment := range file.Comments {
		if comment.Pos() > f.Pos() && comment.End() < f.End() && strings.HasPrefix(comment.Text(), reasonForLength) {
			return true
		}
	}
	return false
}
