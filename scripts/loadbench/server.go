//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// gapDigits is the width of the gap in an event's id, in nanoseconds.
const gapDigits = 12

// server answers chat completions with a token per interval and stream, each in
// an event and a write of its own. The streams are spread evenly over the
// interval, and one goroutine writes them all, from bytes prepared before. The
// clock is read directly before each write, and the time since the stream's
// write before is in the event's id, so that a client can tell what it should
// have measured.
type server struct {
	streams  int
	interval time.Duration
	stagger  bool
	tick     time.Duration
	events   [][]byte // by number of tokens so far
	first    []byte   // the response's head and the event with the role
	epoch    time.Time

	mu      sync.Mutex // one write at a time is under it
	slots   []slot
	free    []int
	tracked map[uint64][]int64 // gap by token, of the requests that name a user
	truth   truth
}

// slot is a place in the interval, which belongs to a connection.
type slot struct {
	request *request
	fd      int
	started bool // a request ran here before
}

// request is an answer under way.
type request struct {
	tokens int // to be written
	sent   int // -1 before the head
	lastNs int64
	gaps   []int64 // by token; nil: not asked for
	done   chan struct{}
}

// truth is what really happened. Its times are directly before each write.
type truth struct {
	Samples int64 `json:"samples"` // gaps between two tokens
	SumNs   int64 `json:"sum_ns"`  // of them
	Slips   int64 `json:"slips"`   // times the server could not keep up
	Blocked int64 `json:"blocked"` // writes that the kernel did not take whole
	CPUNs   int64 `json:"cpu_ns"`
	AtNs    int64 `json:"at_ns"` // when the truth was told
}

func serve(ctx context.Context, o options, out io.Writer) error {
	if o.streams < 1 || o.interval < time.Millisecond || o.tokens < 2 {
		return fmt.Errorf("streams %d, interval %v, tokens %d: want at least 1, 1ms, 2", o.streams, o.interval, o.tokens)
	}
	// The collector and its helpers would come between the clock and the write.
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(2) // one for the writer, which never lets go of it
	s := &server{
		streams: o.streams, interval: o.interval, stagger: o.stagger, tick: o.tick, epoch: time.Now(), slots: make([]slot, o.streams),
		tracked: make(map[uint64][]int64),
	}
	s.render(o.tokens)
	for i := range s.slots {
		s.free = append(s.free, i)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "http://%s\n", listener.Addr())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	var writer sync.WaitGroup
	writer.Go(func() { s.write(ctx) })
	defer writer.Wait()
	defer cancel()
	for {
		conn, err := listener.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		// The process ends with its connections; nobody waits for them.
		go func() {
			if err := s.serveConn(conn); err != nil {
				fmt.Fprintln(out, "connection:", err)
			}
		}()
	}
}

// render prepares all events.
func (s *server) render(tokens int) {
	const head = `data: {"id":"chatcmpl-%0*d","object":"chat.completion.chunk","created":1750000000,"model":"bench","choices":[`
	event := func(sent int, choice string) []byte {
		data := fmt.Appendf(nil, head+choice+`],"usage":{"prompt_tokens":17,"total_tokens":%d,"completion_tokens":%d}}`+"\n\n",
			gapDigits, 0, 17+sent, sent)
		return fmt.Appendf(nil, "%x\r\n%s\r\n", len(data), data)
	}
	s.first = append([]byte("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"),
		event(0, `{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}`)...)
	s.events = make([][]byte, tokens+1)
	for sent := 1; sent <= tokens; sent++ {
		s.events[sent] = event(sent, `{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}`)
	}
}

// final are the events after the last token: one with the reason of the end and
// the usage alone, as vLLM sends them, then the end of the response.
func final(sent int) [][]byte {
	usage := fmt.Appendf(nil, `data: {"id":"chatcmpl-%0*d","object":"chat.completion.chunk","created":1750000000,"model":"bench",`+
		`"choices":[],"usage":{"prompt_tokens":17,"total_tokens":%d,"completion_tokens":%d}}`+"\n\n", gapDigits, 0, 17+sent, sent)
	return [][]byte{
		fmt.Appendf(nil, "%x\r\n%s\r\n", len(usage), usage),
		[]byte("e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"),
	}
}

// nowNs is the monotonic time.
func (s *server) nowNs() int64 { return int64(time.Since(s.epoch)) }

// spin is how long before a write the writer no longer sleeps, for it would wake
// too late.
const spin = 60 * time.Microsecond

// write writes tokens, slot by slot, each when it is due.
func (s *server) write(ctx context.Context) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // without, it only wakes later
	start := s.nowNs()
	interval := int64(s.interval)
	for round := int64(0); ctx.Err() == nil; round++ {
		for i := range s.slots {
			due := start + round*interval + int64(i)*interval/int64(s.streams)
			if s.tick > 0 {
				due = (due/int64(s.tick) + 1) * int64(s.tick)
			}
			now := s.nowNs()
			if late := now - due; late > interval/2 {
				start += late // what is lost is lost
				s.mu.Lock()
				s.truth.Slips++
				s.mu.Unlock()
			}
			if wait := due - now - int64(spin); wait > 0 {
				sleep := unix.NsecToTimespec(wait)
				_ = unix.Nanosleep(&sleep, nil) // one that is cut short is followed by waiting below
			}
			for s.nowNs() < due {
				runtime.Gosched()
			}
			s.mu.Lock()
			s.writeSlot(i)
			s.mu.Unlock()
		}
	}
}

