package completion

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/g2g-agent/g2g-agent/internal/backoff"
)

// collectEvery is how often the sockets are looked after. The kernel has noted
// when the bytes came, so that they may wait: reading what came to thousands of
// streams in one go costs half of what waking up for each does. It is shorter
// than the time between two tokens of a stream.
const collectEvery = time.Millisecond

// collector reads the sockets of a client's streams, all in one goroutine, which
// runs while there are any.
type collector struct {
	mu  sync.Mutex
	now *collection // nil without sockets
}

// collection is the sockets from when there is one until there is none.
type collection struct {
	epoll   int
	sockets map[int32]*socket // by file descriptor; guarded by the collector's mu
	stop    chan struct{}
	stopped chan struct{}
}

// socket is a connection outside of Go's poller, which would wake up for each
// packet.
type socket struct {
	collector *collector
	epoll     int
	fd        int

	mu sync.Mutex // held while read runs, and with it over what read works on
	// read is called when there may be something to read, until it returns true;
	// nil while no response is awaited.
	read func(fd int) (finished bool)
	// finished holds one once read has returned true.
	finished chan struct{}
}

// adopt takes a connection over from Go's poller.
func (c *collector) adopt(conn *net.TCPConn) (*socket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{collector: c, fd: -1, finished: make(chan struct{}, 1)}
	var dupErr error
	if err := raw.Control(func(fd uintptr) {
		s.fd, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, os.NewSyscallError("fcntl", dupErr)
	}
	if err := c.add(s); err != nil {
		_ = unix.Close(s.fd)
		return nil, err
	}
	_ = conn.Close() // the duplicate keeps the connection
	return s, nil
}

func (c *collector) add(s *socket) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.now
	if all == nil {
		epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		if err != nil {
			return os.NewSyscallError("epoll_create1", err)
		}
		all = &collection{
			epoll: epoll, sockets: make(map[int32]*socket),
			stop: make(chan struct{}), stopped: make(chan struct{}),
		}
	}
	s.epoll = all.epoll
	if err := s.control(unix.EPOLL_CTL_ADD); err != nil {
		if c.now == nil {
			_ = unix.Close(all.epoll)
		}
		return os.NewSyscallError("epoll_ctl", err)
	}
	all.sockets[int32(s.fd)] = s
	if c.now == nil {
		c.now = all
		go c.collect(all)
	}
	return nil
}

func (s *socket) control(operation int) error {
	return unix.EpollCtl(s.epoll, operation, s.fd, &unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(s.fd),
	})
}

// readLater has the socket read again at the next look if it has something to
// read. If that cannot be asked for, the read once a second finds it.
func (s *socket) readLater() { _ = s.control(unix.EPOLL_CTL_MOD) }

// close closes the socket. With the last one the goroutine ends.
func (s *socket) close() error {
	s.abandon()
	c := s.collector
	c.mu.Lock()
	all := c.now
	delete(all.sockets, int32(s.fd))
	err := unix.Close(s.fd) // which also takes it from epoll
	last := len(all.sockets) == 0
	if last {
		c.now = nil
	}
	c.mu.Unlock()
	if last {
		close(all.stop)
		<-all.stopped
		err = errors.Join(err, unix.Close(all.epoll))
	}
	return os.NewSyscallError("close", err)
}

// collect reads the sockets of all until it is stopped.
func (c *collector) collect(all *collection) {
	defer close(all.stopped)
	ticker := time.NewTicker(collectEvery)
	defer ticker.Stop()
	var (
		events [64]unix.EpollEvent
		ready  [len(events)]*socket
	)
	for {
		select {
		case <-ticker.C:
		case <-all.stop:
			return
		}
		for {
			n := epollNow(all.epoll, events[:])
			c.mu.Lock()
			for i, event := range events[:n] {
				ready[i] = all.sockets[event.Fd] // nil when it was closed
			}
			c.mu.Unlock()
			for _, s := range ready[:n] {
				if s != nil {
					s.deliver()
				}
			}
			clear(ready[:n])
			if n < len(events) {
				break
			}
			runtime.Gosched() // a burst of thousands of chunks holds nobody else up
		}
	}
}

// epollNow is how many of events are there now.
func epollNow(epoll int, events []unix.EpollEvent) int {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll),
		uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0 // interrupted: the next look finds them
	}
	return int(n)
}

// deliver has the socket read, if a response is awaited. It tells whether that
// is finished.
func (s *socket) deliver() (finished bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.read == nil || !s.read(s.fd) {
		return false
	}
	s.read = nil
	s.finished <- struct{}{}
	return true
}

// await has read called from now on.
func (s *socket) await(read func(fd int) (finished bool)) {
	s.mu.Lock()
	s.read = read
	s.mu.Unlock()
}

// abandon has read not called any more.
func (s *socket) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read = nil
	select {
	case <-s.finished:
	default:
	}
}

func (s *socket) lock()   { s.mu.Lock() }
func (s *socket) unlock() { s.mu.Unlock() }

// write sends all of buffers; it gives up at the deadline or the end of ctx. A
// socket that takes no more is tried again soon, which only long requests need.
func (s *socket) write(ctx context.Context, deadline time.Time, buffers [][]byte) error {
	for len(buffers) > 0 {
		n, err := unix.SendmsgBuffers(s.fd, buffers, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			for len(buffers) > 0 && n >= len(buffers[0]) {
				n -= len(buffers[0])
				buffers = buffers[1:]
			}
			if len(buffers) > 0 {
				buffers[0] = buffers[0][n:]
			}
		case errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.EAGAIN):
			return os.NewSyscallError("sendmsg", err)
		case !time.Now().Before(deadline):
			return os.ErrDeadlineExceeded
		default:
			if err := backoff.Sleep(ctx, collectEvery); err != nil {
				return err
			}
		}
	}
	return nil
}

// idle tells whether a connection between two requests is open and has nothing
// to read. A server that has closed it is not at fault.
func (s *socket) idle() bool {
	var b [1]byte
	_, _, err := unix.Recvfrom(s.fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return errors.Is(err, unix.EAGAIN)
}
