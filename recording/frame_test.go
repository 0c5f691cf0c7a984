package recording

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
)

// encodeFrame makes a frame as a writer does.
func encodeFrame(t testing.TB, content string, options ...zstd.EOption) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, append([]zstd.EOption{zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithSingleSegment(true)}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	return e.EncodeAll([]byte(content), nil)
}

// scanned is what a scanner found.
type scanned struct {
	contents []string
	numbers  []int
	parts    []damagedPart
	wasted   int64
}

func scan(t testing.TB, in io.Reader) scanned {
	t.Helper()
	return scanWithin(t, in, maxWasted)
}

func scanWithin(t testing.TB, in io.Reader, budget int64) scanned {
	t.Helper()
	d, err := newFrameDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	s := newFrameScanner(in, d)
	s.budget = budget
	var found scanned
	for {
		f, part, err := s.next()
		switch {
		case errors.Is(err, io.EOF):
			found.wasted = s.wasted
			return found
		case err != nil:
			t.Fatal(err)
		case f != nil:
			found.contents = append(found.contents, string(f.content))
			found.numbers = append(found.numbers, f.number)
		default:
			found.parts = append(found.parts, *part)
		}
	}
}

// twoFrames are some lines as they come, in two frames.
func twoFrames(t testing.TB) (raw []byte, contents []string, firstEnds int) {
	t.Helper()
	for second := range 2 {
		var text strings.Builder
		for gpu := range 3 {
			fmt.Fprintf(&text, `{"kind":"power","second":%d,"gpu":"node1:4938/%d","offset_ns":-1234567,"t_ms":[1795565504000,50,49,51],"power_mw":[%d,598871,601544,601544],"steps":[170,170,171,171]}`+"\n",
				17+second, gpu, 600123+gpu*77)
		}
		contents = append(contents, text.String())
		raw = append(raw, encodeFrame(t, text.String())...)
		if second == 0 {
			firstEnds = len(raw)
		}
	}
	return raw, contents, firstEnds
}

func TestFramesAreReadInOrder(t *testing.T) {
	large := strings.Repeat("abcdefghijklmnopqrstuvwxyz 0123456789\n", 60_000)
	noise := make([]byte, 500_000)
	for i := range noise {
		noise[i] = byte(rand.IntN(256))
	}
	want := []string{"a\n", "", large, string(noise), "z\n"}
	var raw []byte
	for _, content := range want {
		if content == "" {
			content = "b\n"
		}
		raw = append(raw, encodeFrame(t, content)...)
	}
	want[1] = "b\n"
	for name, in := range map[string]io.Reader{
		"whole": bytes.NewReader(raw), "a byte at a time": iotest.OneByteReader(bytes.NewReader(raw)), "half": iotest.HalfReader(bytes.NewReader(raw)),
	} {
		if got := scan(t, in); !slices.Equal(got.contents, want) || len(got.parts) > 0 || !slices.Equal(got.numbers, []int{0, 1, 2, 3, 4}) {
			t.Errorf("%s: frames %v, damaged %+v", name, got.numbers, got.parts)
		}
	}
}

func TestEveryCutLeavesTheWholeFrames(t *testing.T) {
	raw, contents, firstEnds := twoFrames(t)
	for end := range len(raw) + 1 {
		got := scan(t, bytes.NewReader(raw[:end]))
		want, damaged := contents[:0], 0
		switch {
		case end == len(raw):
			want = contents
		case end >= firstEnds:
			want, damaged = contents[:1], end-firstEnds
		default:
			damaged = end
		}
		if !slices.Equal(got.contents, want) {
			t.Fatalf("cut at %d of %d: %d frames, want %d", end, len(raw), len(got.contents), len(want))
		}
		if damaged == 0 {
			if len(got.parts) > 0 {
				t.Fatalf("cut at %d, the end of a frame: damaged %+v", end, got.parts)
			}
			continue
		}
		if len(got.parts) != 1 || !got.parts[0].cut || got.parts[0].bytes != int64(damaged) || got.parts[0].offset != int64(end-damaged) || got.parts[0].frames != 1 {
			t.Fatalf("cut at %d of %d: damaged %+v", end, len(raw), got.parts)
		}
	}
}

