package sim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/backoff"
)

const (
	maxHeadBytes = 64 << 10
	maxBodyBytes = 8 << 20
	// writeTimeout bounds how long an answer (not a stream) waits for its reader.
	writeTimeout = 10 * time.Second
)

// front is a stand-in's socket: it listens, reads HTTP/1.1 requests and hands
// them over one by one for each connection. net/http's server would do, but for
// the ways in which a stand-in must be able to fail: dying with connections
// reset, ending a body halfway, and writing to a stream without ever waiting.
type front struct {
	network string
	headers headerLines
	handle  func(ctx context.Context, c *conn, req *http.Request)

	mu      sync.Mutex
	address string // the one in use, once opened
	ln      net.Listener
	conns   map[*conn]struct{}
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// headerLines are the lines of an answer's head as a server writes them, in its
// order and without their ends; more are those of this answer alone.
type headerLines func(status int, contentType string, length int, more []string) []string

// dateLine is a header that all servers write.
func dateLine() string { return "date: " + time.Now().UTC().Format(http.TimeFormat) }

// newFront checks listen: "host:port" or "unix:/path".
func newFront(listen string, headers headerLines, handle func(context.Context, *conn, *http.Request)) (*front, error) {
	f := &front{network: "tcp", address: listen, headers: headers, handle: handle, conns: map[*conn]struct{}{}}
	if path, ok := strings.CutPrefix(listen, "unix:"); ok {
		f.network, f.address = "unix", path
	}
	if f.address == "" {
		return nil, fmt.Errorf(`listen address %q: need "host:port" or "unix:/path/to.sock"`, listen)
	}
	return f, nil
}

// open listens until shut, again at the same address after one.
func (f *front) open(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ln != nil {
		return errors.New("already listening")
	}
	if f.network == "unix" {
		// A daemon that died has left its socket behind.
		if err := removeSocket(f.address); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	ln, err := (&net.ListenConfig{}).Listen(ctx, f.network, f.address)
	if err != nil {
		cancel()
		return fmt.Errorf("simulated server: %w", err)
	}
	f.ln, f.cancel, f.address = ln, cancel, ln.Addr().String()
	f.wg.Go(func() { f.accept(ctx, ln) })
	return nil
}

func removeSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("listen at %s: there is a file that is no socket", path)
	}
	return os.Remove(path)
}

// shut stops listening, resets all connections, and waits for their goroutines.
func (f *front) shut() {
	f.mu.Lock()
	if f.ln == nil {
		f.mu.Unlock()
		return
	}
	f.cancel()
	_ = f.ln.Close() // it cannot be closed twice, and has nothing to lose
	f.ln = nil
	for c := range f.conns {
		c.reset()
	}
	f.mu.Unlock()
	f.wg.Wait()
}

func (f *front) addr() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.address
}

func (f *front) accept(ctx context.Context, ln net.Listener) {
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			// Out of descriptors, most likely: others' connections will end.
			if backoff.Sleep(ctx, 5*time.Millisecond) != nil {
				return
			}
			continue
		}
		c, err := newConn(nc, f.headers)
		if err != nil {
			_ = nc.Close()
			continue
		}
		f.mu.Lock()
		if ctx.Err() != nil {
			f.mu.Unlock()
			c.reset()
			return
		}
		f.conns[c] = struct{}{}
		f.wg.Go(func() { f.serve(ctx, c) })
		f.mu.Unlock()
	}
}

func (f *front) serve(ctx context.Context, c *conn) {
	defer func() {
		f.mu.Lock()
		delete(f.conns, c)
		f.mu.Unlock()
		if ctx.Err() != nil { // dead, and not in order
			c.reset()
		}
		_ = c.Close()
	}()
	for ctx.Err() == nil {
		c.limit.N = maxHeadBytes
		req, err := http.ReadRequest(c.r)
		if err != nil {
			switch {
			case c.limit.N <= 0:
				c.refuse(http.StatusRequestHeaderFieldsTooLarge, "request head is too long")
			case !errors.Is(err, io.EOF) && !isNetError(err):
				c.refuse(http.StatusBadRequest, "malformed request")
			}
			return
		}
		c.limit.N = maxBodyBytes + 1
		c.head, c.last = req.Method == http.MethodHead, req.Close
		if req.Header.Get("Expect") == "100-continue" {
			if _, err := c.Write([]byte("HTTP/1.1 100 Continue\r\n\r\n")); err != nil {
				return
			}
		}
		f.handle(ctx, c, req)
		// What the handler left of the body stands before the next request.
		if _, err := io.Copy(io.Discard, req.Body); err != nil || c.last {
			return
		}
		c.limit.N = maxHeadBytes
	}
}

func isNetError(err error) bool {
	_, ok := errors.AsType[net.Error](err)
	return ok || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrUnexpectedEOF)
}

// conn is one connection. Its goroutine reads; what writes is a matter of whose
// turn it is: the goroutine for answers, another one for a stream.
type conn struct {
	net.Conn
	limit *io.LimitedReader
	r     *bufio.Reader
	raw   syscall.RawConn
	head  bool // the request is a HEAD: the answer has no body
	last  bool // close after the answer

	headers headerLines
}

func newConn(nc net.Conn, headers headerLines) (*conn, error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("%T has no file descriptor", nc)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	limit := &io.LimitedReader{R: nc}
	return &conn{Conn: nc, limit: limit, r: bufio.NewReaderSize(limit, 4<<10), raw: raw, headers: headers}, nil
}

