package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"
)

const (
	// sendBufferBytes is what the kernel keeps for a client; Linux doubles it. Left
	// alone, it would keep megabytes for each client that does not read.
	sendBufferBytes = 32 << 10
	// maxMessageBytes bounds a client's messages, framesPerS and frameBurst their
	// number.
	maxMessageBytes = 512
	framesPerS      = 10
	frameBurst      = 100
)

// client is one follower's connection. Its writer goroutine writes all but the
// library's own answers to bad frames, its reader notices what it sends.
type client struct {
	conn   *websocket.Conn
	hub    *Hub
	timing timing
	quit   <-chan struct{}
	ending context.Context //nolint:containedctx // the sockets', which outlives the request
	log    zerolog.Logger

	states following

	limit  *rate.Limiter
	pings  chan string   // to be answered
	unruly chan struct{} // it sends too much
	gone   chan struct{} // closed when the reader ended
	// readErr is why it ended; read it after gone is closed.
	readErr error
}

func newClient(conn *websocket.Conn, s *Sockets, path string) *client {
	if b, ok := bottom(conn.NetConn()).(interface{ SetWriteBuffer(int) error }); ok {
		_ = b.SetWriteBuffer(sendBufferBytes) // it then takes more memory
	}
	return &client{
		conn: conn, hub: s.hub, timing: s.timing, quit: s.quit, ending: s.ending,
		log:   s.log.With().Str("client", conn.RemoteAddr().String()).Str("path", path).Logger(),
		limit: rate.NewLimiter(framesPerS, frameBurst),
		pings: make(chan string, 1), unruly: make(chan struct{}, 1), gone: make(chan struct{}),
	}
}

// bottom returns the connection beneath all wrappers.
func bottom(conn net.Conn) net.Conn {
	for {
		wrapper, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = wrapper.NetConn()
	}
}

// farewell ends a connection with a close frame.
type farewell struct {
	code int
	text string
}

func (f *farewell) Error() string { return fmt.Sprintf("%s (%d)", f.text, f.code) }

// serve sends the messages of f from index cursor on until the connection ends,
// and logs why it did.
func serve[T any](c *client, f *feed[T], cursor int64) {
	ctx, cancel := context.WithCancel(c.ending)
	go func() {
		defer cancel()
		c.read()
	}()
	err := c.begin()
	if err == nil {
		err = write(ctx, c, f, cursor)
	}
	var bye *farewell
	switch {
	case errors.As(err, &bye):
		c.say(bye)
	case errors.Is(err, websocket.ErrCloseSent):
		<-c.gone // by the library, to a client that broke the rules or said goodbye
	}
	slow := isTimeout(err)
	if slow {
		drop(c.conn)
	} else {
		cut(c.conn)
	}
	<-c.gone
	level := zerolog.DebugLevel
	switch {
	case slow:
		c.hub.slowClients.Add(1)
		level = zerolog.WarnLevel
		err = fmt.Errorf("it took no message for %v: %w", c.timing.write, err)
	case bye != nil:
		if bye.code == websocket.ClosePolicyViolation {
			c.hub.unrulyClients.Add(1)
			level = zerolog.WarnLevel
		}
	case isTimeout(c.readErr):
		c.hub.silentClients.Add(1)
		level = zerolog.WarnLevel
		err = fmt.Errorf("it sent nothing for %v, not even the answer to a ping: %w", c.timing.silence, c.readErr)
	case isBadFrame(c.readErr):
		c.hub.unrulyClients.Add(1)
		level = zerolog.WarnLevel
		err = c.readErr
	case err == nil || errors.Is(err, websocket.ErrCloseSent):
		err = c.readErr
	}
	c.log.WithLevel(level).Str("reason", err.Error()).Msg("a WebSocket connection ended")
}

// write sends messages until one cannot be sent, or it must end with a
// [*farewell]; nil when the reader has ended.
func write[T any](ctx context.Context, c *client, f *feed[T], cursor int64) error {
	ping := time.NewTicker(c.timing.ping)
	defer ping.Stop()
	for {
		m, skipped, more := f.next(cursor)
		behind := c.states.resumes && skipped > 0
		if m == nil {
			if of := c.states.present(cursor); of != c.states.told && of != nil {
				if err := c.introduce(of, &f.skipped, cursor); err != nil {
					return err
				}
				continue
			}
		}
		select {
		case <-more.first:
			close(more.all)
			continue
		case <-more.all:
			if m == nil {
				continue
			}
		case <-ping.C:
			if err := c.control(websocket.PingMessage, nil); err != nil {
				return err
			}
			continue
		case payload := <-c.pings:
			if err := c.control(websocket.PongMessage, []byte(payload)); err != nil {
				return err
			}
			continue
		case <-c.unruly:
			return &farewell{websocket.ClosePolicyViolation, "too many frames: this stream only sends"}
		case <-c.gone:
			return nil
		case <-c.quit:
			return &farewell{websocket.CloseGoingAway, "the agent is ending"}
		}
		if behind {
			next, err := c.catchUp(ctx, cursor)
			if err != nil {
				return err
			}
			cursor = next
			continue
		}
		if err := send(c, f, m); err != nil {
			return err
		}
		cursor = m.index + 1
	}
}