// Each flipped bit is noticed and costs its frame alone, or has no meaning.
func TestEveryFlippedBitIsNoticedOrMeansNothing(t *testing.T) {
	raw, contents, firstEnds := twoFrames(t)
	same := 0
	for bit := range 8 * len(raw) {
		flipped := slices.Clone(raw)
		flipped[bit/8] ^= 1 << (bit % 8)
		got := scan(t, bytes.NewReader(flipped))
		want, from, to := contents[1:], 0, firstEnds
		if bit/8 >= firstEnds {
			want, from, to = contents[:1], firstEnds, len(raw)
		}
		if slices.Equal(got.contents, contents) && len(got.parts) == 0 {
			same++
			continue
		}
		if !slices.Equal(got.contents, want) {
			t.Fatalf("bit %d of byte %d: read %q", bit%8, bit/8, got.contents)
		}
		if len(got.parts) != 1 || got.parts[0].offset != int64(from) || got.parts[0].bytes != int64(to-from) || got.parts[0].frames != 1 {
			t.Fatalf("bit %d of byte %d: damaged %+v, want bytes %d to %d", bit%8, bit/8, got.parts, from, to)
		}
	}
	if bits := 8 * len(raw); same*50 > bits {
		t.Errorf("%d of %d flipped bits were not noticed", same, bits)
	}
	t.Logf("%d of %d bits have no meaning", same, 8*len(raw))
}

func TestWhatLiesBetweenFramesIsLeftOut(t *testing.T) {
	a, b := encodeFrame(t, "first\n"), encodeFrame(t, "second\n")
	magic := frameMagic()
	for name, between := range map[string][]byte{
		"zeros":           make([]byte, 200_000),
		"a byte":          {7},
		"half a magic":    magic[:2],
		"a magic":         magic,
		"three magics":    bytes.Repeat(magic, 3),
		"a frame's start": b[:len(b)-1],
	} {
		raw := slices.Concat(a, between, b, between)
		got := scan(t, bytes.NewReader(raw))
		if !slices.Equal(got.contents, []string{"first\n", "second\n"}) || len(got.parts) != 2 {
			t.Errorf("%s: %q, damaged %+v", name, got.contents, got.parts)
			continue
		}
		for i, at := range []int{len(a), len(raw) - len(between)} {
			if part := got.parts[i]; part.offset != int64(at) || part.bytes != int64(len(between)) {
				t.Errorf("%s: part %d is %+v, want %d bytes at %d", name, i, part, len(between), at)
			}
		}
	}
	got := scan(t, bytes.NewReader(bytes.Repeat(magic, 3)))
	if len(got.parts) != 1 || got.parts[0].frames != 3 {
		t.Errorf("three frames of which only the magic is left: %+v", got.parts)
	}
}

// header makes a frame's header and what follows it.
func header(descriptor byte, rest ...byte) []byte {
	return append(append(frameMagic(), descriptor), rest...)
}

func TestFramesThatNoRecordingHasAreRefused(t *testing.T) {
	content := strings.Repeat("x", 1000)
	little := func(v uint64, n int) []byte { return binary.LittleEndian.AppendUint64(nil, v)[:n] }
	lastRaw := []byte{1, 0, 0} // an empty last block
	const size8, size4, single, checksum = 0xc0, 0x80, 0x20, 0x04
	skippable := append(little(0x184d2a50, 4), little(3, 4)...)
	for want, raw := range map[string][]byte{
		"no Zstandard frame begins here":                  append(skippable, 1, 2, 3),
		"it has no checksum":                              encodeFrame(t, content, zstd.WithEncoderCRC(false)),
		"it does not tell the size of its content":        append(header(checksum, 0), lastRaw...),
		"bits set that have no meaning":                   header(single|checksum|0x10, 0, 1, 0, 0),
		"it needs a dictionary":                           header(single|checksum|1, 9, 0, 1, 0, 0),
		"more than 64 MiB":                                slices.Concat(header(size8|single|checksum), little(1<<40, 8), lastRaw),
		"it claims a window of":                           slices.Concat(header(size4|checksum, 31<<3), little(10, 4), lastRaw),
		"its blocks have at most 0":                       slices.Concat(header(size4|single|checksum), little(64<<20, 4), lastRaw, []byte{0, 0, 0, 0}),
		"its size is 2097151, more than Zstandard allows": slices.Concat(header(size4|single|checksum), little(10, 4), []byte{0xf9, 0xff, 0xff}),
		"it is of no known type":                          slices.Concat(header(size4|single|checksum), little(10, 4), []byte{7, 0, 0}),
	} {
		got := scan(t, bytes.NewReader(append(raw, make([]byte, 20)...)))
		if len(got.contents) > 0 || len(got.parts) != 1 || !strings.Contains(got.parts[0].reason.Error(), want) {
			t.Errorf("%s: %q, damaged %+v", want, got.contents, got.parts)
		}
	}
}

