package completion

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/baseurl"
	"github.com/g2g-agent/g2g-agent/internal/credential"
)

const (
	connectTimeout = 2 * time.Second
	// maxEventBytes bounds an event; none is nearly as long.
	maxEventBytes = 1 << 20
	// maxConnecting is the number of connections opened at the same time, so that
	// thousands of streams don't overflow the server's queue.
	maxConnecting = 64
)

// Config says where and how streaming completions are made.
type Config struct {
	// BaseURL is the server's address, http or https, without /v1. Proxies are
	// not used.
	BaseURL string
	// Credential is the server's API key; nil for none. After a refusal it is looked
	// for anew.
	Credential *credential.Credential
	// IdleTimeout fails a request when the server sends nothing for that long; 0
	// is 60 s.
	IdleTimeout time.Duration
	// RequestTimeout fails a request that takes longer in all; 0 is 300 s.
	RequestTimeout time.Duration
	// TLS shapes https connections; nil is Go's default.
	TLS *tls.Config
}

// Client makes streaming chat completions on one server. It is what its
// [Stream]s share and holds no connection of its own.
type Client struct {
	cfg        Config
	epoch      time.Time
	address    string      // host:port
	tls        *tls.Config // nil for http
	head       []byte      // of every request, up to the fields that vary
	dialer     net.Dialer
	connecting chan struct{}
	receivers  sync.Pool // of *receiver: few are in use at a time, and they stay in the cache
	collector  collector
}

// NewClient checks cfg and fills in its defaults.
func NewClient(cfg Config) (*Client, error) {
	base, err := baseurl.Parse(cfg.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("the base URL of a vLLM server %w", err)
	}
	if err := cfg.Credential.Check(); err != nil {
		return nil, fmt.Errorf("vLLM's API key: %w", err)
	}
	for _, d := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{
		{&cfg.IdleTimeout, 60 * time.Second}, {&cfg.RequestTimeout, 300 * time.Second},
	} {
		if *d.value <= 0 {
			*d.value = d.fallback
		}
	}
	port := base.Port()
	c := &Client{cfg: cfg, epoch: time.Now(), connecting: make(chan struct{}, maxConnecting)}
	if base.Scheme == "https" {
		c.tls = cfg.TLS.Clone()
		if c.tls == nil {
			c.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		if c.tls.ServerName == "" {
			c.tls.ServerName = base.Hostname()
		}
		c.tls.NextProtos = []string{"http/1.1"}
	}
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[base.Scheme]
	}
	c.address = net.JoinHostPort(base.Hostname(), port)
	// A peer that is gone without a word is noticed within seconds, and one that
	// is back at the next probe.
	c.dialer.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 5}
	if hasReceiveTimes && c.tls == nil {
		c.dialer.Control = func(_, _ string, raw syscall.RawConn) error { return enableReceiveTimes(raw) }
	}
	c.receivers.New = func() any { return newReceiver() }
	path := base.EscapedPath() + "/v1/chat/completions"
	c.head = fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: g2g-agent\r\n"+
		"Accept: text/event-stream\r\nContent-Type: application/json\r\n", path, base.Host)
	return c, nil
}

// Epoch is the time that all times of the streams are given after, with its
// monotonic reading: that of the call of [NewClient].
func (c *Client) Epoch() time.Time { return c.epoch }

// Read is what one read from the server's connection brought.
type Read struct {
	// SentAt is when the request was about to be sent, At when the last byte of
	// this read came: after the epoch, on the monotonic clock.
	SentAt, At time.Duration
	// Stamp tells where At comes from.
	Stamp StampKind
	// Lag is how long after At the read returned, which on purpose may be a
	// millisecond; 0 without a kernel stamp.
	Lag time.Duration
	// Chunks are the events that this read completed, in their order.
	Chunks []Chunk
}

// Stream makes one completion after the other on a connection of its own. It
// belongs to one goroutine.
type Stream struct {
	client *Client
	// One of the two is there while connected: a socket that is read with kernel
	// stamps, or a connection that Go reads.
	socket   *socket
	conn     net.Conn
	connects int
	clock    stampClock
	decoder  responseDecoder
	onReady  func(fd int) bool // the method value of ready, made once
	buffer   []byte            // for reads without the kernel's stamps

	// Of the request under way. While the socket awaits its response, they belong
	// to who holds the socket's mutex.
	onRead   func(*Read)
	read     Read
	received bool          // whether any byte of the response came
	last     time.Duration // when the latest bytes came
	finished bool
	err      error
}

// NewStream returns a stream without a connection; [Stream.Complete] opens it.
// A stream must be closed after use: a goroutine reads for all of the client's
// streams while any of them has a connection.
func (c *Client) NewStream() *Stream {
	s := &Stream{client: c}
	s.onReady = s.ready
	s.clock.read = func() (realNs, monoNs int64) {
		now := time.Now()
		return now.UnixNano(), int64(now.Sub(c.epoch))
	}
	return s
}

