package recording

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// What a recording has is not for everybody on the host, nor is what is cut out of it.
func TestOthersCannotReadRecordings(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rec")
	short(t, Options{Dir: dir}, 2)
	part := filepath.Join(t.TempDir(), "part")
	if err := openReader(t, dir).Cut(t.Context(), ReadOptions{}, part); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{dir, part} {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err == nil && info.Mode().Perm()&0o027 != 0 {
				t.Errorf("%s has the mode %v", path, info.Mode())
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// A FIFO that is called like a segment keeps nobody waiting.
func TestSegmentThatIsAFIFO(t *testing.T) {
	dir, _ := smallRecording(t)
	if err := syscall.Mkfifo(filepath.Join(dir, SegmentName(7)), 0o600); err != nil {
		t.Fatal(err)
	}
	opened := make(chan error, 1)
	go func() {
		_, err := OpenReader(dir)
		opened <- err
	}()
	select {
	case err := <-opened:
		if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "00000007.jsonl.zst is no regular file") {
			t.Errorf("it says %v", err)
		}
	case <-time.After(10 * time.Second):
		writer, err := os.OpenFile(filepath.Join(dir, SegmentName(7)), os.O_WRONLY, 0) // lets it go
		if err == nil {
			_ = writer.Close()
		}
		t.Fatal("it waits for the FIFO")
	}
}

func TestCutIntoANameThatEndsInASlash(t *testing.T) {
	dir, _ := smallRecording(t)
	out := filepath.Join(t.TempDir(), "part")
	if err := openReader(t, dir).Cut(t.Context(), ReadOptions{}, out+"/"); err != nil {
		t.Fatal(err)
	}
	if report := verifyDir(t, out); !report.Whole {
		t.Error(findings(report))
	}
}

// crowded is a disk that is full until a segment is deleted.
type crowded struct {
	*memory
	by string
}

func (c crowded) create(name string) (file, error) {
	c.mu.Lock()
	full := c.files[c.by] != nil
	c.mu.Unlock()
	if full {
		return nil, errFull
	}
	return c.memory.create(name)
}

// What is too old goes while the recording has stopped, too: it may be what the disk is
// full of.
func TestOldSegmentsGoWhileTheDiskIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		d.files[SegmentName(0)] = &memoryFile{disk: d, modified: time.Now()}
		r := begin(t, crowded{d, SegmentName(0)}, Options{MaxAge: 90 * time.Second})
		r.run(70)
		synctest.Wait()
		if stats := r.w.Stats(); !stats.Stopped || len(d.names()) != 1 {
			t.Errorf("stats %+v with %q", stats, d.names())
		}
		r.run(60)
		synctest.Wait()
		if stats := r.w.Stats(); stats.Stopped || stats.DeletedSegments != 1 || len(d.names()) != 1 {
			t.Errorf("stats %+v with %q", stats, d.names())
		}
		_ = r.w.Close(t.Context(), "done") // it tells of the gap
	})
}

// Of foreign files, of which there may be many, nothing but the names is looked at.
func TestForeignFilesAreNotListed(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"notes.txt", SegmentName(3), lockName, SegmentName(4) + ".bak"} {
		write(t, filepath.Join(dir, name), nil)
	}
	all, err := directory(dir).list()
	if err != nil || len(all) != 1 || all[0].name != SegmentName(3) {
		t.Errorf("listed are %+v, %v", all, err)
	}
}
