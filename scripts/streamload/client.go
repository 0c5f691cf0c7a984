package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/g2g-agent/g2g-agent/internal/backoff"
)

// dialer connects clients to the agent.
type dialer struct{ url, token string }

// dial connects one, for which the kernel keeps little if it is small. Where the
// agent wants fewer requests a second, it waits.
func (d dialer) dial(ctx context.Context, small bool) (*websocket.Conn, error) {
	ws := websocket.Dialer{
		ReadBufferSize: 4096, WriteBufferSize: 256, HandshakeTimeout: 30 * time.Second, Subprotocols: []string{"g2g-agent.v1"},
		NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			var dialer net.Dialer
			conn, err := dialer.DialContext(ctx, network, address)
			if tcp, ok := conn.(*net.TCPConn); ok && small {
				err = tcp.SetReadBuffer(4096)
			}
			return conn, err
		},
	}
	header := http.Header{}
	if d.token != "" {
		header.Set("Authorization", "Bearer "+d.token)
	}
	for {
		conn, response, err := ws.DialContext(ctx, d.url, header)
		if response != nil {
			_ = response.Body.Close() // it is in memory
		}
		if err == nil || response == nil {
			return conn, err
		}
		if response.StatusCode != http.StatusTooManyRequests {
			return nil, fmt.Errorf("%w: %s", err, response.Status)
		}
		waitS, err := strconv.Atoi(response.Header.Get("Retry-After"))
		if err != nil || waitS < 1 {
			waitS = 1
		}
		if err := backoff.Sleep(ctx, time.Duration(waitS)*time.Second); err != nil {
			return nil, err
		}
	}
}

// finish tells the readers with which state to end.
type finish struct{ seq atomic.Int64 }

// open stands for no last state yet.
const open = -1

func newFinish() *finish {
	f := &finish{}
	f.seq.Store(open)
	return f
}

// at ends with the newest state that any of the readers has.
func (f *finish) at(readers []*reader) {
	newest := int64(0)
	for _, r := range readers {
		newest = max(newest, r.last.Load())
	}
	f.seq.Store(newest)
}

// reader is a client that takes every message at once.
type reader struct {
	conn                      *websocket.Conn
	received, missed, skipped int64
	last                      atomic.Int64 // seq
	delaysS                   []float64
	err                       error
}

// follow reads up to the last state.
func (r *reader) follow(f *finish) {
	defer r.conn.Close()
	var message bytes.Buffer
	announced := int64(0)
	for {
		_, source, err := r.conn.NextReader()
		if err == nil {
			message.Reset()
			_, err = message.ReadFrom(source)
		}
		now := time.Now()
		if err == nil {
			err = r.take(message.Bytes(), now, &announced)
		}
		if err != nil {
			r.err = err
			return
		}
		if last := f.seq.Load(); last != open && r.received > 0 && r.last.Load() >= last {
			return
		}
	}
}

// take counts a message. It looks only at what it needs: hundreds of clients share
// the machine with the agent.
func (r *reader) take(message []byte, now time.Time, announced *int64) error {
	if n, ok := number(message, `{"skipped":`); ok {
		r.skipped += n
		*announced += n
		return nil
	}
	seq, ok := number(message, `{"seq":`)
	if !ok {
		return fmt.Errorf("%.60q is no state", message)
	}
	if r.received > 0 {
		gap := seq - r.last.Load() - 1 - *announced
		if gap < 0 {
			return fmt.Errorf("state %d came after state %d and a notice of %d skipped", seq, r.last.Load(), *announced)
		}
		r.missed += gap
	}
	*announced = 0
	r.received++
	r.last.Store(seq)
	_, rest, _ := bytes.Cut(message, []byte(`"wall_time":"`))
	text, _, ok := bytes.Cut(rest, []byte(`"`))
	if !ok || r.received == 1 { // null in a replay; the first one may be old
		return nil
	}
	due, err := time.Parse(time.RFC3339Nano, string(text))
	if err != nil {
		return err
	}
	r.delaysS = append(r.delaysS, now.Sub(due).Seconds())
	return nil
}

// number returns the whole number after prefix.
func number(message []byte, prefix string) (int64, bool) {
	rest, ok := bytes.CutPrefix(message, []byte(prefix))
	if !ok {
		return 0, false
	}
	end := bytes.IndexAny(rest, ",}")
	if end < 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(rest[:end])), 10, 64)
	return n, err == nil
}

// deafClient is a client that never reads.
type deafClient struct {
	dialer     dialer
	conn       *websocket.Conn
	reconnects int64
	err        error
}

// hold keeps a connection to the agent, a new one when the agent has closed the
// last, until ctx ends.
func (c *deafClient) hold(ctx context.Context) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			_ = c.conn.Close() // nothing was written
			return
		case <-tick.C:
		}
		// Whoever does not read learns of the end only by writing.
		if c.conn.WriteControl(websocket.PongMessage, nil, time.Now().Add(time.Second)) == nil {
			continue
		}
		_ = c.conn.Close() // it is broken
		conn, err := c.dialer.dial(ctx, true)
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				c.err = err
			}
			return
		}
		c.conn = conn
		c.reconnects++
	}
}
