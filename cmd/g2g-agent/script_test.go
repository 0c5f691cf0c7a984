package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/g2g-agent/g2g-agent/record"
)

// leakChecked fails a run of tests that leaves goroutines behind.
type leakChecked struct{ *testing.M }

func (m leakChecked) Run() int {
	code := m.M.Run()
	if code != 0 {
		return code
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestMain puts the program, which is the test binary under another name, into
// the PATH.
func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){"g2g-agent": main})
}

// repositoryRoot is where the shipped configs and the golden files are.
func repositoryRoot(t testing.TB) string {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// TestScripts runs testdata/*.txtar; $ROOT is the root of the repository.
func TestScripts(t *testing.T) {
	root := repositoryRoot(t)
	scripts, err := filepath.Glob(filepath.Join("testdata", "*.txtar"))
	if err != nil || len(scripts) == 0 {
		t.Fatal(scripts, err)
	}
	testscript.Run(t, testscript.Params{
		Files: scripts, // and not every .txt beside them
		Setup: func(env *testscript.Env) error {
			env.Setenv("ROOT", root)
			// Under the race detector a program waits a second before it exits.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("G2G_AGENT_API__LISTEN", "127.0.0.1:0") // several run at once
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exit": cmdExit, "empty": cmdEmpty, "plain": cmdPlain, "lines": cmdLines, "ascsv": cmdAsCSV, "samecsv": cmdSameCSV, "files": cmdFiles,
		},
		Condition: func(name string) (bool, error) {
			if name == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
	})
}

// usage ends the script if the command was not written as it must be.
func usage(ts *testscript.TestScript, ok bool, text string) {
	if !ok {
		ts.Fatalf("usage: %s", text)
	}
}

// cmdExit runs a program, which must exit with the given status.
func cmdExit(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 2, "exit STATUS PROGRAM ARG...")
	status := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exited *exec.ExitError
		if !errors.As(err, &exited) {
			ts.Fatalf("%s: %v", args[1], err)
		}
		status = exited.ExitCode()
	}
	if want := args[0]; strconv.Itoa(status) != want {
		ts.Fatalf("%s exited with status %d, want %s", strings.Join(args[1:], " "), status, want)
	}
}

// cmdEmpty holds a file, or the last stdout or stderr, to be empty.
func cmdEmpty(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "empty FILE")
	if text := ts.ReadFile(args[0]); text != "" {
		ts.Fatalf("%s is not empty: %s", args[0], text)
	}
}

// cmdPlain holds a file to plain text: nothing that moves a terminal's cursor.
func cmdPlain(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "plain FILE")
	if text := ts.ReadFile(args[0]); strings.ContainsAny(text, "\r\x1b") {
		ts.Fatalf("%s holds control characters: %q", args[0], text)
	}
}

// cmdLines counts the lines of a file.
func cmdLines(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "lines N FILE")
	if got := strings.Count(ts.ReadFile(args[1]), "\n"); strconv.Itoa(got) != args[0] {
		ts.Fatalf("%s has %d lines, want %s", args[1], got, args[0])
	}
}

// cmdFiles holds a directory to exactly the named files.
func cmdFiles(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 1, "files DIR NAME...")
	list, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	var got []string
	for _, e := range list {
		if e.Name() != ".tmp" { // the script's own $TMPDIR
			got = append(got, e.Name())
		}
	}
	if want := args[1:]; strings.Join(got, " ") != strings.Join(want, " ") {
		ts.Fatalf("%s holds %q, want %q", args[0], got, want)
	}
}

// cmdAsCSV writes the states of a file of any format as CSV.
func cmdAsCSV(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "ascsv FILE CSV")
	states, err := record.ReadAll(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(states) == 0 {
		ts.Fatalf("%s holds no states", args[0])
	}
	var labels []string
	for _, m := range states[0].Models {
		labels = append(labels, m.ModelLabel)
	}
	var out bytes.Buffer
	w, err := record.NewCSVWriter(&out, labels)
	ts.Check(err)
	for i := range states {
		ts.Check(w.Write(&states[i]))
	}
	ts.Check(w.Close())
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), out.Bytes(), 0o600))
}

// cmdSameCSV compares two files of states cell by cell. Latencies may differ in
// what the exp of one processor and of another differ.
func cmdSameCSV(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) == 2, "[!] samecsv FILE1 FILE2")
	read := func(name string) [][]string {
		rows, err := csv.NewReader(strings.NewReader(ts.ReadFile(name))).ReadAll()
		ts.Check(err)
		return rows
	}
	difference := differingCell(read(args[0]), read(args[1]))
	switch {
	case neg && difference == "":
		ts.Fatalf("%s and %s hold the same", args[0], args[1])
	case !neg && difference != "":
		ts.Fatalf("%s and %s differ: %s", args[0], args[1], difference)
	}
}

// differingCell names the first difference, if there is one.
func differingCell(a, b [][]string) string {
	if len(a) != len(b) {
		return fmt.Sprintf("%d and %d rows", len(a), len(b))
	}
	for i := range a {
		if len(a[i]) != len(b[i]) {
			return fmt.Sprintf("%d and %d columns in row %d", len(a[i]), len(b[i]), i)
		}
		for j, x := range a[i] {
			latency := i > 0 && strings.HasSuffix(a[0][j], ":observed_itl_s")
			if y := b[i][j]; x != y && !(latency && nearlyEqual(x, y)) {
				return fmt.Sprintf("row %d, %s: %s and %s", i, a[0][j], x, y)
			}
		}
	}
	return ""
}

func nearlyEqual(x, y string) bool {
	a, err1 := strconv.ParseFloat(x, 64)
	b, err2 := strconv.ParseFloat(y, 64)
	return err1 == nil && err2 == nil && math.Abs(a-b) <= 1e-12*math.Abs(b)
}
