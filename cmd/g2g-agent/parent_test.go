package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// served are the flags of a replay that goes on until it is ended, in order or not:
// in order, its output is there.
func served(t *testing.T) (args []string, urlFile, out string) {
	t.Helper()
	dir := t.TempDir()
	urlFile, out = filepath.Join(dir, "url"), filepath.Join(dir, "out.csv")
	return []string{"replay", "--config", oneModelConfig(t), "--pace", "step", "--url-file", urlFile, "--out", out, "--exit-with-parent"}, urlFile, out
}

// awaitURL waits for the agent that writes its URL to a file.
func awaitURL(t *testing.T, file string) string {
	t.Helper()
	var text []byte
	eventually(t, "there is a URL in "+file, func() bool {
		var err error
		text, err = os.ReadFile(file)
		return err == nil
	})
	return strings.TrimSuffix(string(text), "\n")
}

// endedInOrder fails unless an agent with these files has ended so.
func endedInOrder(t *testing.T, p *program, urlFile, out string) {
	t.Helper()
	if text, err := os.ReadFile(out); err != nil || !bytes.HasPrefix(text, []byte("time_s,")) {
		t.Errorf("its output was not completed: %v, %q; its log:\n%s", err, text, p.stderr.text())
	}
	if text, err := os.ReadFile(urlFile); err == nil {
		t.Errorf("its URL file was left: %q", text)
	}
}

