package atomicfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckFolder(t *testing.T) {
	dir := t.TempDir()
	for _, good := range []string{dir, filepath.Join(dir, "new"), filepath.Join(dir, "new", "deeper")} {
		if err := CheckFolder(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	if all := names(t, dir); len(all) > 0 {
		t.Errorf("the folder holds %q now", all)
	}
	file := filepath.Join(dir, "file")
	closed := filepath.Join(dir, "closed")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(closed, 0o500); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{file, filepath.Join(file, "x")} {
		if err := CheckFolder(bad); err == nil || !strings.HasPrefix(err.Error(), bad+": "+file+" is not a directory") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := os.Stat("/proc/self"); err == nil { // nobody may write there, not even root
		if err := CheckFolder("/proc/self"); err == nil || !strings.HasPrefix(err.Error(), "/proc/self: cannot write in /proc/self: ") {
			t.Errorf("/proc/self: %v", err)
		}
	}
	if os.Getuid() == 0 {
		t.Skip("root may write anywhere else")
	}
	for _, bad := range []string{closed, filepath.Join(closed, "x")} {
		if err := CheckFolder(bad); err == nil || !strings.Contains(err.Error(), "cannot write in "+closed+": permission denied") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
