package guard

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dial opens a connection of its own.
func (s *served) dial(t *testing.T) *dialed {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	t.Cleanup(func() { conn.Close() })
	return &dialed{conn, bufio.NewReader(conn)}
}

// dialed is a connection of a client.
type dialed struct {
	net.Conn
	in *bufio.Reader
}

// ask sends a request and returns the status, 0 if the connection was closed, and
// whether it will be.
func (d *dialed) ask(t *testing.T, request, token string) (status int, closes bool) {
	t.Helper()
	return d.askRaw(t, request+" HTTP/1.1", token)
}

// askRaw is ask of a request with the version and headers of its own.
func (d *dialed) askRaw(t *testing.T, request, token string) (status int, closes bool) {
	t.Helper()
	fmt.Fprintf(d, "%s\r\nHost: localhost\r\n", request)
	if token != "" {
		fmt.Fprintf(d, "Authorization: Bearer %s\r\n", token)
	}
	fmt.Fprint(d, "\r\n")
	resp, err := http.ReadResponse(d.in, nil)
	if err != nil {
		return 0, true
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Close
}

// hold is a handler that answers /hold when it is told to.
func hold(t *testing.T) (handler http.HandlerFunc, entered <-chan struct{}, release func()) {
	in, out := make(chan struct{}, 1000), make(chan struct{})
	t.Cleanup(func() {
		select {
		case <-out:
		default:
			close(out)
		}
	})
	return func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/hold" || r.URL.RawQuery == "hold" {
			in <- struct{}{}
			<-out
		}
	}, in, func() { close(out) }
}

// Beyond the limit, what has been idle for longest makes room.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	const limit = 4
	s := serve(t, Config{MaxConnections: limit}, nil)
	var open []*dialed
	for i := range 3 * limit {
		d := s.dial(t)
		if status, _ := d.ask(t, "GET /livez", ""); status != 200 {
			t.Fatalf("connection %d: %d", i, status)
		}
		open = append(open, d)
		eventually(t, "it idles", func() bool { return s.connections.idleOthers() == min(i+1, limit) })
	}
	if got := s.Stats(); got.Connections != 0 || got.OpenConnections != limit || got.EvictedConnections != 2*limit {
		t.Errorf("stats %+v, want %d open and %d closed for others", got, limit, 2*limit)
	}
	for i, d := range open {
		status, _ := d.ask(t, "GET /livez", "")
		if want := map[bool]int{true: 200, false: 0}[i >= 2*limit]; status != want {
			t.Errorf("connection %d, asked again: %d, want %d", i, status, want)
		}
	}
	open[3*limit-1].Close()
	eventually(t, "a connection is counted out", func() bool { return s.Stats().OpenConnections == limit-1 })
}

// Whoever has a token or is served is not the first to go.
func TestWhoMakesRoom(t *testing.T) {
	handler, entered, release := hold(t)
	s := serve(t, Config{Token: controlToken, MaxConnections: 3}, handler)
	trusted, served, idle := s.dial(t), s.dial(t), s.dial(t)
	trusted.ask(t, "GET /v1/state", controlToken)
	fmt.Fprint(served, "GET /v1/hold HTTP/1.1\r\nHost: localhost\r\n\r\n")
	<-entered
	idle.ask(t, "GET /v1/state", "")
	eventually(t, "it idles", func() bool { return s.connections.idleOthers() == 1 })
	for range 5 { // each takes the place of the one before
		if status, _ := s.dial(t).ask(t, "GET /v1/state", ""); status != 200 {
			t.Errorf("a new connection: %d", status)
		}
		eventually(t, "it idles", func() bool { return s.connections.idleOthers() == 1 })
	}
	if status, _ := idle.ask(t, "GET /v1/state", ""); status != 0 {
		t.Errorf("the idle connection is there still: %d", status)
	}
	if status, _ := trusted.ask(t, "GET /v1/state", controlToken); status != 200 {
		t.Errorf("the controller's connection: %d", status)
	}
	release()
	if resp, err := http.ReadResponse(served.in, nil); err != nil || resp.StatusCode != 200 { //nolint:bodyclose // the connection is closed in the end, and with it the body
		t.Errorf("the request under way: %v", err)
	}
}