// send sends a message, and before it what else there is to tell.
func send[T any](c *client, f *feed[T], m *message[T]) error {
	frame, err := f.frameOf(m)
	if err != nil {
		return &farewell{websocket.CloseInternalServerErr, "a message has no JSON"}
	}
	if err := c.introduce(m.run, &f.skipped, m.index); err != nil {
		return err
	}
	c.states.reached = m.index + 1
	_ = c.conn.SetWriteDeadline(time.Now().Add(c.timing.write)) // it cannot fail
	return c.conn.WritePreparedMessage(frame)
}

// notice tells the client how many messages it misses, if any, and counts them.
func (c *client) notice(skipped int64, count *atomic.Uint64) error {
	if skipped <= 0 {
		return nil
	}
	count.Add(uint64(skipped))
	text := strconv.AppendInt([]byte(`{"skipped":`), skipped, 10)
	return c.text(append(text, '}'))
}

// text sends a message that is for this client alone.
func (c *client) text(message []byte) error {
	_ = c.conn.SetWriteDeadline(time.Now().Add(c.timing.write)) // it cannot fail
	return c.conn.WriteMessage(websocket.TextMessage, message)
}

func (c *client) control(kind int, payload []byte) error {
	return c.conn.WriteControl(kind, payload, time.Now().Add(c.timing.write))
}

// say sends a close frame and waits, not for long, until the client has answered.
func (c *client) say(f *farewell) {
	patience := time.NewTimer(c.timing.goodbye)
	defer patience.Stop()
	message := websocket.FormatCloseMessage(f.code, f.text)
	if err := c.conn.WriteControl(websocket.CloseMessage, message, time.Now().Add(c.timing.goodbye)); err != nil {
		return
	}
	select {
	case <-c.gone:
	case <-patience.C:
	}
}

// read notices what the client sends, and ends when it closes, breaks the rules,
// falls silent, or the connection is closed.
func (c *client) read() {
	defer close(c.gone)
	c.conn.SetReadLimit(maxMessageBytes)
	c.conn.SetPongHandler(func(string) error { return c.heard() })
	c.conn.SetPingHandler(func(payload string) error {
		select {
		case c.pings <- payload:
		default: // the one before is not answered yet
		}
		return c.heard()
	})
	err := c.heard()
	for err == nil {
		if _, _, err = c.conn.NextReader(); err == nil {
			err = c.heard()
		}
	}
	c.readErr = err
	if isBadFrame(err) {
		readToEnd(c.conn, c.timing.goodbye)
	}
}

// readToEnd reads from a client that has sent a bad frame, not for long, until it closes.
// The library has told it why. Were the connection closed before all has been read, it
// might not learn of it.
func readToEnd(conn *websocket.Conn, patience time.Duration) {
	if conn.NetConn().SetReadDeadline(time.Now().Add(patience)) == nil {
		_, _ = io.Copy(io.Discard, conn.NetConn()) // until it closes
	}
}

// heard notes that the client has sent something.
func (c *client) heard() error {
	if !c.limit.Allow() {
		select {
		case c.unruly <- struct{}{}:
		default: // it is known
		}
	}
	return c.conn.SetReadDeadline(time.Now().Add(c.timing.silence))
}

// cut closes a connection. Over TLS it says no goodbye, for which it might have to wait.
func cut(c *websocket.Conn) {
	conn := c.NetConn()
	if over, ok := conn.(*tls.Conn); ok {
		conn = over.NetConn()
	}
	_ = conn.Close() // nothing is left to be sent
}

// drop closes a connection, and has the kernel forget what the client has not taken.
func drop(c *websocket.Conn) {
	if b, ok := bottom(c.NetConn()).(interface{ SetLinger(int) error }); ok {
		_ = b.SetLinger(0) // it then takes longer
	}
	cut(c)
}

func isTimeout(err error) bool {
	var failure net.Error
	return errors.As(err, &failure) && failure.Timeout()
}

// isBadFrame reports whether reading ended because of what the client sent.
func isBadFrame(err error) bool {
	var closed *websocket.CloseError
	var failure net.Error
	return err != nil && !errors.As(err, &closed) && !errors.As(err, &failure) && !errors.Is(err, io.EOF)
}