// Lengths in a file are not believed: a lie costs no memory.
func TestLiesAboutLengthsAllocateNothing(t *testing.T) {
	little := func(v uint64, n int) []byte { return binary.LittleEndian.AppendUint64(nil, v)[:n] }
	const size8, size4, single, checksum = 0xc0, 0x80, 0x20, 0x04
	large := []byte{5, 0, 0x10} // a last compressed block of 128 KiB
	for name, raw := range map[string][]byte{
		"content of 137 GB":         slices.Concat(header(size8|single|checksum), little(137<<30, 8), large),
		"content of 64 MiB":         slices.Concat(header(size4|single|checksum), little(64<<20, 4), large),
		"content of 2^64 - 1 bytes": slices.Concat(header(size8|single|checksum), little(1<<64-1, 8), large),
		"a window of 3.75 TB":       slices.Concat(header(size4|checksum, 0xff), little(10, 4), large),
		"a window of 2 GB":          slices.Concat(header(size4|checksum, 21<<3), little(10, 4), large),
		"a block that is not there": slices.Concat(header(size4|single|checksum), little(100, 4), large),
	} {
		file := bytes.Repeat(append(raw, 1, 2, 3, 4, 5), 100)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got := scan(t, bytes.NewReader(file))
		runtime.ReadMemStats(&after)
		// The decoder itself takes some 100 kB.
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 || len(got.contents) > 0 {
			t.Errorf("%s: %d bytes were allocated for a file of %d", name, grown, len(file))
		}
	}
}

// A file made so that each of its bytes begins a frame that is none only at its end
// takes a bounded time.
func TestSearchIsBounded(t *testing.T) {
	little := func(v uint64, n int) []byte { return binary.LittleEndian.AppendUint64(nil, v)[:n] }
	const size4, single, checksum = 0x80, 0x20, 0x04
	const content = 32 << 20
	start := slices.Concat(header(size4|single|checksum), little(content, 4))
	// Each start is followed by a block that jumps over the other starts to a long tail of
	// blocks that repeat one byte.
	const starts = 4000
	var raw []byte
	for i := range starts {
		rest := (starts - i - 1) * (len(start) + blockHeaderBytes)
		raw = append(raw, start...)
		raw = append(raw, little(uint64(rest)<<3, blockHeaderBytes)...)
	}
	for at := 0; at < content; at += maxBlockBytes {
		raw = append(append(raw, little(uint64(maxBlockBytes)<<3|2, blockHeaderBytes)...), 'x')
	}
	raw = append(raw, 1, 0, 0, 9, 9, 9, 9)
	good := encodeFrame(t, "never seen\n")
	const budget = 10 * content
	got := scanWithin(t, bytes.NewReader(append(raw, good...)), budget)
	if got.wasted < budget || got.wasted > budget+2*content {
		t.Errorf("%d bytes were decoded in vain, want %d and not much more", got.wasted, budget)
	}
	if len(got.parts) != 1 || got.parts[0].bytes != int64(len(raw)+len(good)) || !strings.Contains(got.parts[0].reason.Error(), "the rest is left out") {
		t.Errorf("damaged %+v", got.parts)
	}
}

func TestErrorsOfReadingAreNoDamage(t *testing.T) {
	raw, _, firstEnds := twoFrames(t)
	d, err := newFrameDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	broken := errors.New("the disk is broken")
	s := newFrameScanner(io.MultiReader(bytes.NewReader(raw[:firstEnds+10]), iotest.ErrReader(broken)), d)
	if _, _, err := s.next(); !errors.Is(err, broken) || !strings.Contains(err.Error(), fmt.Sprintf("byte %d", firstEnds+10)) {
		t.Errorf("the error is %v", err)
	}
}

func FuzzFrames(f *testing.F) {
	raw, _, firstEnds := twoFrames(f)
	f.Add(raw)
	f.Add(raw[:firstEnds])
	f.Add(raw[3:])
	f.Add(slices.Concat(raw[:firstEnds-1], raw))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got := scan(t, bytes.NewReader(raw))
		d, err := newFrameDecoder()
		if err != nil {
			t.Fatal(err)
		}
		defer d.close()
		// What is no frame and what is one make up the file, and another reader of
		// Zstandard has the same frames.
		s := newFrameScanner(iotest.HalfReader(bytes.NewReader(raw)), d)
		at := int64(0)
		for i, part := 0, 0; ; {
			f, damaged, err := s.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if f != nil {
				if f.offset != at || string(f.content) != got.contents[i] {
					t.Fatalf("frame %d is at %d, want %d", i, f.offset, at)
				}
				i++
				at += int64(len(f.raw))
				continue
			}
			if damaged.offset != at || damaged.bytes == 0 || damaged.bytes != got.parts[part].bytes {
				t.Fatalf("damage %+v, want it at %d", damaged, at)
			}
			part++
			at += damaged.bytes
		}
		if at != int64(len(raw)) {
			t.Fatalf("%d of %d bytes are accounted for", at, len(raw))
		}
	})
}