func (c *connections) idleOthers() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.idle.others.Len()
}

// A new connection is not the first to go, unless it has asked for nothing for a
// while.
func TestFreshConnectionsHaveAWhile(t *testing.T) {
	clk := newClock()
	c := newConnections(3, 3, clk.Now)
	admit := func() (n, evicted *connection) { return c.admit(&connFrom{from: "192.0.2.1"}) }
	fresh, _ := admit()
	var asked []*connection
	for range 2 {
		n, _ := admit()
		n.serve(false)
		n.rest()
		asked = append(asked, n)
	}
	for i := range asked {
		n, evicted := admit()
		if evicted != asked[i] {
			t.Errorf("what makes room first is not what has asked")
		}
		n.serve(true)
		n.rest()
	}
	if _, evicted := admit(); evicted != fresh {
		t.Error("where there are only those with a token, a new one makes room")
	}
	clk.advance(freshFor)
	n, evicted := admit() // in place of the one that has waited
	if evicted == nil || evicted.trusted {
		t.Error("one that has a token goes before one that asks for nothing")
	}
	n.serve(false)
	n.rest()
	if _, evicted := admit(); evicted != n {
		t.Error("one with a token goes before others")
	}
}

// Where nothing is idle, the reserve is for probes and those with a token.
func TestReserve(t *testing.T) {
	const limit = 4
	handler, entered, release := hold(t)
	s := serve(t, Config{Token: controlToken, ReadToken: readToken, MaxConnections: limit}, handler)
	begin := func(path, token string) *dialed {
		t.Helper()
		d := s.dial(t)
		fmt.Fprintf(d, "GET %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", path, token)
		return d
	}
	for range limit {
		begin("/v1/hold", readToken)
		<-entered
	}
	for _, c := range []struct {
		request, token string
		want           int
	}{
		{"GET /livez", "", 200}, {"GET /readyz", "", 200}, {"GET /healthz", wrongToken, 200}, {"POST /v1/batch-sizes", controlToken, 200},
		{"GET /v1/state", readToken, 200}, {"GET /", "", 429}, {"GET /v1/state", "", 429}, {"POST /v1/batch-sizes", "", 429},
		{"POST /v1/batch-sizes", wrongToken, 429},
	} {
		status, closes := s.dial(t).ask(t, c.request, c.token)
		if status != c.want || !closes {
			t.Errorf("%s with token %q beyond the limit: %d, closed %v; want %d, closed", c.request, c.token, status, closes, c.want)
		}
	}
	// Nor does one that would be a WebSocket, but is answered as any other.
	upgrading := "GET /v1/state HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket"
	if status, closes := s.dial(t).askRaw(t, upgrading, readToken); status != 200 || !closes {
		t.Errorf("an upgrade that is none beyond the limit: %d, closed %v; want 200, closed", status, closes)
	}
	if got := s.Stats().Connections; got != 4 {
		t.Errorf("%d counted as refused, want 4", got)
	}
	// Connections that ask for nothing do not fill it.
	for range 2 * reservedConnections {
		s.dial(t)
	}
	if status, _ := s.dial(t).ask(t, "GET /livez", ""); status != 200 {
		t.Errorf("a probe beside silent connections: %d, want 200", status)
	}
	// Half of it is for probes alone.
	for range reservedConnections / 2 {
		begin("/v1/hold", controlToken)
		<-entered
	}
	if status, _ := s.dial(t).ask(t, "POST /v1/batch-sizes", controlToken); status != 429 {
		t.Errorf("a command more than there is room for: %d, want 429", status)
	}
	if status, _ := s.dial(t).ask(t, "GET /livez", ""); status != 200 {
		t.Errorf("a probe: %d, want 200", status)
	}
	release()
	eventually(t, "there is room again", func() bool {
		status, closes := s.dial(t).ask(t, "GET /v1/state", readToken)
		return status == 200 && !closes
	})
}

