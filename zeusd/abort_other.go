//go:build !linux

package zeusd

import "net"

// abortive returns the connection such that closing it is noticed by the daemon,
// as far as this system allows.
func abortive(conn net.Conn) net.Conn {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // else the end is orderly, and the daemon notices later
	}
	return conn
}
