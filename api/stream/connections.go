package stream

import (
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// connections are the WebSockets that are open, and whether there may be more. The zero
// value is ready.
type connections struct {
	mu     sync.Mutex
	ending bool
	open   map[*websocket.Conn]struct{}
	all    sync.WaitGroup // those open, and handshakes under way
}

// enter lets in a request that is to become a connection; it reports false from the end on.
// Who was let in leaves.
func (c *connections) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending {
		return false
	}
	c.all.Add(1)
	return true
}

// add notes what a request has become, and reports whether the end has begun meanwhile.
func (c *connections) add(conn *websocket.Conn) (ending bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[*websocket.Conn]struct{}{}
	}
	c.open[conn] = struct{}{}
	return c.ending
}

// leave is for a connection that is over, nil if the request became none.
func (c *connections) leave(conn *websocket.Conn) {
	c.mu.Lock()
	delete(c.open, conn)
	c.mu.Unlock()
	c.all.Done()
}

func (c *connections) isEnding() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ending
}

// end lets nobody in any more, and returns who is there; first is false if it was called
// before.
func (c *connections) end() (open []*websocket.Conn, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first, c.ending = !c.ending, true
	for conn := range c.open {
		open = append(open, conn)
	}
	return open, first
}

// wait waits until all are gone, and after a while drops those that are left.
func (c *connections) wait(patience time.Duration) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		c.all.Wait()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-gone:
		return
	case <-timer.C:
	}
	left, _ := c.end()
	for _, conn := range left {
		drop(conn)
	}
	<-gone
}
