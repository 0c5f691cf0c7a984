package mlenergy

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// TestFIFOInPlaceOfAFile is refused; nobody waits for its writer.
func TestFIFOInPlaceOfAFile(t *testing.T) {
	dir := benchmark(t, []row{aRow(8, "fifo.json")}, nil)
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := generate(t, dir, aSpec(8)); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "fifo.json: is no file") {
		t.Errorf("the error is %v", err)
	}
}
