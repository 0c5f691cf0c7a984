package main

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func itoa(n int) string { return strconv.Itoa(n) }

func atoi(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// httpGet gets what must be there.
func httpGet(t *testing.T, url string) {
	t.Helper()
	r, err := http.Get(url) //nolint:noctx // it answers at once, or the test ends
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s", url, r.Status)
	}
}

func lockstepArgs(t *testing.T, urlFile string) []string {
	t.Helper()
	return []string{"replay", "--config", oneModelConfig(t), "--pace", "step", "--url-file", urlFile}
}

// TestURLFile: the URL is right when it is there, of a replay and of a live run that is
// still warming up, and is there as long as the agent.
func TestURLFile(t *testing.T) {
	t.Parallel()
	host := startSim(t)
	for name, args := range map[string][]string{
		"replay": {"replay", "--config", oneModelConfig(t), "--pace", "1"},
		"run":    {"run", "--config", host.writeConfig(t, quickStart)},
		"demo":   {"demo"},
	} {
		dir := t.TempDir()
		file, link := filepath.Join(dir, "url"), filepath.Join(dir, "link")
		if err := os.WriteFile(file, []byte("http://127.0.0.1:1\n"), 0o600); err != nil { // of an agent that was killed
			t.Fatal(err)
		}
		if err := os.Symlink("url", link); err != nil {
			t.Fatal(err)
		}
		p := startProgram(t, nil, append(args, "--url-file", link)...)
		eventually(t, "the old URL is gone", func() bool {
			text, err := os.ReadFile(file)
			return err == nil && string(text) != "http://127.0.0.1:1\n"
		})
		text, err := os.ReadFile(file)
		if err != nil || !regexp.MustCompile(`^http://127\.0\.0\.1:\d+\n$`).Match(text) {
			t.Fatalf("%s: the file holds %q (%v)", name, text, err)
		}
		httpGet(t, strings.TrimSuffix(string(text), "\n")+"/v1/info")
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		p.wait(t, soon) // a replay that is cut short is an error
		if entries := treeOf(t, dir); strings.Join(entries, " ") != "link" {
			t.Errorf("%s: the end leaves %v, want the link alone", name, entries)
		}
	}
}

func treeOf(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

// TestURLFileOfAnother: the file that another agent has written in the meantime stays.
func TestURLFileOfAnother(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "url")
	first := startProgram(t, nil, lockstepArgs(t, file)...)
	url := awaitURL(t, file)
	second := startProgram(t, nil, lockstepArgs(t, file)...)
	eventually(t, "the second has written its URL", func() bool {
		text, err := os.ReadFile(file)
		return err == nil && string(text) != url+"\n"
	})
	first.terminate(t)
	httpGet(t, awaitURL(t, file)+"/v1/info")
	second.terminate(t)
	if _, err := os.Stat(file); err == nil {
		t.Error("the second has left its file")
	}
}

// TestURLFileIsAFIFO: the run does not wait for the reader, who gets one line and the
// end, whenever he comes.
func TestURLFileIsAFIFO(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	p := startProgram(t, nil, lockstepArgs(t, fifo)...)
	p.await(t, &p.stderr, "waiting for a reader of --url-file")
	text, err := os.ReadFile(fifo)
	if err != nil || !regexp.MustCompile(`^http://127\.0\.0\.1:\d+\n$`).Match(text) {
		t.Fatalf("the FIFO has %q (%v)", text, err)
	}
	httpGet(t, strings.TrimSuffix(string(text), "\n")+"/v1/info")
	p.terminate(t)
	if _, err := os.Stat(fifo); err != nil {
		t.Error("the FIFO was taken away")
	}
	// The end does not wait for a reader either.
	p = startProgram(t, nil, lockstepArgs(t, fifo)...)
	p.await(t, &p.stderr, "waiting for a reader of --url-file")
	p.terminate(t)
}

// TestURLFileIsADescriptor: the line and the end come out of a pipe that was opened for
// the agent, while it runs on.
func TestURLFileIsADescriptor(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/dev/fd/3", "/proc/self/fd/3"} {
		theirs, ours, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "g2g-agent", lockstepArgs(t, path)...)
		cmd.ExtraFiles = []*os.File{ours}
		p := startCommand(t, cmd, nil)
		if err := ours.Close(); err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(theirs)
		if err != nil {
			t.Fatal(err)
		}
		httpGet(t, strings.TrimSuffix(string(text), "\n")+"/v1/info")
		p.terminate(t)
		if err := theirs.Close(); err != nil {
			t.Error(err)
		}
	}
}

// fill writes to a pipe until it is full.
func fill(t *testing.T, pipe *os.File) {
	t.Helper()
	fd := int(pipe.Fd())
	if err := syscall.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for err := error(nil); err == nil; {
		_, err = syscall.Write(fd, make([]byte, 4096))
	}
	if err := syscall.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
}

// TestURLFileDescriptorNobodyReads: a closed pipe is logged, and a full one not waited for.
func TestURLFileDescriptorNobodyReads(t *testing.T) {
	t.Parallel()
	theirs, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	start := func() *program {
		cmd := exec.CommandContext(t.Context(), "g2g-agent", lockstepArgs(t, "/dev/fd/3")...)
		cmd.ExtraFiles = []*os.File{ours}
		return startCommand(t, cmd, nil)
	}
	fill(t, ours)
	p := start()
	p.await(t, &p.stderr, "waiting for a reader of --url-file")
	p.terminate(t)
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	p = start()
	p.await(t, &p.stderr, "nobody reads --url-file any more")
	p.terminate(t)
	if err := ours.Close(); err != nil {
		t.Error(err)
	}
}

// TestURLFileOnAFullDisk: the run does not begin.
func TestURLFileOnAFullDisk(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip(err)
	}
	p := startProgram(t, nil, lockstepArgs(t, "/dev/full")...)
	if status := p.wait(t, soon); status != exitFailed || !strings.Contains(p.stderr.text(), "--url-file: write /dev/full: no space left on device") {
		t.Errorf("status %d; the log:\n%s", status, p.stderr.text())
	}
}
