package main

import (
	"context"
	"io"
	"net"
	"sync"
)

// relay passes connections on to a server until it breaks them.
type relay struct {
	port string
	// treat, if set, passes on what the server sends, until that ends.
	treat func(to, from net.Conn) error
	ln    net.Listener
	wg    sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

func startRelay(ctx context.Context, dial func(context.Context) (net.Conn, error)) (*relay, error) {
	var listen net.ListenConfig
	ln, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		return nil, err
	}
	r := &relay{port: port, ln: ln, conns: map[net.Conn]bool{}}
	r.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			r.wg.Go(func() { r.pass(ctx, conn, dial) })
		}
	})
	return r, nil
}

// pass copies both ways until either end is gone. How the client went is passed on:
// in order or by a reset.
func (r *relay) pass(ctx context.Context, client net.Conn, dial func(context.Context) (net.Conn, error)) {
	server, err := dial(ctx)
	if err != nil {
		_ = client.Close()
		return
	}
	r.mu.Lock()
	closed := r.closed
	r.conns[client], r.conns[server] = true, true
	r.mu.Unlock()
	if closed {
		_, _ = client.Close(), server.Close()
		return
	}
	r.wg.Go(func() {
		if r.treat != nil {
			_ = r.treat(client, server) // how it ended is of no interest
		} else {
			_, _ = io.Copy(client, server)
		}
		_ = client.Close()
	})
	if _, err := io.Copy(server, client); err != nil {
		reset(server)
	}
	_ = server.Close()
	r.mu.Lock()
	delete(r.conns, client)
	delete(r.conns, server)
	r.mu.Unlock()
}

// reset has the connection end with a reset when it is closed.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // it is an extra
	}
}

// breakAll ends all connections, as a network does that flaps.
func (r *relay) breakAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for conn := range r.conns {
		reset(conn)
		_ = conn.Close()
	}
}

func (r *relay) close() {
	_ = r.ln.Close()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.breakAll()
	r.wg.Wait()
}
