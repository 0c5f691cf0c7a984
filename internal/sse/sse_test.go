package sse

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// said is what a stream says: events as "type|data", and tooLong.
type said struct {
	Events []string
	Cut    bool
}

const (
	tooLong  = "(too long)"
	errorTag = "(error) "
)

// split feeds a stream in pieces of the sizes that next returns.
func split(stream []byte, maxBytes int, next func(left int) int) said {
	var s Splitter
	s.Reset(maxBytes)
	var all said
	for rest := stream; len(rest) > 0; {
		n := min(max(next(len(rest)), 1), len(rest))
		// A copy, so that what is kept beyond the call shows.
		whole := bytes.Clone(rest[:n])
		for piece := whole; len(piece) > 0; {
			data, rest, found := s.Next(piece)
			piece = rest
			switch found {
			case Whole:
				all.Events = append(all.Events, string(s.Type())+"|"+string(data))
			case TooLong:
				all.Events = append(all.Events, tooLong)
			case ErrorField:
				all.Events = append(all.Events, errorTag+string(data))
			}
		}
		for i := range whole {
			whole[i] = '#'
		}
		rest = rest[n:]
	}
	all.Cut = s.Cut()
	return all
}

func whole(left int) int { return left }

func bytewise(int) int { return 1 }

// The streams of the standard's own examples are among them.
func TestEvents(t *testing.T) {
	for _, test := range []struct {
		name, stream string
		want         []string
		cut          bool
	}{
		{name: "nothing"},
		{name: "one", stream: "data: a\n\n", want: []string{"|a"}},
		{name: "two messages", stream: "data: a\n\ndata: b\n\n", want: []string{"|a", "|b"}},
		{name: "CR LF", stream: "data: a\r\n\r\ndata: b\r\n\r\n", want: []string{"|a", "|b"}},
		{name: "CR alone", stream: "data: a\r\rdata: b\rdata: c\r\r", want: []string{"|a", "|b\nc"}},
		{name: "all line ends", stream: "data: a\r\ndata: b\rdata: c\n\r\ndata: d\n\rdata: e\r\n\n", want: []string{"|a\nb\nc", "|d", "|e"}},
		{name: "LF CR are two ends", stream: "data: a\n\rdata: b\n\n", want: []string{"|a", "|b"}},
		{name: "several lines", stream: "data: YHOO\ndata: +2\ndata: 10\n\n", want: []string{"|YHOO\n+2\n10"}},
		{name: "no blank, two blanks, a colon", stream: "data:a\n\ndata:  b\n\ndata: c: d\n\n", want: []string{"|a", "| b", "|c: d"}},
		{name: "no colon", stream: "data\n\ndata\ndata\n\ndata:", want: []string{"|", "|\n"}, cut: true},
		{name: "empty data", stream: "data:\n\ndata: \n\n", want: []string{"|", "|"}},
		{name: "empty lines of data", stream: "data: a\ndata:\ndata: b\ndata\n\n", want: []string{"|a\n\nb\n"}},
		{name: "no data", stream: "event: x\n\nid: 1\n\nevent: x\n\ndata: a\n\n", want: []string{"|a"}},
		{name: "types", stream: "event: add\ndata: 1\n\nevent:remove\ndata: 2\n\ndata: 3\n\nevent: x\nevent\ndata: 4\n\nevent: x\nevent: y z\ndata: 5\n\n",
			want: []string{"add|1", "remove|2", "|3", "|4", "y z|5"}},
		{name: "type behind data", stream: "data: 1\nevent: x\n\n", want: []string{"x|1"}},
		{name: "comments", stream: ": test stream\n\ndata: a\n:\n:data: b\n\n:\n\n", want: []string{"|a"}},
		{name: "id and retry", stream: "id: 1\nretry: 5\ndata: a\nid\n\nid: \x00\nretry: x\ndata: b\n\n", want: []string{"|a", "|b"}},
		{name: "unknown fields", stream: "trace: 5\ndata: a\nnonsense\n\x00\xff\xfe\n\xf0: data: b\n\nevent: x\nbogus\n\n", want: []string{"|a"}},
		{name: "errors", stream: "data: a\nerror: x\ndata: b\nerror:{}\r\nerror: \nerror\nerrors: y\nError: z\n\nerror: c\n\ndata: d\n\n",
			want: []string{errorTag + "x", errorTag + "{}", "|a\nb", errorTag + "c", "|d"}},
		{name: "an error behind one line of data", stream: "data: a\nerror: x\n\n", want: []string{errorTag + "x", "|a"}},
		{name: "names that only resemble", stream: "Data: a\n data: b\ndata : c\ndatax: d\nxdata: e\nDATA\n\n"},
		{name: "a byte-order mark", stream: "\ufeffdata: a\n\n\ufeffdata: b\n\n", want: []string{"|a"}},
		{name: "one before an empty line", stream: "\ufeff\ndata: a\n\n", want: []string{"|a"}},
		{name: "two of them", stream: "\ufeff\ufeffdata: a\n\ndata: b\n\n", want: []string{"|b"}},
		{name: "half of one", stream: "\xef\xbbdata: a\n\ndata: b\n\n", want: []string{"|b"}},
		{name: "empty lines", stream: "\n\r\n\r\r\ndata: a\n\n\n\n", want: []string{"|a"}},
		{name: "cut in a line", stream: "data: a\n\ndata: b", want: []string{"|a"}, cut: true},
		{name: "cut before the empty line", stream: "data: a\n\ndata: b\n", want: []string{"|a"}, cut: true},
		{name: "cut in a comment", stream: "data: a\n\n: b", want: []string{"|a"}, cut: true},
		{name: "CR at the end", stream: "data: a\r\r", want: []string{"|a"}},
		{name: "invalid UTF-8", stream: "data: \xff\xc0a\n\n", want: []string{"|\xff\xc0a"}},
		{name: "NUL", stream: "data: \x00\n\n", want: []string{"|\x00"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := said{Events: test.want, Cut: test.cut}
			for name, next := range map[string]func(int) int{"in one piece": whole, "byte by byte": bytewise} {
				if diff := cmp.Diff(want, split([]byte(test.stream), 1<<10, next)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
			}
			if diff := cmp.Diff(want.Events, reference(test.stream)); diff != "" {
				t.Errorf("the reference (-want +got):\n%s", diff)
			}
		})
	}
}

// An event that is too long is said to be so once, when that is known, and those
// behind it are found.
func TestTooLongEventsArePassedOver(t *testing.T) {
	const most = 1 << 10
	long := strings.Repeat("x", most)
	after := "data: b\n\n"
	for _, test := range []struct {
		name, stream string
		want         []string
		cut          bool
	}{
		{"the longest line", "data: " + long[:most-6] + "\n\n" + after, []string{"|" + long[:most-6], "|b"}, false},
		{"the longest line with CR LF", "data: " + long[:most-6] + "\r\n\r\n" + after, []string{"|" + long[:most-6], "|b"}, false},
		{"a line too long", "data: a\ndata: " + long + "\ndata: c\n\n" + after, []string{tooLong, "|b"}, false},
		{"a comment too long", "data: a\n: " + long + "\n\n" + after, []string{tooLong, "|b"}, false},
		{"the first line too long", "\ufeff" + long + "\r\r" + after, []string{tooLong, "|b"}, false},
		{"two lines too long", long + "y\n" + long + "z\n\n" + after, []string{tooLong, "|b"}, false},
		{"the most data", "data:" + long[:most/2] + "\ndata:" + long[:most/2-1] + "\n\n" + after, []string{"|" + long[:most/2] + "\n" + long[:most/2-1], "|b"}, false},
		{"data too long", "data:" + long[:most/2] + "\ndata:" + long[:most/2] + "\ndata: c\nevent: x\n\n" + after, []string{tooLong, "|b"}, false},
		{"many lines", strings.Repeat("data:\n", most+2) + "\n" + after, []string{tooLong, "|b"}, false},
		{"two events", long + "x\n\n" + long + "x\n\n" + after, []string{tooLong, tooLong, "|b"}, false},
		{"no end", "data: a\n\n" + long + long + long, []string{"|a", tooLong}, true},
		{"no empty line", long + "x\n", []string{tooLong}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := said{Events: test.want, Cut: test.cut}
			for name, next := range map[string]func(int) int{"in one piece": whole, "byte by byte": bytewise, "in sevens": func(int) int { return 7 }} {
				if diff := cmp.Diff(want, split([]byte(test.stream), most, next)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
			}
		})
	}
}

// A line without an end must be known to be too long before it ends, or it would
// fill the memory.
func TestEndlessLinesTakeNoMemory(t *testing.T) {
	var s Splitter
	s.Reset(1 << 10)
	piece := bytes.Repeat([]byte("x"), 700)
	for i := range 10_000 {
		_, _, found := s.Next(piece)
		if (found == TooLong) != (i == 1) {
			t.Fatalf("piece %d: found %d", i, found)
		}
	}
	if cap(s.line) > 8<<10 {
		t.Errorf("the splitter keeps %d bytes", cap(s.line))
	}
}

func TestResetForgetsTheStreamBefore(t *testing.T) {
	var s Splitter
	for _, before := range []string{"", "data: a\n", "data: a\ndata", "event: x\n", "data: a\r", strings.Repeat("x", 200), ": a\n\n"} {
		s.Reset(100)
		for p := []byte(before); len(p) > 0; {
			_, p, _ = s.Next(p)
		}
		s.Reset(100)
		if s.Cut() {
			t.Errorf("after %q and a reset something is cut", before)
		}
		data, rest, found := s.Next([]byte("\n\ufeffdata: b\n\n"))
		if found != Nothing { // the mark is not at the start
			t.Errorf("after %q: %q, rest %q", before, data, rest)
		}
		s.Reset(100)
		if data, rest, found = s.Next([]byte("\ufeffdata: b\n\n.")); found != Whole || string(data) != "b" || len(s.Type()) != 0 || string(rest) != "." {
			t.Errorf("after %q: event %q of type %q, rest %q", before, data, s.Type(), rest)
		}
	}
}

// reference reads a whole stream word by word as the standard has it (WHATWG
// HTML, 9.2.6, "Interpreting an event stream").
func reference(stream string) (events []string) {
	stream = strings.TrimPrefix(stream, "\ufeff") // what decoding as UTF-8 does
	var data, kind string
	for {
		// end-of-line = ( cr lf / cr / lf )
		at := strings.IndexAny(stream, "\r\n")
		if at < 0 {
			return events // "any pending data must be discarded"
		}
		line := stream[:at]
		if strings.HasPrefix(stream[at:], "\r\n") {
			at++
		}
		stream = stream[at+1:]
		field, value := line, ""
		switch colon := strings.IndexByte(line, ':'); {
		case line == "":
			if data != "" {
				events = append(events, kind+"|"+strings.TrimSuffix(data, "\n"))
			}
			data, kind = "", ""
			continue
		case colon == 0:
			continue
		case colon > 0:
			field, value = line[:colon], strings.TrimPrefix(line[colon+1:], " ")
		}
		switch field {
		case "event":
			kind = value
		case "data":
			data += value + "\n"
		case "error": // not of the standard
			if value != "" {
				events = append(events, errorTag+value)
			}
		}
	}
}

func FuzzSplitter(f *testing.F) {
	for _, seed := range []string{
		"data: {\"timestamp_ms\":1,\"gpu_id\":0,\"power_mw\":75000}\n\n", "data: a\r\n\r\n", ":\n\ndata\n\n", "data: a\ndata: b\n\ndata", "\x00\xff\n\n",
		"data: a\nerror: b\ndata: c\n\nerror: d", "\ufeffevent: x\rdata\r\r\ndata:b\r\n\r", "data: a\r\rdata: b\r\n\rtrace: 5\ndata\n\n", "\xef\xbb\n\n", "data: 123456789\ndata: 123456789\n\n",
	} {
		f.Add([]byte(seed), uint64(len(seed)), uint16(16))
	}
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64, most uint16) {
		random := rand.New(rand.NewPCG(seed, 0))
		pieces := func(int) int { return 1 + random.IntN(1+int(seed%64)) }
		want := said{Events: reference(string(stream))}
		got := split(stream, len(stream), whole)
		want.Cut = got.Cut
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("in one piece (-reference +got):\n%s", diff)
		}
		if diff := cmp.Diff(want, split(stream, len(stream), pieces)); diff != "" {
			t.Errorf("in pieces (-reference +got):\n%s", diff)
		}
		// With a bound, too, the pieces make no difference.
		want = split(stream, int(most), whole)
		if diff := cmp.Diff(want, split(stream, int(most), pieces)); diff != "" {
			t.Errorf("in pieces with a bound of %d (-whole +pieces):\n%s", most, diff)
		}
	})
}