// conn is a connection from some address.
type connFrom struct {
	net.Conn
	from string
}

func (c *connFrom) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(c.from), 1))
}

// One address has its share, whatever it does.
func TestShareOfAnAddress(t *testing.T) {
	c := newConnections(10, 4, time.Now)
	admit := func(from string, busy bool) *connection {
		t.Helper()
		n, _ := c.admit(&connFrom{from: from})
		if n == nil {
			t.Fatal("refused")
		}
		if busy {
			n.serve(false)
		}
		return n
	}
	for range 4 {
		admit("192.0.2.1", true)
	}
	if n := admit("192.0.2.1", false); !n.reserved {
		t.Error("a fifth connection of an address is not in the reserve")
	}
	idle := admit("192.0.2.2", false)
	for range 5 {
		admit("192.0.2.2", false)
	}
	if !idle.gone || c.peers[netip.MustParseAddr("192.0.2.2")].open != 4 || c.evicted != 2 {
		t.Errorf("an address beyond its share: evicted %d, the oldest gone %v", c.evicted, idle.gone)
	}
	for i := range 2 {
		admit(fmt.Sprint("192.0.2.", 10+i), true)
	}
	// All are full: anybody's idle connection makes room.
	admit("192.0.2.20", true)
	if c.open != 10 || c.evicted != 3 {
		t.Errorf("%d open and %d evicted, want 10 and 3", c.open, c.evicted)
	}
	for _, p := range []struct{ most, want int }{{1, 1}, {64, 64}, {100, 64}, {200, 100}, {2048, 1024}} {
		if got := perAddressOf(p.most); got != p.want {
			t.Errorf("of %d connections an address may have %d, want %d", p.most, got, p.want)
		}
	}
}

// A flood from one address, which asks for nothing, takes nobody else's place, however
// small the limits are.
func TestFloodTakesItsOwnPlaces(t *testing.T) {
	for _, limit := range []struct{ most, perAddress int }{{8, 8}, {16, 0}, {8, 4}, {2048, 8}} {
		clk := newClock()
		c := newConnections(limit.most, limit.perAddress, clk.Now)
		admit := func(from string) *connection {
			n, _ := c.admit(&connFrom{from: from})
			return n
		}
		flood := func() {
			for range 5 * limit.most {
				admit("192.0.2.1")
				clk.advance(time.Millisecond)
			}
		}
		flood()
		silent, asked := admit("192.0.2.2"), admit("192.0.2.3")
		asked.serve(false)
		asked.rest()
		flood()
		if silent.gone || asked.gone || silent.reserved || asked.reserved {
			t.Errorf("limits %+v: a flood took the place of another address: %+v, %+v", limit, silent, asked)
		}
	}
}

// A place in the reserve is given back by whoever leaves it, into the room that has
// come about or to wait.
func TestPlacesOfTheReserveAreGivenBack(t *testing.T) {
	c := newConnections(1, 1, time.Now)
	for range 3 * reservedConnections {
		first, _ := c.admit(&connFrom{Conn: closedConn{}, from: "192.0.2.1"})
		first.serve(false)
		n, _ := c.admit(&connFrom{Conn: closedConn{}, from: "192.0.2.1"})
		if !n.serve(true) || !n.keepBusy() {
			t.Fatal("no place in the reserve")
		}
		n.rest()
		if c.busy != 0 {
			t.Fatalf("%d places taken by who waits", c.busy)
		}
		if !n.serve(true) || !n.keepBusy() {
			t.Fatal("no place in the reserve")
		}
		first.Close()
		if n.serve(true) || c.busy != 0 || c.reserved != 0 || c.open != 1 {
			t.Fatalf("left the reserve: %+v", c)
		}
		n.Close()
	}
}

