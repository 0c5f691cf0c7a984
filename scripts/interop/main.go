// Command interop runs the agent against the real programs that it talks to: zeusd
// daemons of the supported versions over a stand-in for NVIDIA's driver library,
// whose driver hangs, loses a GPU or has nothing new to tell; and, with -vllm, a
// real vLLM server on the CPU, whose own histogram of latencies it is compared
// with. It installs what it needs below -work, by name, with cargo and pip.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/g2g-agent/g2g-agent/scripts/internal/measuring"
)

func main() {
	work := flag.String("work", ".interop", "directory for what is installed, kept for the next time")
	versions := flag.String("zeusd", "0.5.0,0.4.0", "versions of zeusd, separated by commas; empty for none")
	verbose := flag.Bool("v", false, "also show the agent's log")
	vllm := flag.Bool("vllm", false, "also real vLLM on the CPU: needs Python 3.12, 6 GB of disk and some minutes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *work, strings.FieldsFunc(*versions, func(r rune) bool { return r == ',' }), *vllm, *verbose)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, work string, versions []string, vllm, verbose bool) error {
	work, err := filepath.Abs(work)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(work, 0o755); err != nil {
		return err
	}
	agent, err := measuring.Build(ctx, work)
	if err != nil {
		return err
	}
	r := &report{}
	if len(versions) > 0 {
		library, err := buildStandIn(ctx, work)
		if err != nil {
			return err
		}
		for _, version := range versions {
			daemon, err := installZeusd(ctx, work, version)
			if err != nil {
				return err
			}
			for _, socket := range []bool{false, true} {
				s := &site{agent: agent, daemon: daemon, library: library, version: version, unix: socket, verbose: verbose}
				if err := s.check(ctx, r); err != nil {
					return fmt.Errorf("%s: %w", s, err)
				}
			}
		}
	}
	if vllm {
		if err := checkVLLM(ctx, work, agent, r); err != nil {
			return fmt.Errorf("vLLM: %w", err)
		}
	}
	return r.verdict()
}

// report collects what holds and what does not.
type report struct{ failed int }

// that prints a finding.
func (r *report) that(ok bool, format string, args ...any) {
	mark := "ok   "
	if !ok {
		mark = "FAIL "
		r.failed++
	}
	fmt.Println(mark + fmt.Sprintf(format, args...))
}

func (r *report) verdict() error {
	if r.failed > 0 {
		return fmt.Errorf("%d checks failed", r.failed)
	}
	return nil
}

// installZeusd installs a version with cargo, unless that was done before.
func installZeusd(ctx context.Context, work, version string) (binary string, err error) {
	root := filepath.Join(work, "zeusd-"+version)
	binary = filepath.Join(root, "bin", "zeusd")
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	fmt.Println("installing zeusd", version)
	return binary, command(ctx, "cargo", "install", "zeusd", "--version", version, "--locked", "--root", root)
}

// buildStandIn builds the library and returns its directory.
func buildStandIn(ctx context.Context, work string) (dir string, err error) {
	dir = filepath.Join(work, "nvml")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	library := filepath.Join(dir, "libnvidia-ml.so.1")
	err = command(ctx, "gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library, "scripts/interop/nvml/standin.c")
	return dir, err
}

// command runs a program and shows what it said only if it fails.
func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%s is not installed: %w", name, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(append([]string{name}, args...), " "), err, out)
	}
	return nil
}
