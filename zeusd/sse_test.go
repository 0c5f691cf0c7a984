package zeusd

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// readEvents reads a stream to its end: the events, how many were too long,
// whether one was cut off.
func readEvents(r io.Reader) (events []string, tooLong int, cut bool, err error) {
	e := newEventReader(r, time.Now)
	for {
		data, _, err := e.next()
		switch {
		case errors.Is(err, errEventTooLong):
			tooLong++
		case err != nil:
			return events, tooLong, e.cut(), err
		default:
			events = append(events, string(data))
		}
	}
}

func TestEventReader(t *testing.T) {
	long := strings.Repeat("x", maxEventBytes)
	for _, c := range []struct {
		name, stream string
		want         []string
		tooLong      int
		cut          bool
	}{
		{name: "nothing"},
		{name: "one", stream: "data: a\n\n", want: []string{"a"}},
		{name: "no blank, CR LF", stream: "data:a\r\n\r\ndata:  b\r\n\r\n", want: []string{"a", " b"}},
		{name: "several lines", stream: "data: a\ndata:\ndata: b\n\n", want: []string{"a\n\nb"}},
		{name: "empty data", stream: "data\ndata:\n\ndata:\n\ndata:  \n\ndata: a\n\n", want: []string{"a"}},
		{name: "CR alone", stream: "\ufeffdata: a\r\rdata: b\rdata: c\r\rdata: d\r\n\r\n", want: []string{"a", "b\nc", "d"}},
		{name: "comments and other fields", stream: ": hi\nevent: e\nid: 1\ndata: a\nretry: 5\n\n:\n\n\n", want: []string{"a"}},
		{name: "cut in a line", stream: "data: a\n\ndata: b", want: []string{"a"}, cut: true},
		{name: "cut before the empty line", stream: "data: a\n\ndata: b\n", want: []string{"a"}, cut: true},
		{name: "longest", stream: "data: " + long[:maxEventBytes-8] + "\n\n", want: []string{long[:maxEventBytes-8]}},
		{name: "line too long", stream: "data: a\ndata: " + long + long + "\ndata: c\n\ndata: b\n\n", want: []string{"b"}, tooLong: 1},
		{name: "too many lines", stream: strings.Repeat("data: "+long[:1<<15]+"\n", 9) + "\ndata: b\n\n", want: []string{"b"}, tooLong: 1},
		{name: "endless line", stream: long + long + long, tooLong: 1, cut: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, r := range map[string]io.Reader{
				"at once":     strings.NewReader(c.stream),
				"in halves":   iotest.HalfReader(strings.NewReader(c.stream)),
				"with error":  iotest.DataErrReader(strings.NewReader(c.stream)),
				"in one byte": iotest.OneByteReader(strings.NewReader(c.stream)),
			} {
				events, tooLong, cut, err := readEvents(r)
				if diff := cmp.Diff(c.want, events); diff != "" || tooLong != c.tooLong || cut != c.cut || !errors.Is(err, io.EOF) {
					t.Errorf("%s: %d too long, cut %v, %v; events (-want +got):\n%.300s", name, tooLong, cut, err, diff)
				}
			}
		})
	}
}

// The stamp is that of the read that completed the event, not of its parsing.
func TestEventReaderStampsReads(t *testing.T) {
	stamp := time.Now()
	now := func() time.Time {
		stamp = stamp.Add(time.Second)
		return stamp
	}
	e := newEventReader(io.MultiReader(strings.NewReader("data: a\n\ndata: b\n\ndata"), strings.NewReader(": c\n"), strings.NewReader("\n")), now)
	begin := stamp
	for _, want := range []time.Duration{1, 1, 3} {
		if _, at, err := e.next(); err != nil || at.Sub(begin) != want*time.Second {
			t.Errorf("%v %v, want %ds", at.Sub(begin), err, want)
		}
	}
}

func FuzzEventReader(f *testing.F) {
	for _, seed := range []string{
		"data: {\"timestamp_ms\":1,\"gpu_id\":0,\"power_mw\":75000}\n\n", "data: a\r\n\r\n", ":\n\ndata\n\n", "data: a\ndata: b\n\ndata", "\x00\xff\n\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		// However the bytes are cut into reads, the events are the same.
		want, wantLong, wantCut, _ := readEvents(bytes.NewReader(raw))
		got, long, cut, _ := readEvents(iotest.OneByteReader(bytes.NewReader(raw)))
		if diff := cmp.Diff(want, got); diff != "" || long != wantLong || cut != wantCut {
			t.Errorf("too long: %d, %d; cut: %v, %v; events (-whole +byte by byte):\n%s", wantLong, long, wantCut, cut, diff)
		}
	})
}

// endless repeats a chunk n times.
type endless struct {
	chunk []byte
	n     int
}

func (e *endless) Read(p []byte) (int, error) {
	if e.n == 0 {
		return 0, io.EOF
	}
	e.n--
	return copy(p, e.chunk), nil
}

// BenchmarkEvents reads and parses events as daemons send them, one to a read.
func BenchmarkEvents(b *testing.B) {
	for _, c := range []struct {
		name string
		kind Kind
		data string
	}{
		{"gpu05", GPU, `{"timestamp_ms":1762000000000,"gpu_id":3,"power_mw":375123}`},
		{"gpu04x8", GPU, `{"timestamp_ms":1762000000000,"power_mw":{"0":375123,"1":375124,"2":375125,"3":375126,"4":375127,"5":375128,"6":375129,"7":375130}}`},
		{"cpu05", CPU, `{"timestamp_ms":1762000000000,"cpu_id":0,"cpu_mw":85000,"dram_mw":12000}`},
		{"odd", GPU, `{"timestamp_ms":1762000000000,"gpu_id":3,"power_mw":375123,"new":1}`},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			e := newEventReader(&endless{[]byte("data: " + c.data + "\n\n"), math.MaxInt}, time.Now)
			var event powerEvent
			for b.Loop() {
				data, _, err := e.next()
				if err != nil {
					break
				}
				if err := event.parse(c.kind, data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// encoding/json takes 11 pieces of memory for an event, half a kilobyte: at 20 events
// a second from each of 64 GPUs that, with all its reading, is 0.2 % of a core, and a
// reader of our own was 220 lines.
func TestEventsAllocateLittle(t *testing.T) {
	const most = 12
	chunk := []byte("data: {\"timestamp_ms\":1762000000000,\"gpu_id\":3,\"power_mw\":375123}\n\n")
	e := newEventReader(&endless{chunk, 1 << 20}, time.Now)
	var event powerEvent
	allocs := testing.AllocsPerRun(1000, func() {
		data, _, err := e.next()
		if err == nil {
			err = event.parse(GPU, data)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	if allocs > most {
		t.Errorf("%v allocations an event, want at most %d", allocs, most)
	}
}