func TestSplittingDoesNotAllocate(t *testing.T) {
	var s Splitter
	s.Reset(1 << 20)
	stream := []byte(benchEvent + "event: message\ndata: a\ndata: b\n\n: comment\r\n\r\n" + benchEvent)
	if allocs := testing.AllocsPerRun(100, func() {
		for at := 0; at < len(stream); at += 50 {
			for p := stream[at:min(at+50, len(stream))]; len(p) > 0; {
				_, p, _ = s.Next(p)
			}
		}
	}); allocs != 0 {
		t.Errorf("%v allocations for a stream, want 0", allocs)
	}
}

// benchEvent is as long as those of vLLM.
var benchEvent = "data: " + strings.Repeat("x", 310) + "\n\n"

func BenchmarkSplit(b *testing.B) {
	for _, test := range []struct{ name, event string }{
		{"LF", benchEvent},
		{"CRLF", strings.ReplaceAll(benchEvent, "\n", "\r\n")},
		{"CR", strings.ReplaceAll(benchEvent, "\n", "\r")},
		{"named", "event: message\nid: 7\n" + benchEvent},
		{"short", "data: a\n\n"},
	} {
		for _, perPiece := range []int{1, 50} {
			b.Run(fmt.Sprintf("%s/%d a piece", test.name, perPiece), func(b *testing.B) {
				var s Splitter
				s.Reset(1 << 20)
				piece := []byte(strings.Repeat(test.event, perPiece))
				b.ReportAllocs()
				b.SetBytes(int64(len(piece)))
				for b.Loop() {
					events := 0
					for p := piece; len(p) > 0; {
						var found Found
						if _, p, found = s.Next(p); found == Whole {
							events++
						}
					}
					if events != perPiece {
						b.Fatalf("%d events, want %d", events, perPiece)
					}
				}
			})
		}
	}
}
