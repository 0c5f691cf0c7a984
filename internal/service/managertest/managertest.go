//go:build unix

// Package managertest stands in for systemd in tests: a socket that hears what a
// service says of itself.
package managertest

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Manager is the socket of a service manager, which reads when it is told to.
type Manager struct {
	conn *net.UnixConn
	// Path is that of the socket.
	Path string
}

// Start opens the socket until the test ends.
func Start(t *testing.T) *Manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &Manager{conn, path}
}

// Next waits for a message and returns its lines.
func (m *Manager) Next(t *testing.T) []string {
	t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := m.conn.Read(buf)
	if err != nil {
		t.Fatalf("no message: %v", err)
	}
	return strings.Split(strings.TrimSpace(string(buf[:n])), "\n")
}

// Await reads until a message has the line, and returns the message.
func (m *Manager) Await(t *testing.T, line string) []string {
	t.Helper()
	for {
		if message := m.Next(t); slices.Contains(message, line) {
			return message
		}
	}
}

// Silent reports whether no message comes for d.
func (m *Manager) Silent(t *testing.T, d time.Duration) bool {
	t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		t.Fatal(err)
	}
	_, err := m.conn.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}
