package completion

import (
	"errors"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// receiver reads from a socket together with the kernel's receive time. Its
// buffers serve one read at a time.
type receiver struct {
	header  unix.Msghdr
	iovec   unix.Iovec
	control [16]uint64 // aligned as control messages ask
	// template is that of the streams that are read with this receiver.
	template eventTemplate
	buffer   [64 << 10]byte
}

func newReceiver() *receiver {
	r := &receiver{}
	r.iovec.Base = &r.buffer[0]
	r.iovec.SetLen(len(r.buffer))
	r.header.Iov = &r.iovec
	r.header.SetIovlen(1)
	r.header.Control = (*byte)(unsafe.Pointer(&r.control[0]))
	return r
}

const hasReceiveTimes = true

// enableReceiveTimes asks the kernel for the receive time of what is read from
// the socket, and for what is left to read after it. Without them the
// measurement is coarser, not wrong, so a refusal is no error here.
func enableReceiveTimes(raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_INQ, 1)
	})
}

// errWouldBlock is returned for a socket that has nothing to read now.
var errWouldBlock = errors.New("nothing to read")

// receive reads what is there, without waiting: no bytes and no error is the end
// of the stream. stampNs is the kernel's receive time of the last byte, on the
// real-time clock, 0 if it gave none. more tells whether another read may find
// something without being woken for it.
//
// The call is made without a word to the scheduler, which halves its cost; it
// never blocks.
func (r *receiver) receive(fd int) (data []byte, stampNs int64, more bool, err error) {
	for {
		r.header.SetControllen(int(unsafe.Sizeof(r.control)))
		n, _, errno := syscall.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&r.header)), unix.MSG_DONTWAIT)
		switch errno {
		case 0:
			stampNs, left, known := r.controlMessages()
			return r.buffer[:n], stampNs, left > 0 || !known, nil
		case unix.EINTR:
		case unix.EAGAIN:
			return nil, 0, false, errWouldBlock
		default:
			return nil, 0, false, errno
		}
	}
}

// controlMessages are the receive time, and how many bytes the socket has left:
// at least 1 at the end of the stream, for that is left to read too.
func (r *receiver) controlMessages() (stampNs int64, left int32, known bool) {
	const headerSize = unix.SizeofCmsghdr
	word := int(unsafe.Sizeof(uintptr(0)))
	control := unsafe.Slice((*byte)(unsafe.Pointer(&r.control[0])), int(r.header.Controllen))
	for len(control) >= headerSize {
		header := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		size := int(header.Len)
		if size < headerSize || size > len(control) {
			break
		}
		data := control[headerSize:size]
		switch {
		case header.Level == unix.SOL_SOCKET && header.Type == unix.SCM_TIMESTAMPNS && len(data) >= int(unsafe.Sizeof(unix.Timespec{})):
			stamp := (*unix.Timespec)(unsafe.Pointer(&data[0]))
			stampNs = stamp.Nano()
		case header.Level == unix.IPPROTO_TCP && header.Type == unix.TCP_INQ && len(data) >= 4:
			left, known = *(*int32)(unsafe.Pointer(&data[0])), true
		}
		control = control[min((size+word-1)&^(word-1), len(control)):]
	}
	return stampNs, left, known
}
