// Package treetest reads folders for tests.
package treetest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Files are what is in all files below a folder, by their names from there on with
// slashes; none if there is no such folder.
func Files(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		files[filepath.ToSlash(name)] = string(raw)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return files
}