// Where not even the reserve has room, a connection is closed at once, and that is
// told.
func TestNoRoomAtAll(t *testing.T) {
	handler, entered, release := hold(t)
	s := serve(t, Config{Token: controlToken, MaxConnections: 1}, handler)
	defer release()
	fill := func(n int, path, token string) {
		for range n {
			fmt.Fprintf(s.dial(t), "GET %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", path, token)
			<-entered
		}
	}
	fill(1+reservedConnections/2, "/v1/hold", controlToken)
	// Probes are not held back by that, only by their own number.
	fill(reservedConnections/2, "/livez?hold", "")
	for range 3 {
		if status, _ := s.dial(t).ask(t, "GET /livez", ""); status != 0 {
			t.Fatalf("one more connection: %d, want it closed", status)
		}
	}
	if got := s.Stats().Connections; got != 3 {
		t.Errorf("%d counted, want 3", got)
	}
	var told int
	for _, line := range s.log.Lines(t) {
		if m, _ := line["message"].(string); strings.HasPrefix(m, "connection refused: too many are open") {
			told++
		}
	}
	if told != 1 {
		t.Errorf("%d lines, want 1", told)
	}
}

// The count comes out even whatever happens to connections, in whatever order.
func TestConnectionsAreCountedOut(t *testing.T) {
	c := newConnections(5, 3, time.Now)
	var all []*connection
	for i := range 500 {
		n, _ := c.admit(&connFrom{Conn: closedConn{}, from: fmt.Sprint("192.0.2.", i%7)})
		if n == nil {
			continue
		}
		all = append(all, n)
		switch i % 5 {
		case 0:
			n.serve(i%2 == 0)
			n.keepBusy()
		case 1:
			n.serve(true)
			n.rest()
		case 2:
			n.Close()
		case 3:
			all[i/2%len(all)].Close()
			all[i/3%len(all)].rest()
		}
	}
	for _, n := range all {
		n.Close()
		n.Close()
		n.rest()
	}
	if c.open != 0 || c.reserved != 0 || c.busy != 0 || len(c.peers) != 0 || c.probation.Len()+c.idle.fresh.Len()+c.idle.others.Len()+c.idle.trusted.Len() != 0 {
		t.Errorf("left over: %+v", c)
	}
}

type closedConn struct{ net.Conn }

func (closedConn) Close() error { return nil }

// That files have run out is told once in a while, and an idle connection gives up
// its own.
func TestFilesHaveRunOut(t *testing.T) {
	clk := newClock()
	s := serve(t, Config{now: clk.Now}, nil)
	d := s.dial(t)
	d.ask(t, "GET /livez", "")
	eventually(t, "it idles", func() bool { return s.connections.idleOthers() == 1 })
	l := newLimited(failing{}, s.Guard)
	for range 3 {
		if _, err := l.Accept(); err == nil {
			t.Fatal("accepted")
		}
	}
	if got := s.Stats(); got.AcceptErrors != 3 || got.EvictedConnections != 1 || got.OpenConnections != 0 {
		t.Errorf("stats %+v", got)
	}
	told := func() (n int) {
		for _, line := range s.log.Lines(t) {
			if m, _ := line["message"].(string); strings.Contains(m, "cannot be accepted") {
				n++
				if !strings.Contains(m, "LimitNOFILE") || !strings.Contains(fmt.Sprint(line["error"]), syscall.EMFILE.Error()) {
					t.Errorf("the line %v does not say what to do", line)
				}
			}
		}
		return n
	}
	if n := told(); n != 1 {
		t.Errorf("%d lines, want 1", n)
	}
	clk.advance(refusalLogEvery)
	l.Accept()
	if n := told(); n != 2 {
		t.Errorf("%d lines later on, want 2", n)
	}
}
