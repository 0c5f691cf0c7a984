//go:build !linux

package completion

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"
)

// There are no kernel receive times on this system: connections are read as Go
// reads them and stamped after the read. The types below are never used.

const hasReceiveTimes = false

func enableReceiveTimes(syscall.RawConn) error { return nil }

var errWouldBlock = errors.New("nothing to read")

type receiver struct{ template eventTemplate }

func newReceiver() *receiver { return &receiver{} }

func (r *receiver) receive(int) (data []byte, stampNs int64, more bool, err error) {
	return nil, 0, false, errors.ErrUnsupported
}

type collector struct{}

func (c *collector) adopt(*net.TCPConn) (*socket, error) { return nil, errors.ErrUnsupported }

type socket struct{ finished chan struct{} }

func (s *socket) close() error                                     { return nil }
func (s *socket) deliver() bool                                    { return false }
func (s *socket) await(func(fd int) (finished bool))               {}
func (s *socket) abandon()                                         {}
func (s *socket) write(context.Context, time.Time, [][]byte) error { return errors.ErrUnsupported }
func (s *socket) lock()                                            {}
func (s *socket) unlock()                                          {}
func (s *socket) readLater()                                       {}
func (s *socket) idle() bool                                       { return true }