// Connects is the number of connections that the stream has opened so far.
func (s *Stream) Connects() int { return s.connects }

// Close closes the connection, if there is one. The stream may be used again.
func (s *Stream) Close() error {
	var err error
	switch {
	case s.socket != nil:
		err = s.socket.close()
	case s.conn != nil:
		err = s.conn.Close()
	}
	s.conn, s.socket = nil, nil
	return err
}

// Complete sends body, a chat completion request in JSON that asks for a
// stream, and calls onRead for each read that brings events, before it returns
// and never twice at a time, but not in the caller's goroutine: other streams
// wait meanwhile, so it must not block. What onRead is given is valid during the
// call only.
//
// It returns when the response has ended, with nil if it did so as it should. It
// returns ctx's error when ctx ends, and else a [*Error]. The connection
// is kept for the next call where the protocol allows; one that the server has
// closed meanwhile is opened anew without that being a failure. A request whose key
// was refused is sent once more if there is a new key.
func (s *Stream) Complete(ctx context.Context, body []byte, onRead func(*Read)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	end := s.now() + s.client.cfg.RequestTimeout
	if s.socket != nil && !s.socket.idle() {
		_ = s.Close()
	}
	for renewed := false; ; {
		reused := s.conn != nil || s.socket != nil
		if !reused {
			if err := s.connect(ctx, end); err != nil {
				return err
			}
		}
		key := s.client.cfg.Credential.Key()
		err := s.exchange(ctx, body, key, onRead, end)
		ctxErr := ctx.Err() // when it ended, the connection was closed
		if !s.finished || !s.decoder.keepAlive || ctxErr != nil {
			_ = s.Close()
		}
		if err != nil && ctxErr != nil {
			return ctxErr
		}
		var failure *Error
		switch {
		case !errors.As(err, &failure):
			return err
		case reused && !s.received && failure.Kind == KindCut:
			// Closed by the server while it was idle.
		case renewed || !credential.Refuses(failure.Status):
			return err
		default:
			if renewed, failure.Detail = s.client.cfg.Credential.RenewAfter(key, failure.Detail); !renewed {
				return err
			}
		}
	}
}

// now is the time after the epoch.
func (s *Stream) now() time.Duration { return time.Since(s.client.epoch) }

// connect opens the connection. Its time counts as part of the request's.
func (s *Stream) connect(ctx context.Context, end time.Duration) error {
	c := s.client
	select {
	case c.connecting <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.connecting }()
	dialCtx, cancel := context.WithTimeout(ctx, min(connectTimeout, end-s.now()))
	defer cancel()
	conn, err := c.dialer.DialContext(dialCtx, "tcp", c.address)
	if err == nil && c.tls != nil {
		secure := tls.Client(conn, c.tls)
		if err = secure.HandshakeContext(dialCtx); err != nil {
			_ = conn.Close()
		}
		conn = secure
	}
	if err != nil {
		if ctxErr := ctx.Err(); ctxErr != nil {
			return ctxErr
		}
		return &Error{Kind: KindConnect, Err: err}
	}
	s.connects++
	tcp, plain := conn.(*net.TCPConn)
	if !plain || !hasReceiveTimes {
		s.conn = conn
		return nil
	}
	if s.socket, err = c.collector.adopt(tcp); err != nil {
		_ = conn.Close()
		return &Error{Kind: KindConnect, Err: err}
	}
	return nil
}

// exchange sends the request, with a key unless that is empty, and reads the
// response. The decoder's keepAlive
// holds afterwards if the response came to its end.
func (s *Stream) exchange(ctx context.Context, body []byte, key string, onRead func(*Read), end time.Duration) error {
	s.decoder.reset(maxEventBytes)
	s.onRead, s.received, s.finished, s.err = onRead, false, false, nil
	s.read.SentAt = time.Duration(s.clock.calibrate())
	s.last = s.read.SentAt
	defer func() { s.onRead = nil }()
	head := make([]byte, 0, len(s.client.head)+len(key)+64)
	head = append(head, s.client.head...)
	if key != "" {
		head = append(head, "Authorization: Bearer "...)
		head = append(head, key...)
		head = append(head, "\r\n"...)
	}
	head = append(head, "Content-Length: "...)
	head = strconv.AppendInt(head, int64(len(body)), 10)
	head = append(head, "\r\n\r\n"...)
	if s.socket != nil {
		return s.exchangeStamped(ctx, net.Buffers{head, body}, end)
	}
	return s.exchangePlain(ctx, net.Buffers{head, body}, end)
}

