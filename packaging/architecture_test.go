package packaging_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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
