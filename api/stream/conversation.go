package stream

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/api/problem"
)

const (
	// maxRequestBytes bounds a message that is to be answered, as the body of a request.
	maxRequestBytes = 64 << 10
	// answerBuffer holds most answers whole, so that they are sent at once.
	answerBuffer = 16 << 10
	// leastReadRate is how fast a client must read a long answer, in bytes a second, as
	// that of a request.
	leastReadRate = 64 << 10
	// maxKeptAnswer is the largest buffer that is kept for the next answer, in bytes.
	maxKeptAnswer = 1 << 20
)

// Answer appends to b the answer to a message, which is text or binary.
type Answer func(message []byte, text bool, b []byte) []byte

// Conversations are WebSockets on which each message is answered by one, in their order.
// A client is read from only once it has the answer before: whoever sends more than he reads
// waits. Its methods are safe for use by many goroutines.
type Conversations struct {
	sockets  *Sockets // refuses, and counts
	upgrader websocket.Upgrader
	timing   timing
	// leastRate is how fast a client must read a long answer, in bytes a second.
	leastRate   float64
	log         zerolog.Logger
	connections connections
}

// NewConversations returns conversations with the manners of s. They are closed by
// [Conversations.Close].
func NewConversations(s *Sockets) *Conversations {
	c := &Conversations{sockets: s, timing: s.timing, leastRate: leastReadRate, log: s.log}
	c.upgrader = s.upgrader
	c.upgrader.ReadBufferSize, c.upgrader.WriteBufferSize, c.upgrader.WriteBufferPool = 4<<10, answerBuffer, nil
	return c
}

// Serve makes the request a conversation.
func (c *Conversations) Serve(w http.ResponseWriter, r *http.Request, answer Answer) {
	if !c.sockets.checkUpgrade(w, r) {
		return
	}
	if !c.connections.enter() {
		c.sockets.refuse(w, problem.New(http.StatusServiceUnavailable, "the agent is ending"))
		return
	}
	conn, err := c.upgrader.Upgrade(hijacker{w}, r, nil)
	if err != nil { // it is answered
		c.connections.leave(nil)
		return
	}
	if ending := c.connections.add(conn); ending {
		c.sayGoodbye(conn)
	}
	log := c.log.With().Str("client", conn.RemoteAddr().String()).Str("path", r.URL.Path).Logger()
	hub := c.sockets.hub
	hub.clientsTotal.Add(1)
	hub.conversations.Add(1)
	// The handler returns, and the server forgets the request and its buffers.
	go func() {
		defer c.connections.leave(conn)
		err := c.talk(conn, answer)
		hub.conversations.Add(-1)
		c.conclude(conn, err, log)
	}()
}

// conclude closes a connection that has ended with an error, and notes why.
func (c *Conversations) conclude(conn *websocket.Conn, err error, log zerolog.Logger) {
	level := zerolog.DebugLevel
	switch {
	case isBadFrame(err):
		c.sockets.hub.unrulyClients.Add(1)
		level = zerolog.WarnLevel
		readToEnd(conn, c.timing.goodbye)
		cut(conn)
	case isTimeout(err) && !c.connections.isEnding(): // there is no deadline for reading before the end
		c.sockets.hub.slowClients.Add(1)
		level = zerolog.WarnLevel
		drop(conn)
	default:
		cut(conn)
	}
	log.WithLevel(level).Str("reason", err.Error()).Msg("a WebSocket connection ended")
}

// talk answers messages until the connection ends.
func (c *Conversations) talk(conn *websocket.Conn, answer Answer) error {
	conn.SetReadLimit(maxRequestBytes)
	var message, b []byte
	for {
		kind, reader, err := conn.NextReader()
		if err != nil {
			return err
		}
		if message, err = readAll(reader, message[:0]); err != nil {
			return err
		}
		b = answer(message, kind == websocket.TextMessage, b[:0])
		allowed := c.timing.write + time.Duration(float64(len(b))/c.leastRate*float64(time.Second))
		_ = conn.SetWriteDeadline(time.Now().Add(allowed)) // it cannot fail
		if err := conn.WriteMessage(websocket.TextMessage, b); err != nil {
			return err
		}
		if cap(b) > maxKeptAnswer {
			b = nil
		}
	}
}

// readAll is [io.ReadAll] into a buffer.
func readAll(r io.Reader, b []byte) ([]byte, error) {
	for {
		if len(b) == cap(b) {
			b = append(b, make([]byte, 512)...)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case errors.Is(err, io.EOF):
			return b, nil
		case err != nil:
			return b, err
		}
	}
}

// sayGoodbye has the client close, or else ends the reading from it.
func (c *Conversations) sayGoodbye(conn *websocket.Conn) {
	until := time.Now().Add(c.timing.goodbye)
	message := websocket.FormatCloseMessage(websocket.CloseGoingAway, "the agent is ending")
	_ = conn.WriteControl(websocket.CloseMessage, message, until) // it is gone already
	_ = conn.SetReadDeadline(until)                               // it cannot fail
}

// Close says goodbye to the clients and waits until all are gone, at most 2 s for them.
// From then on, new ones are refused.
func (c *Conversations) Close() {
	open, _ := c.connections.end()
	var goodbyes sync.WaitGroup
	for _, conn := range open {
		goodbyes.Go(func() { c.sayGoodbye(conn) }) // it may wait for an answer that nobody reads
	}
	c.connections.wait(c.timing.shutdown)
	goodbyes.Wait()
}
