package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("disk full"), 1},
		{context.Canceled, 1},
		{datacenter.ErrInvalidInput, 2},
		{fmt.Errorf("config: %w", invalidf("seed is %d", -1)), 2},
		{errors.Join(errors.New("x"), invalidf("y")), 2},
	} {
		if got := exitStatus(c.err); got != c.want {
			t.Errorf("exitStatus(%v) = %d, want %d", c.err, got, c.want)
		}
	}
}

func TestUnderscoresToDashes(t *testing.T) {
	for args, want := range map[string]string{
		"":                               "",
		"generate --duration_s 20":       "generate --duration-s 20",
		"--out=my_file.csv --dt_s=0.1":   "--out=my_file.csv --dt-s=0.1",
		"--out my_file.csv":              "--out my_file.csv",
		"--seg_lo_range=a_b=c_d":         "--seg-lo-range=a_b=c_d",
		"-o_o my_verb":                   "-o_o my_verb",
		"--a_b -- --c_d e_f":             "--a-b -- --c_d e_f",
		"--already-dashed --ok":          "--already-dashed --ok",
		"--three_under_scores --x_=y_z_": "--three-under-scores --x-=y_z_",
	} {
		given := strings.Fields(args)
		before := slices.Clone(given)
		if got := strings.Join(underscoresToDashes(given), " "); got != want {
			t.Errorf("%q becomes %q, want %q", args, got, want)
		}
		if !slices.Equal(given, before) {
			t.Errorf("the arguments were changed to %q", given)
		}
	}
}

// runArgs runs the command line in this process, without a control API.
func runArgs(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	var out, log bytes.Buffer
	err = run(ctx, args, terminal{stdout: &out, stderr: &log, environ: []string{"G2G_AGENT_API__LISTEN="}})
	return out.String(), log.String(), err
}

func oneModelConfig(t testing.TB) string {
	return filepath.Join(repositoryRoot(t), "testdata", "configs", "one_model.yaml")
}

func TestSummaryText(t *testing.T) {
	root := repositoryRoot(t)
	var got strings.Builder
	for _, file := range []string{"testdata/configs/one_model.yaml", "testdata/configs/uneven_servers_exact_latency.yaml", "configs/replay.yaml"} {
		stdout, stderr, err := runArgs(t.Context(), "replay", "--config", filepath.Join(root, file))
		if err != nil || stderr != "" {
			t.Fatalf("%s: %v, stderr %s", file, err, stderr)
		}
		firstLine := regexp.MustCompile(`^(\d+ steps) in \S+\n`)
		if !firstLine.MatchString(stdout) {
			t.Fatalf("%s: the summary does not begin with steps and duration: %s", file, stdout)
		}
		fmt.Fprintf(&got, "-- %s --\n%s", file, firstLine.ReplaceAllString(stdout, "$1 in DURATION\n"))
	}
	golden := filepath.Join("testdata", "summary.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("the summaries differ from %s (-want +got):\n%s", golden, diff)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func TestCancelledRunWritesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, pace := range []string{"0", "1"} {
		dir := t.TempDir()
		out := filepath.Join(dir, "out.csv")
		for _, c := range []struct{ out, want string }{
			{out, "interrupted; " + out + " was not written"}, {"-", "interrupted"}, {"", "interrupted"},
		} {
			args := []string{"replay", "--config", oneModelConfig(t), "--pace", pace}
			if c.out != "" {
				args = append(args, "--out", c.out)
			}
			_, stderr, err := runArgs(ctx, args...)
			if err == nil || err.Error() != c.want || exitStatus(err) != exitFailed || stderr != "" {
				t.Errorf("--pace %s --out %q: error %v, stderr %q, want only %q", pace, c.out, err, stderr, c.want)
			}
		}
		if left := names(t, dir); left != nil {
			t.Errorf("--pace %s left %q", pace, left)
		}
	}
}

// TestReplayReplacesAndTidiesUp, and says so, where the log goes.
func TestReplayReplacesAndTidiesUp(t *testing.T) {
	dir := t.TempDir()
	out, left := filepath.Join(dir, "x.csv"), filepath.Join(dir, ".x.csv.ABCDEFGHIJKLMNOPQRSTUVWXYZ.part")
	for _, path := range []string{out, left} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, stderr, err := runArgs(t.Context(), "replay", "--config", oneModelConfig(t), "--out", out)
	if err != nil {
		t.Fatal(err)
	}
	for file, said := range map[string]string{out: "the earlier file was replaced", left: "a file left by a run that was interrupted was removed"} {
		if !slices.ContainsFunc(strings.Split(stderr, "\n"), func(line string) bool {
			return strings.Contains(line, fmt.Sprintf(`"file":%q`, file)) && strings.Contains(line, said)
		}) {
			t.Errorf("the log does not say of %s that %s:\n%s", file, said, stderr)
		}
	}
	if got := names(t, dir); !slices.Equal(got, []string{"x.csv"}) {
		t.Errorf("there are %q", got)
	}
	if _, stderr, err = runArgs(t.Context(), "replay", "--config", oneModelConfig(t), "--out", filepath.Join(dir, "y.csv")); err != nil || stderr != "" {
		t.Errorf("where nothing was: %v, %s", err, stderr)
	}
}

