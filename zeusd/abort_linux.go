package zeusd

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// abortive returns the connection such that closing it, or the end of this
// process, is noticed by the daemon. It does not notice an orderly end while it
// has nothing to send: it keeps the connection, and goes on polling for a listener
// that is gone. TCP has resets for that. The other end of a Unix socket is reset
// when something is left unread in it.
func abortive(conn net.Conn) net.Conn {
	switch c := conn.(type) {
	case *net.TCPConn:
		_ = c.SetLinger(0) // else the end is orderly, and the daemon notices later
	case *net.UnixConn:
		if raw, err := c.SyscallConn(); err == nil {
			return &unreadConn{UnixConn: c, raw: raw}
		}
	}
	return conn
}

// unreadConn leaves the last byte of what came in the socket, of which it hands
// out a copy.
type unreadConn struct {
	*net.UnixConn
	raw    syscall.RawConn
	held   int // bytes in the socket that were handed out, 0 or 1
	buffer []byte
}

// Read implements [net.Conn].
func (c *unreadConn) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	waitErr := c.raw.Read(func(fd uintptr) bool {
		n, err = c.receive(int(fd), p)
		return !errors.Is(err, unix.EAGAIN)
	})
	switch {
	case waitErr != nil: // it was closed, or the deadline passed
		return 0, waitErr
	case err != nil && !errors.Is(err, io.EOF):
		return 0, os.NewSyscallError("recvfrom", err)
	}
	return n, err
}

// receive reads what is new, without waiting: EAGAIN says that nothing is.
func (c *unreadConn) receive(fd int, p []byte) (n int, err error) {
	if len(c.buffer) < 1+len(p) {
		c.buffer = make([]byte, 1+len(p))
	}
	buffer := c.buffer[:c.held+len(p)]
	peek := func() (int, error) {
		total, _, err := unix.Recvfrom(fd, buffer, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return total, err
	}
	total, err := peek()
	end := false
	if err == nil && total == c.held && ended(fd) {
		total, err = peek() // what came just before the end
		end = total == c.held
	}
	switch {
	case err != nil:
		return 0, err
	case total == 0 || end:
		return 0, io.EOF
	case total == c.held:
		return 0, unix.EAGAIN
	}
	n = copy(p, buffer[c.held:total])
	c.held = 1
	if total > 1 {
		_, _, err = unix.Recvfrom(fd, buffer[:total-1], unix.MSG_DONTWAIT)
	}
	return n, err
}

// ended tells whether the peer will send no more.
func ended(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}