// writeSlot writes the next event of a slot's request, if it has one.
func (s *server) writeSlot(i int) {
	r := s.slots[i].request
	if r == nil {
		return
	}
	fd := s.slots[i].fd
	if r.sent < 0 {
		r.sent = 0
		s.send(i, fd, s.first)
		return
	}
	r.sent++
	event := s.events[r.sent]
	id := event[idOffset(event):][:gapDigits]
	for at := range id {
		id[at] = '0'
	}
	now := s.nowNs()
	if r.sent > 1 {
		digits := strconv.AppendInt(make([]byte, 0, 24), now-r.lastNs, 10)
		if len(digits) <= gapDigits {
			copy(id[gapDigits-len(digits):], digits)
		}
	}
	if !s.send(i, fd, event) {
		return
	}
	if r.sent > 1 {
		gap := now - r.lastNs
		s.truth.Samples++
		s.truth.SumNs += gap
		if r.gaps != nil {
			r.gaps[r.sent] = gap
		}
	}
	r.lastNs = now
	if r.sent < r.tokens {
		return
	}
	for _, event := range final(r.sent) {
		if !s.send(i, fd, event) {
			return
		}
	}
	s.slots[i].request = nil
	close(r.done)
}

// idOffset is where an event's gap stands.
func idOffset(event []byte) int {
	for at := range event {
		if event[at] == '-' {
			return at + 1
		}
	}
	return 0
}

// send writes to a socket without a word to the scheduler. A request whose
// client has gone ends.
func (s *server) send(i, fd int, event []byte) bool {
	n, _, errno := syscall.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&event[0])), uintptr(len(event)))
	if errno == 0 && int(n) == len(event) {
		return true
	}
	if errno == 0 || errno == unix.EAGAIN { // half an event is of no use to anyone
		s.truth.Blocked++
	}
	r := s.slots[i].request
	s.slots[i].request = nil
	close(r.done)
	return false
}

// serveConn answers the requests of a connection, which keeps its slot.
func (s *server) serveConn(conn net.Conn) error {
	defer conn.Close()
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return fmt.Errorf("%T is not a TCP connection", conn)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var fd int
	if err := raw.Control(func(f uintptr) { fd = int(f) }); err != nil {
		return err
	}
	slot := -1
	defer func() {
		if slot >= 0 {
			s.mu.Lock()
			s.free = append(s.free, slot)
			s.mu.Unlock()
		}
	}()
	reader := bufio.NewReaderSize(conn, 4<<10)
	for {
		head, err := http.ReadRequest(reader)
		if err != nil {
			return nil // gone, or not worth an answer
		}
		body, err := io.ReadAll(io.LimitReader(head.Body, 1<<20))
		if err != nil {
			return err
		}
		switch head.URL.Path {
		case "/truth":
			err = s.tellTruth(conn)
		case "/gaps":
			err = s.tellGaps(conn)
		default:
			err = s.complete(body, &slot, fd)
		}
		if err != nil {
			return err
		}
	}
}

// complete has the writer write an answer, and waits for it.
func (s *server) complete(body []byte, slotOf *int, fd int) error {
	var asked struct {
		Tokens int    `json:"max_completion_tokens"`
		User   string `json:"user"`
	}
	if err := json.Unmarshal(body, &asked); err != nil {
		return err
	}
	if asked.Tokens < 2 || asked.Tokens >= len(s.events) {
		return fmt.Errorf("max_completion_tokens is %d, want 2 to %d", asked.Tokens, len(s.events)-1)
	}
	r := &request{tokens: asked.Tokens, sent: -1, done: make(chan struct{})}
	s.mu.Lock()
	if *slotOf < 0 {
		if len(s.free) == 0 {
			s.mu.Unlock()
			return errors.New("more requests than streams")
		}
		*slotOf = s.free[0]
		s.free = s.free[1:]
	}
	i := *slotOf
	if s.stagger && !s.slots[i].started {
		// The first answers have all lengths, so that their ends do not come together
		// then or later. The step has no common divisor with powers of two.
		s.slots[i].started = true
		r.tokens = 2 + i*7919%(asked.Tokens-1)
	}
	if asked.User != "" {
		number, err := strconv.ParseUint(asked.User, 10, 64)
		if err != nil {
			s.mu.Unlock()
			return err
		}
		r.gaps = make([]int64, r.tokens+1)
		s.tracked[number] = r.gaps
	}
	s.slots[i].request, s.slots[i].fd = r, fd
	s.mu.Unlock()
	<-r.done
	return nil
}

func (s *server) tellTruth(conn net.Conn) error {
	cpu, err := cpuTime()
	if err != nil {
		return err
	}
	s.mu.Lock()
	t := s.truth
	s.mu.Unlock()
	t.CPUNs, t.AtNs = int64(cpu), s.nowNs()
	body, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return answer(conn, body)
}

// tellGaps sends all gaps: for each request its number, its count of tokens and
// the gap before each token, from the 0th on.
func (s *server) tellGaps(conn net.Conn) error {
	s.mu.Lock()
	var body []byte
	for number, gaps := range s.tracked {
		body = binary.LittleEndian.AppendUint64(body, number)
		body = binary.LittleEndian.AppendUint64(body, uint64(len(gaps)))
		for _, gap := range gaps {
			body = binary.LittleEndian.AppendUint64(body, uint64(gap))
		}
	}
	s.mu.Unlock()
	return answer(conn, body)
}

func answer(conn net.Conn, body []byte) error {
	_, err := conn.Write(append(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n", len(body)), body...))
	return err
}
