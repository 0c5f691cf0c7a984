package guard

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

const (
	// reservedConnections may be open beyond the limits, for probes and for those
	// who may command or have a token of ours; half of them for probes alone.
	reservedConnections = 64
	// leastPerAddress is what one address may open at least, where nothing else is
	// configured and the limit of all is not smaller.
	leastPerAddress = 64
	// freshFor is how long a new connection has to ask for something.
	freshFor = 500 * time.Millisecond
)

// perAddressOf is the connections of one address where none are configured: half of
// all, so that no single one has them all.
func perAddressOf(most int) int { return max(most/2, min(most, leastPerAddress)) }

// connections are those that are open. What is idle makes room for what is new, the
// longest idle first: of an address that has its share its own, else anyone's.
// Where nothing is idle, a new one is let in on probation, in the reserve.
type connections struct {
	most, perAddress int
	now              func() time.Time

	mu       sync.Mutex
	open     int // without the reserve
	reserved int
	busy     int // of the reserve, with requests other than probes
	evicted  uint64
	peers    map[netip.Addr]*peer
	idle     idleList
	// probation is those of the reserve that have not asked for anything yet.
	probation list.List
}

// peer is an address that has connections, the reserve aside.
type peer struct {
	open int
	idle idleList
}

// idleList has connections that wait for a request, those idle for longest first:
// those that have not had one yet, those that had, and those whose last one bore a
// token of ours.
type idleList struct{ fresh, others, trusted list.List }

func (l *idleList) of(n *connection) *list.List {
	switch {
	case n.trusted:
		return &l.trusted
	case n.asked:
		return &l.others
	default:
		return &l.fresh
	}
}

// oldest is the one to make room, nil for none. What is new has a while to ask, if
// others can go.
func (l *idleList) oldest(now time.Time) *connection {
	lists := []*list.List{&l.others, &l.fresh, &l.trusted}
	if front := l.fresh.Front(); front != nil && now.Sub(front.Value.(*connection).came) >= freshFor {
		return front.Value.(*connection)
	}
	for _, from := range lists {
		if front := from.Front(); front != nil {
			return front.Value.(*connection)
		}
	}
	return nil
}

// connection is one that is counted until it is closed.
type connection struct {
	net.Conn
	all     *connections
	address netip.Addr

	came time.Time

	// What follows is guarded by all.mu.
	reserved, asked, trusted, busy, gone bool
	// Where it stands in the lists of all and of its peer, nil while a request of
	// it is served.
	inAll, inPeer *list.Element
}

func newConnections(most, perAddress int, now func() time.Time) *connections {
	if perAddress == 0 {
		perAddress = perAddressOf(most)
	}
	return &connections{most: most, perAddress: perAddress, now: now, peers: map[netip.Addr]*peer{}}
}

// makesRoom is the one to make room for another of p, which is nil for an address that
// has none; nil if nothing idles. Who has more connections than the one that has idled
// for longest makes room among its own: a flood ends with whom it comes from.
func (c *connections) makesRoom(p *peer, now time.Time) *connection {
	oldest := c.idle.oldest(now)
	if oldest != nil && p != nil && p.open > c.peers[oldest.address].open {
		if own := p.idle.oldest(now); own != nil {
			return own
		}
	}
	return oldest
}

// admit counts a new connection; evicted, if not nil, is to be closed in its place.
// It returns nil if there is no room at all.
func (c *connections) admit(conn net.Conn) (admitted, evicted *connection) {
	address, _ := clientAddress(conn.RemoteAddr().String())
	c.mu.Lock()
	defer c.mu.Unlock()
	n := &connection{Conn: conn, all: c, address: address, came: c.now()}
	switch p := c.peers[address]; {
	case p != nil && p.open >= c.perAddress:
		evicted = p.idle.oldest(n.came)
	case c.open >= c.most:
		evicted = c.makesRoom(p, n.came)
	default:
		c.count(n)
		return n, nil
	}
	if evicted != nil {
		c.evicted++
		c.forget(evicted)
		c.count(n)
		return n, evicted
	}
	if c.reserved >= reservedConnections {
		front := c.probation.Front()
		if front == nil {
			return nil, nil
		}
		evicted = front.Value.(*connection)
		c.evicted++
		c.forget(evicted)
	}
	n.reserved = true
	c.reserved++
	n.inAll = c.probation.PushBack(n)
	return n, evicted
}