// rowWatcher calls seen once a whole row below the header has come.
type rowWatcher struct {
	bytes.Buffer
	seen func()
}

func (w *rowWatcher) Write(b []byte) (int, error) {
	n, err := w.Buffer.Write(b)
	if bytes.Count(w.Bytes(), []byte("\n")) >= 2 {
		w.seen()
	}
	return n, err
}

// TestPacedRowsComeAtOnce ends a run of 20 s at the first row it sees.
func TestPacedRowsComeAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := &rowWatcher{seen: cancel}
	err := run(ctx, []string{"replay", "--config", oneModelConfig(t), "--pace", "1", "--out", "-"}, terminal{stdout: out, stderr: io.Discard})
	if err == nil || err.Error() != "interrupted" || exitStatus(err) != exitFailed {
		t.Errorf("got error %v, want interrupted", err)
	}
	if got := out.String(); !strings.HasPrefix(got, "time_s,") || !strings.HasSuffix(got, "\n") {
		t.Errorf("got %q, want whole rows", got)
	}
}

// failingWriter is a full disk.
type failingWriter struct{}

var errFull = errors.New("no space left")

func (failingWriter) Write([]byte) (int, error) { return 0, errFull }

func TestFullOutputFailsTheRun(t *testing.T) {
	for _, args := range [][]string{
		{"replay", "--config", oneModelConfig(t)},
		{"replay", "--config", oneModelConfig(t), "--out", "-"},
		{"check", "--config", oneModelConfig(t)},
		{"generate", "training-trace"},
		{"version"},
	} {
		err := run(t.Context(), args, terminal{stdout: failingWriter{}, stderr: io.Discard})
		if !errors.Is(err, errFull) || exitStatus(err) != exitFailed {
			t.Errorf("%q: error %v, want %v and status 1", args, err, errFull)
		}
	}
}

// TestInterrupt signals a run in real time at its first step.
func TestInterrupt(t *testing.T) {
	const atOnce = time.Second
	raw, err := os.ReadFile(oneModelConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	// Before step 0 a command logs an event, which tells that the run is on.
	text := string(raw) + "  commands: [{t: 0, set_batch_size: {Llama-3.1-8B: 64}}]\nlog: {level: debug}\n"
	for _, ending := range []string{".csv", ".jsonl", ".parquet"} {
		for _, old := range []bool{false, true} {
			dir := t.TempDir()
			config, outDir := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "out")
			out := filepath.Join(outDir, "states"+ending)
			var want []string
			if err := errors.Join(os.WriteFile(config, []byte(text), 0o600), os.Mkdir(outDir, 0o700)); err != nil {
				t.Fatal(err)
			}
			if old {
				want = []string{"states" + ending}
				if err := os.WriteFile(out, []byte("old"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			status, stdout, log, took := interrupted(t, "replay", "--config", config, "--pace", "1", "--out", out)
			if status != exitFailed || took > atOnce {
				t.Errorf("%s: exited with status %d after %v, want 1 within %v", ending, status, took, atOnce)
			}
			if want := "g2g-agent: interrupted; " + out + " was not written\n"; stdout != "" || !strings.HasSuffix(log, want) {
				t.Errorf("%s: stdout %q, stderr %q, want only …%q", ending, stdout, log, want)
			}
			if diff := cmp.Diff(want, names(t, outDir)); diff != "" {
				t.Errorf("%s: files left (-want +got):\n%s", ending, diff)
			}
			if old {
				if raw, err := os.ReadFile(out); err != nil || string(raw) != "old" {
					t.Errorf("%s: what was there became %q (%v)", ending, raw, err)
				}
			}
		}
	}
}

// interrupted runs the program, interrupts it once it has logged a line, and
// tells how long it then took to exit.
func interrupted(t *testing.T, args ...string) (status int, stdout, stderr string, took time.Duration) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "g2g-agent", args...)
	cmd.Env = append(os.Environ(), "G2G_AGENT_API__LISTEN=", "G2G_AGENT_REPLAY__DATA_DIR="+filepath.Join(repositoryRoot(t), "configs", "example-data"))
	var out bytes.Buffer
	cmd.Stdout = &out
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log := bufio.NewReader(pipe)
	first, err := log.ReadString('\n')
	if err != nil || !strings.Contains(first, datacenter.BatchSizesUpdated{}.Topic()) {
		t.Errorf("the first line of the log is %q (%v)", first, err)
	}
	began := time.Now()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	rest, _ := io.ReadAll(log)
	var exited *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exited) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), first + string(rest), time.Since(began)
}
