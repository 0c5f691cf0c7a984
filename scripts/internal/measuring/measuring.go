// Package measuring is what the scripts that measure a whole agent have in common.
package measuring

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Build builds the agent of the working tree into dir and returns the program's
// path. The working directory is the root of the repository.
func Build(ctx context.Context, dir string) (binary string, err error) {
	binary = filepath.Join(dir, "g2g-agent")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/g2g-agent").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building: %w\n%s", err, out)
	}
	return binary, nil
}

// Publish puts text between two markers of a page, in place of what is there.
func Publish(page, begin, end, text string) error {
	raw, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(raw), begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		return fmt.Errorf("%s lacks the markers %s and %s", page, begin, end)
	}
	return os.WriteFile(page, []byte(before+begin+"\n"+text+"\n"+end+after), 0o644)
}

// FreePort returns a TCP port of 127.0.0.1 that was free just now.
func FreePort(ctx context.Context) (string, error) {
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return "", err
	}
	return port, l.Close()
}