// count takes in a connection that is within the limits and idle.
func (c *connections) count(n *connection) {
	p := c.peers[n.address]
	if p == nil {
		p = &peer{}
		c.peers[n.address] = p
	}
	p.open++
	c.open++
	c.rest(n)
}

// rest makes a connection the one that has been idle for the shortest time.
func (c *connections) rest(n *connection) {
	c.unlist(n)
	if n.gone {
		return
	}
	if n.reserved {
		c.endBusy(n)
		n.inAll = c.probation.PushBack(n)
		return
	}
	n.inAll = c.idle.of(n).PushBack(n)
	n.inPeer = c.peers[n.address].idle.of(n).PushBack(n)
}

// unlist takes a connection off the lists of idle ones.
func (c *connections) unlist(n *connection) {
	if n.inAll == nil {
		return
	}
	if n.reserved {
		c.probation.Remove(n.inAll)
	} else {
		c.idle.of(n).Remove(n.inAll)
		c.peers[n.address].idle.of(n).Remove(n.inPeer)
	}
	n.inAll, n.inPeer = nil, nil
}

// forget counts a connection out, once.
func (c *connections) forget(n *connection) {
	if n.gone {
		return
	}
	c.unlist(n)
	n.gone = true
	if n.reserved {
		c.reserved--
		c.endBusy(n)
		return
	}
	c.open--
	p := c.peers[n.address]
	if p.open--; p.open == 0 {
		delete(c.peers, n.address)
	}
}

// evictOldest returns an idle connection to be closed, nil for none: files have run
// out.
func (c *connections) evictOldest() *connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.idle.oldest(c.now())
	if n != nil {
		c.evicted++
		c.forget(n)
	}
	return n
}

// counts are how many are open, and how many were closed to make room.
func (c *connections) counts() (open int, evicted uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open + c.reserved, c.evicted
}

// serve notes that a request has come whole, but for its body; trusted says that
// it bears a token of ours. It reports whether the connection is in the reserve
// still: where there is room by now, it is as any other.
func (n *connection) serve(trusted bool) (reserved bool) {
	c := n.all
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unlist(n)
	n.asked, n.trusted = true, trusted
	if !n.reserved || n.gone {
		return false
	}
	if p := c.peers[n.address]; c.open < c.most && (p == nil || p.open < c.perAddress) {
		c.reserved--
		c.endBusy(n)
		n.reserved = false
		c.count(n)
		c.unlist(n)
	}
	return n.reserved
}

// endBusy gives back the place that keepBusy took, if it did.
func (c *connections) endBusy(n *connection) {
	if n.busy {
		n.busy = false
		c.busy--
	}
}

// keepBusy takes a place of those in the reserve that are not for probes; it
// reports whether there was one.
func (n *connection) keepBusy() bool {
	c := n.all
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case n.busy || n.gone || !n.reserved:
		return true
	case c.busy >= reservedConnections/2:
		return false
	}
	n.busy = true
	c.busy++
	return true
}

// rest notes that the connection waits for a request.
func (n *connection) rest() {
	n.all.mu.Lock()
	defer n.all.mu.Unlock()
	n.all.rest(n)
}

// Close closes the connection and counts it out.
func (n *connection) Close() error {
	err := n.Conn.Close()
	n.all.mu.Lock()
	defer n.all.mu.Unlock()
	n.all.forget(n)
	return err
}

// NetConn returns the connection beneath, for what only TCP has.
func (n *connection) NetConn() net.Conn { return n.Conn }

// CloseWrite says that nothing more will be sent, so that a client that sends on
// still gets to read why; net/http looks for it.
func (n *connection) CloseWrite() error {
	if half, ok := n.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

type connectionKey struct{}

// Watch has the guard know what the connections of its listener do. Without it all
// of them count as idle.
func (g *Guard) Watch(server *http.Server) {
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connectionKey{}, counted(conn))
	}
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		if state != http.StateIdle {
			return
		}
		if n := counted(conn); n != nil {
			n.rest()
		}
	}
}

// counted returns the connection of the listener beneath conn, nil for none.
func counted(conn net.Conn) *connection {
	for conn != nil {
		if n, ok := conn.(*connection); ok {
			return n
		}
		wrapper, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		conn = wrapper.NetConn()
	}
	return nil
}