// startChain starts a shell that starts an agent. An agent that does not end with it is
// killed in the end, else its output would go on for ever.
func startChain(t *testing.T, script string, args ...string) *program {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-c", script, "sh"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := startCommand(t, cmd, nil)
	late := time.AfterFunc(3*soon, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	t.Cleanup(func() { late.Stop() })
	return p
}

// TestParentIsKilled: a chain of the test, a shell, and the agent. The shell is killed,
// and nobody waits for it, so that it stays a zombie until the agent has ended.
func TestParentIsKilled(t *testing.T) {
	t.Parallel()
	args, urlFile, out := served(t)
	for _, form := range []string{"", "=$$"} {
		// In the background of a shell, standard input is /dev/null.
		script := fmt.Sprintf(`g2g-agent "$@"%s & wait`, form)
		p := startChain(t, script, args...)
		awaitURL(t, urlFile)
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		p.await(t, &p.stderr, "the parent is process")
		p.wait(t, soon) // until the agent, too, has closed its standard error
		endedInOrder(t, p, urlFile, out)
	}
}

// TestStandardInputOfAParentEnds: a pipe that the parent holds, whatever is written to it.
func TestStandardInputOfAParentEnds(t *testing.T) {
	t.Parallel()
	args, urlFile, out := served(t)
	cmd := exec.CommandContext(t.Context(), "g2g-agent", args...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := startCommand(t, cmd, nil)
	url := awaitURL(t, urlFile)
	if _, err := stdin.Write(bytes.Repeat([]byte("not for the agent\n"), 100)); err != nil {
		t.Fatal(err)
	}
	for range 3 { // it is there still
		httpGet(t, url+"/v1/info")
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if status := p.wait(t, soon); status != exitDone {
		t.Errorf("the exit status is %d; the log:\n%s", status, p.stderr.text())
	}
	p.await(t, &p.stderr, "standard input, a pipe, has ended; ending in order")
	endedInOrder(t, p, urlFile, out)
}

// TestOutputsOfADeadParent: standard output and error are pipes that nobody reads any
// more when standard input ends. The run is completed all the same.
func TestOutputsOfADeadParent(t *testing.T) {
	t.Parallel()
	args, urlFile, out := served(t)
	cmd := exec.CommandContext(t.Context(), "g2g-agent", args...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "G2G_AGENT_API__LISTEN=127.0.0.1:0")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	theirs, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = ours, ours
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitURL(t, urlFile)
	for _, end := range []interface{ Close() error }{ours, theirs, stdin} {
		if err := end.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Wait() // it could not print its summary
	if cmd.ProcessState.ExitCode() == -1 {
		t.Errorf("it was killed: %v", cmd.ProcessState)
	}
	endedInOrder(t, &program{}, urlFile, out)
}

// TestSocketOfAParentEnds: Node and others give sockets for standard input.
func TestSocketOfAParentEnds(t *testing.T) {
	t.Parallel()
	args, urlFile, out := served(t)
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.CloseOnExec(pair[0])
	syscall.CloseOnExec(pair[1])
	ours, file := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	cmd := exec.CommandContext(t.Context(), "g2g-agent", args...)
	cmd.Stdin = file
	p := startCommand(t, cmd, nil)
	awaitURL(t, urlFile)
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
	if status := p.wait(t, soon); status != exitDone {
		t.Errorf("the exit status is %d; the log:\n%s", status, p.stderr.text())
	}
	endedInOrder(t, p, urlFile, out)
	if err := file.Close(); err != nil {
		t.Error(err)
	}
}

// TestParentIsGoneAtTheStart: nothing is begun then.
func TestParentIsGoneAtTheStart(t *testing.T) {
	t.Parallel()
	dead := exec.CommandContext(t.Context(), "true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	closed, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
	defer closed.Close()
	for name, c := range map[string]struct {
		flag, want string
		status     int
		stdin      *os.File
	}{
		"a dead process": {"=" + strconv.Itoa(dead.Process.Pid), "and not " + strconv.Itoa(dead.Process.Pid) + ", which is gone already", exitFailed, nil},
		"a closed pipe":  {"", "standard input, a pipe, has ended already", exitFailed, closed},
		"no process":     {"=0", "want the id of the parent process", exitInvalid, nil},
		"a word":         {"=init", "want the id of the parent process", exitInvalid, nil},
		"nothing":        {"=", "want the id of the parent process", exitInvalid, nil},
	} {
		args, urlFile, _ := served(t)
		args[len(args)-1] += c.flag
		cmd := exec.CommandContext(t.Context(), "g2g-agent", args...)
		if c.stdin != nil {
			cmd.Stdin = c.stdin
		}
		p := startCommand(t, cmd, nil)
		if status := p.wait(t, soon); status != c.status || !strings.Contains(p.stderr.text(), c.want) {
			t.Errorf("%s: status %d, want %d and %q; the log:\n%s", name, status, c.status, c.want, p.stderr.text())
		}
		if _, err := os.Stat(urlFile); err == nil {
			t.Errorf("%s: the run was begun", name)
		}
	}
}

// TestSimulatedHostsEndWithTheirParent: sim has no API and no output, and ends well.
func TestSimulatedHostsEndWithTheirParent(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "g2g-agent", "sim", "--zeusd", "127.0.0.1:0", "--exit-with-parent="+strconv.Itoa(os.Getpid()))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := startCommand(t, cmd, nil)
	p.await(t, &p.stdout, "zeusd 127.0.0.1:")
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if status := p.wait(t, soon); status != exitDone {
		t.Errorf("the exit status is %d; the log:\n%s", status, p.stderr.text())
	}
}

// TestConfigFromStandardInputOfAParent: then it is the config that ends there.
func TestConfigFromStandardInputOfAParent(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(oneModelConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"-", "/dev/stdin"} {
		args, urlFile, out := served(t)
		args[2] = name
		cmd := exec.CommandContext(t.Context(), "g2g-agent", args...)
		cmd.Dir, cmd.Stdin = filepath.Dir(oneModelConfig(t)), bytes.NewReader(text)
		p := startCommand(t, cmd, []string{"G2G_AGENT_REPLAY__DATA_DIR=" + filepath.Join(repositoryRoot(t), "configs", "example-data")})
		url := awaitURL(t, urlFile)
		for range 3 { // it is there still
			httpGet(t, url+"/v1/info")
		}
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		p.await(t, &p.stderr, map[string]string{"-": "the config came from standard input and stays as it is", "/dev/stdin": "is no regular file, and is not read again"}[name])
		httpGet(t, url+"/v1/info")
		p.terminate(t)
		endedInOrder(t, p, urlFile, out)
	}
}
