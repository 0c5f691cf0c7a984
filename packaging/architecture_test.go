package packaging_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestArchitectureHasEveryRoom: every folder of code at the top and in internal/ has
// a line in the table of rooms.
func TestArchitectureHasEveryRoom(t *testing.T) {
	text := read(t, "../docs/architecture.md")
	rooms := append(foldersWithCode(t, ".."), foldersWithCode(t, "../internal")...)
	for _, room := range []string{"cmd", "datacenter", "internal/nprand"} {
		if !slices.Contains(rooms, room) {
			t.Fatalf("the rooms found are %q, want %s among them", rooms, room)
		}
	}
	for _, room := range rooms {
		if room != "internal" && !strings.Contains(text, "| `"+room+"/` |") {
			t.Errorf("docs/architecture.md has no line for %s/ in its table of rooms", room)
		}
	}
}

// TestArchitectureHasTheImports: the last column of the table of rooms is what the
// room's code imports of ours, tests aside, with internal/ left out.
func TestArchitectureHasTheImports(t *testing.T) {
	text := read(t, "../docs/architecture.md")
	name := regexp.MustCompile("`[^`]+`")
	rows := regexp.MustCompile("(?m)^\\|[^|]*\\| `([a-z/]+)/` \\|[^|]*\\| (.*) \\|$").FindAllStringSubmatch(text, -1)
	var rooms []string
	for _, row := range rows {
		rooms = append(rooms, row[1])
	}
	if len(rooms) < 30 {
		t.Fatalf("the table has the rooms %q", rooms)
	}
	for _, row := range rows {
		room, said := row[1], row[2]
		if said == "all" {
			continue
		}
		var listed []string
		for _, quoted := range name.FindAllString(said, -1) {
			listed = append(listed, strings.Trim(quoted, "`"))
		}
		slices.Sort(listed)
		if imported := importsOf(t, room, rooms); !slices.Equal(listed, imported) {
			want := "none"
			if len(imported) > 0 {
				want = "`" + strings.Join(imported, "`, `") + "`"
			}
			t.Errorf("docs/architecture.md says that %s/ imports %s, its code imports %s", room, said, want)
		}
	}
}

// importsOf are the rooms that a room's code imports, in order.
func importsOf(t *testing.T, room string, rooms []string) []string {
	t.Helper()
	const ours = "github.com/g2g-agent/g2g-agent/"
	roomOf := func(folder string) string { // the innermost that the table has
		for folder != "." && !slices.Contains(rooms, folder) {
			folder = filepath.ToSlash(filepath.Dir(folder))
		}
		return folder
	}
	var imported []string
	err := filepath.WalkDir(filepath.Join("..", room), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		folder := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), "../")
		if roomOf(folder) != room || strings.HasSuffix(folder, "test") { // helpers of tests
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			of, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if folder, isOurs := strings.CutPrefix(of, ours); isOurs && roomOf(folder) != room {
				imported = append(imported, strings.TrimPrefix(roomOf(folder), "internal/"))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(imported)
	return slices.Compact(imported)
}

// foldersWithCode are the folders in parent with Go files in them or below, named
// from the repository's root.
func foldersWithCode(t *testing.T, parent string) []string {
	t.Helper()
	entries, err := os.ReadDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	var folders []string
	for _, e := range entries {
		if dir := filepath.Join(parent, e.Name()); e.IsDir() && !strings.HasPrefix(e.Name(), ".") && hasCode(t, dir) {
			folders = append(folders, filepath.ToSlash(strings.TrimPrefix(dir, ".."+string(filepath.Separator))))
		}
	}
	return folders
}

func hasCode(t *testing.T, dir string) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".go" {
			found = true
			return fs.SkipAll
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
