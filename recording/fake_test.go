package recording

import (
	"bytes"
	"errors"
	"io/fs"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// memory is a disk in memory that can be full, broken, slow or hang.
type memory struct {
	mu    sync.Mutex
	files map[string]*memoryFile
	// room is how many bytes may be written; negative: any number.
	room int
	// broken fails what it is asked about, by what is done.
	broken map[string]error
	// slow is how long a sync takes.
	slow  time.Duration
	syncs int
}

type memoryFile struct {
	disk     *memory
	content  []byte
	synced   int
	modified time.Time
	closed   bool
	folder   bool
}

func newMemory() *memory {
	return &memory{files: map[string]*memoryFile{}, room: -1, broken: map[string]error{}}
}

var errFull = errors.New("no space left on device")

func (m *memory) create(name string) (file, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.broken["create"]; err != nil {
		return nil, err
	}
	if m.files[name] != nil {
		return nil, fs.ErrExist
	}
	m.files[name] = &memoryFile{disk: m, modified: time.Now()}
	return m.files[name], nil
}

func (m *memory) list() ([]stored, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []stored
	for name, f := range m.files {
		all = append(all, stored{name, int64(len(f.content)), f.modified, !f.folder})
	}
	return all, m.broken["list"]
}

func (m *memory) remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.broken["remove"]; err != nil {
		return err
	}
	delete(m.files, name)
	return nil
}

func (m *memory) sync() error { return m.broken["syncdir"] }

func (f *memoryFile) Write(b []byte) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	n := len(b)
	if f.disk.room >= 0 {
		n = min(n, f.disk.room)
		f.disk.room -= n
	}
	f.content, f.modified = append(f.content, b[:n]...), time.Now()
	if n < len(b) {
		return n, errFull
	}
	return n, nil
}

func (f *memoryFile) Truncate(n int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.content = f.content[:n]
	return f.disk.broken["truncate"]
}

func (f *memoryFile) sync() error {
	f.disk.mu.Lock()
	slow, err := f.disk.slow, f.disk.broken["sync"]
	f.disk.mu.Unlock()
	if slow > 0 {
		<-time.After(slow)
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err == nil {
		f.synced = len(f.content)
		f.disk.syncs++
	}
	return err
}

func (f *memoryFile) Close() error { f.closed = true; return nil }

// set changes the disk while others use it.
func (m *memory) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// names are those of the files, in order.
func (m *memory) names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for name := range m.files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// unsynced is how many bytes of a file are not on the disk.
func (m *memory) unsynced(name string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.files[name].content) - m.files[name].synced
}

// lines are those of a file.
func (m *memory) lines(t testing.TB, name string) []Line {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.files[name]
	if f == nil {
		t.Fatalf("there is no %s", name)
	}
	return segmentLines(t, f.content)
}

// all are the lines of all segments.
func (m *memory) all(t testing.TB) []Line {
	t.Helper()
	var all []Line
	for _, name := range m.names() {
		if _, is := SegmentNumber(name); is {
			all = append(all, m.lines(t, name)...)
		}
	}
	return all
}

// framesOf are the contents of the frames of a segment, each of which is as the format
// wants it. The library finds their ends; what does not end is an error.
func framesOf(t testing.TB, segment []byte) [][]byte {
	t.Helper()
	frames, rest := wholeFramesOf(t, segment)
	if len(rest) > 0 {
		t.Fatalf("%d bytes after the last whole frame", len(rest))
	}
	return frames
}

// wholeFramesOf are the contents of the whole frames at the start of a segment, and the
// bytes after them.
func wholeFramesOf(t testing.TB, segment []byte) (frames [][]byte, rest []byte) {
	t.Helper()
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	for rest = segment; len(rest) > 0; {
		var h zstd.Header
		if err := h.Decode(rest); err != nil {
			return frames, rest
		}
		if !h.HasCheckSum || !h.HasFCS || h.DictionaryID != 0 || h.Skippable || h.WindowSize > 8<<20 {
			t.Fatalf("a frame's header is %+v", h)
		}
		at := h.HeaderSize
		for last := false; !last; {
			if len(rest) < at+3 {
				return frames, rest
			}
			block := uint(rest[at]) | uint(rest[at+1])<<8 | uint(rest[at+2])<<16
			last = block&1 != 0
			size := int(block >> 3)
			if block>>1&3 == 1 {
				size = 1
			}
			at += 3 + size
		}
		if at += 4; len(rest) < at { // the checksum
			return frames, rest
		}
		content, err := decoder.DecodeAll(rest[:at], nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(content) > maxContent+1<<20 || !bytes.HasSuffix(content, []byte("\n")) {
			t.Fatalf("a frame has %d bytes, the last %q", len(content), content[len(content)-1:])
		}
		frames, rest = append(frames, content), rest[at:]
	}
	return frames, nil
}

// segmentLines are the lines of a segment's whole frames.
func segmentLines(t testing.TB, segment []byte) []Line {
	t.Helper()
	var lines []Line
	frames, _ := wholeFramesOf(t, segment)
	for _, frame := range frames {
		for raw := range bytes.Lines(frame) {
			line, err := ParseLine(raw)
			if err != nil {
				t.Fatalf("%v in %s", err, raw)
			}
			lines = append(lines, line)
		}
	}
	return lines
}

// only are the lines of one type.
func only[L Line](lines []Line) []L {
	var some []L
	for _, l := range lines {
		if l, is := l.(L); is {
			some = append(some, l)
		}
	}
	return some
}