// reset closes the connection as the kernel does for a process that died with
// data unread: the peer reads an error, no end of file. It may be called from any
// goroutine, and twice.
func (c *conn) reset() {
	if tc, ok := c.Conn.(*net.TCPConn); ok {
		_ = tc.SetLinger(0)
	}
	_ = c.Close()
}

// waitReadable blocks until the client sends (or pipelined) the first byte of
// its next request, which is true, or has gone.
func (c *conn) waitReadable() bool {
	c.limit.N = maxHeadBytes
	_, err := c.r.Peek(1)
	return err == nil
}

// readBody returns the request's body; false (and the client has been answered)
// if there is too much of it or the connection broke.
func (c *conn) readBody(req *http.Request) ([]byte, bool) {
	body, err := io.ReadAll(io.LimitReader(req.Body, maxBodyBytes+1))
	switch {
	case len(body) > maxBodyBytes || c.limit.N <= 0:
		c.refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf("body is longer than %d bytes", maxBodyBytes))
		return nil, false
	case err != nil:
		c.last = true
		return nil, false
	}
	return body, true
}

// answer writes a whole answer. more are further lines of its head, without their
// ends. A client that has gone is noticed by the next read.
func (c *conn) answer(status int, contentType string, body []byte, more ...string) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	for _, line := range c.headers(status, contentType, len(body), more) {
		b.WriteString(line + "\r\n")
	}
	if c.last {
		b.WriteString("connection: close\r\n")
	}
	b.WriteString("\r\n")
	if !c.head {
		b.Write(body)
	}
	_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := c.Write(b.Bytes()); err != nil {
		c.last = true
	}
	_ = c.SetWriteDeadline(time.Time{})
}

func (c *conn) answerJSON(status int, v any, more ...string) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"internal"}`)
	}
	c.answer(status, "application/json", body, more...)
}

func (c *conn) answerError(status int, message string, more ...string) {
	c.answerJSON(status, map[string]string{"error": message}, more...)
}

// refuse answers what cannot be read any further and ends the connection. Closed
// with data unread it would be reset, and the answer might be lost: what still
// comes is dropped, for a while.
func (c *conn) refuse(status int, message string) {
	c.last = true
	c.answerError(status, message)
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		_, _ = io.CopyN(io.Discard, c.Conn, maxBodyBytes) // ends with the client, or the deadline
	}
	_ = c.Close()
}

// startStream writes the head of an answer in chunks of unknown number.
func (c *conn) startStream(lines ...string) error {
	_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n"+strings.Join(lines, "\r\n")+"\r\ntransfer-encoding: chunked\r\n\r\n")
	_ = c.SetWriteDeadline(time.Time{})
	return err
}

// appendChunk appends one HTTP chunk of the given payload to b.
func appendChunk(b, payload []byte) []byte {
	b = strconv.AppendUint(b, uint64(len(payload)), 16)
	b = append(b, "\r\n"...)
	b = append(b, payload...)
	return append(b, "\r\n"...)
}

// lastChunk ends a chunked body.
const lastChunk = "0\r\n\r\n"

// maxBacklog bounds what is kept for a client that does not read.
const maxBacklog = 256 << 10

var (
	errBacklog = errors.New("the client does not read")
	errGone    = errors.New("the connection is closed")
)

// sink writes to a connection without ever waiting: what the kernel does not
// take is kept, up to maxBacklog, and goes out first the next time.
type sink struct {
	c *conn
	// write1 is sink.try as a func value, made once: a closure for each write
	// would be garbage for each write.
	write1 func(fd uintptr) bool
	out    []byte
	n      int
	errno  error

	backlog []byte
	err     error
}

func newSink(c *conn) *sink {
	s := &sink{c: c}
	s.write1 = s.try
	return s
}

func (s *sink) try(fd uintptr) bool {
	for {
		s.n, s.errno = syscall.Write(int(fd), s.out)
		if !errors.Is(s.errno, syscall.EINTR) {
			return true // never wait for the socket to become writable
		}
	}
}

// write sends p or keeps what does not fit. An error is final: the connection
// is of no more use.
func (s *sink) write(p []byte) error {
	if s.err != nil {
		return s.err
	}
	if len(s.backlog) > 0 {
		s.backlog = append(s.backlog, p...)
		return s.flush()
	}
	n := s.send(p)
	if n < len(p) && s.err == nil {
		s.backlog = append(s.backlog, p[n:]...)
	}
	return s.err
}

// flush tries to send what was kept.
func (s *sink) flush() error {
	if s.err != nil || len(s.backlog) == 0 {
		return s.err
	}
	n := s.send(s.backlog)
	s.backlog = s.backlog[:copy(s.backlog, s.backlog[n:])]
	if len(s.backlog) > maxBacklog && s.err == nil {
		s.err = errBacklog
	}
	return s.err
}

// pending says whether something is still to be sent.
func (s *sink) pending() bool { return s.err == nil && len(s.backlog) > 0 }

func (s *sink) send(p []byte) int {
	s.out, s.n, s.errno = p, 0, nil
	if err := s.c.raw.Write(s.write1); err != nil {
		s.err = errGone
		return 0
	}
	s.out = nil
	if s.errno != nil {
		// EAGAIN, told without the allocation and search of errors.Is.
		if s.errno != error(syscall.EAGAIN) { //nolint:errorlint // straight from the system call, never wrapped
			s.err = s.errno
		}
		return 0
	}
	return s.n
}