// lost is the failure of a connection that a read or write failed on.
func (s *Stream) lost(err error, end time.Duration) error {
	switch {
	case !errors.Is(err, os.ErrDeadlineExceeded):
		return s.decoder.eof(err)
	case s.decoder.done:
		return s.decoder.eof(nil)
	case s.decoder.state == inRefusal:
		return s.decoder.refusal() // as far as it came
	case s.now() >= end:
		return &Error{Kind: KindTotalTimeout, Detail: fmt.Sprintf("not done after %v", s.client.cfg.RequestTimeout)}
	}
	return &Error{Kind: KindIdleTimeout, Detail: fmt.Sprintf("the server sent nothing for %v", s.client.cfg.IdleTimeout)}
}

const (
	// rereadAfter is how long to wait for the kernel's word that there is
	// something to read. The word of a reset that comes together with data can
	// be lost, because the socket is not read until it is empty.
	rereadAfter = time.Second
	// lingerAfterDone is how long to wait for the end of a response whose last
	// event came.
	lingerAfterDone = time.Second
)

// expiry is when silence or duration end the request.
func (s *Stream) expiry(end time.Duration) time.Duration {
	if s.decoder.done {
		return min(s.last+lingerAfterDone, end)
	}
	return min(s.last+s.client.cfg.IdleTimeout, end)
}

// exchangeStamped does the exchange on a socket with kernel stamps.
func (s *Stream) exchangeStamped(ctx context.Context, request net.Buffers, end time.Duration) error {
	defer s.socket.abandon()
	expiry := s.expiry(end)
	s.socket.await(s.onReady)
	if err := s.socket.write(ctx, s.client.epoch.Add(expiry), request); err != nil {
		s.socket.abandon()
		if s.finished { // refused before all of the request was sent
			return s.err
		}
		return s.lost(err, end)
	}
	timer := time.NewTimer(min(expiry-s.now(), rereadAfter))
	defer timer.Stop()
	for {
		select {
		case <-s.socket.finished:
			return s.err
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if s.socket.deliver() {
			continue
		}
		s.socket.lock()
		expiry = s.expiry(end)
		s.socket.unlock()
		if s.now() >= expiry {
			s.socket.abandon()
			if s.finished {
				return s.err
			}
			return s.lost(os.ErrDeadlineExceeded, end)
		}
		timer.Reset(min(expiry-s.now(), rereadAfter))
	}
}

// readsAtOnce bounds how long a server that sends faster than is read keeps the
// other streams, and the end of its own request, waiting.
const readsAtOnce = 16

// ready reads what the socket has. It tells whether the response is finished;
// otherwise it is called again when there is more.
func (s *Stream) ready(fd int) bool {
	r, _ := s.client.receivers.Get().(*receiver)
	s.decoder.template = &r.template
	defer func() {
		s.decoder.template = nil
		s.client.receivers.Put(r)
	}()
	for range readsAtOnce {
		data, stampNs, more, err := r.receive(fd)
		if err == errWouldBlock { //nolint:errorlint // never wrapped, and compared for every chunk
			return false
		}
		if s.took(data, stampNs, err); s.finished {
			return true
		}
		if !more {
			return false
		}
	}
	s.socket.readLater()
	return false
}

// exchangePlain does the exchange on a connection that Go reads.
func (s *Stream) exchangePlain(ctx context.Context, request net.Buffers, end time.Duration) error {
	conn := s.conn
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = conn.Close()
	})
	defer func() {
		if !stop() {
			<-closed
		}
	}()
	if err := conn.SetWriteDeadline(s.client.epoch.Add(s.expiry(end))); err != nil {
		return s.lost(err, end)
	}
	if _, err := request.WriteTo(conn); err != nil {
		return s.lost(err, end)
	}
	if s.buffer == nil {
		s.buffer = make([]byte, 16<<10)
	}
	for {
		if err := conn.SetReadDeadline(s.client.epoch.Add(s.expiry(end))); err != nil {
			return s.lost(err, end)
		}
		n, err := conn.Read(s.buffer)
		if n > 0 {
			s.took(s.buffer[:n], 0, nil)
		}
		switch {
		case s.finished:
			return s.err
		case errors.Is(err, os.ErrDeadlineExceeded):
			return s.lost(err, end)
		case err != nil:
			s.took(nil, 0, err)
			return s.err
		}
	}
}

// took deals with the outcome of a read: bytes, the end of the stream (no bytes)
// or an error.
func (s *Stream) took(data []byte, stampNs int64, err error) {
	if len(data) == 0 {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		s.finished, s.err = true, s.decoder.eof(err)
		return
	}
	atNs, lagNs, kind := s.clock.at(stampNs, int64(s.last))
	s.received, s.last = true, time.Duration(atNs)
	s.finished, s.err = s.decoder.feed(data)
	if len(s.decoder.chunks) > 0 {
		s.read.At, s.read.Lag, s.read.Stamp = time.Duration(atNs), time.Duration(lagNs), kind
		s.read.Chunks = s.decoder.chunks
		s.onRead(&s.read)
	}
}
