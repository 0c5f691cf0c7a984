package recording

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// childDirectory makes the test program record there until it is killed.
const childDirectory = "G2GTEST_RECORD_IN"

// recordUntilKilled records as fast as the disk takes it, 16 GPUs and 3 models, and says
// for each second that is on the disk so, and for each command.
func recordUntilKilled(dir string) {
	w, err := Open(Options{Dir: dir, MaxBytes: MinMaxBytes, Log: zerolog.Nop()})
	if err != nil {
		fmt.Fprintln(os.Stdout, "error", err)
		os.Exit(1)
	}
	dt, _ := datacenter.ParseSeconds("1/10")
	h := Header{RunID: "killed", StartMs: startMs, DT: dt, Models: []string{"model0", "model1", "model2"}}
	for i := range 16 {
		h.GPUs = append(h.GPUs, GPU{GPU: strconv.Itoa(i)})
	}
	w.Start(h)
	r := &run{w: w, gpus: len(h.GPUs), models: len(h.Models)}
	for second := uint64(0); ; second++ {
		w.Command(Command{Seq: r.seq, Actor: Actor{Via: "script"}}, nil)
		for range 10 {
			r.step()
		}
		r.states = r.states[:0]
		for w.Stats().Seconds <= second {
			<-time.After(100 * time.Microsecond)
		}
		fmt.Fprintln(os.Stdout, "there", second)
	}
}

// Whenever a recording is killed, all that it has said to be on the disk is there, whole,
// and nothing of it is missing in between. G2GTEST_KILLS says how often; 5.
func TestKilled(t *testing.T) {
	kills := 5
	if text := os.Getenv("G2GTEST_KILLS"); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for i := range kills {
		dir := t.TempDir()
		killed(t, dir, time.Duration(rand.Int64N(int64(300*time.Millisecond))))
		// The directory is not locked any more.
		short(t, Options{Dir: dir}, 1)
		if t.Failed() {
			t.Fatalf("at the %dth kill", i)
		}
	}
}

// killed runs the child, kills it after its first second and a time more, and looks at
// what it has left.
func killed(t *testing.T, dir string, after time.Duration) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childDirectory+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	there := int64(-1)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), "there %d", &there); err != nil {
			t.Errorf("the child says %s", lines.Text())
		}
		if there == 0 {
			time.AfterFunc(after, func() { _ = child.Process.Kill() })
		}
	}
	if err := child.Wait(); err == nil || !strings.Contains(err.Error(), "killed") || there < 0 {
		t.Fatalf("the child ended: %v", err)
	}
	last, first := int64(-1), int64(-1)
	commands := map[int64]bool{}
	for _, name := range namesIn(t, dir) {
		if _, is := SegmentNumber(name); !is {
			continue
		}
		frames, _ := wholeFramesOf(t, read(t, filepath.Join(dir, name)))
		for _, line := range segmentLines(t, read(t, filepath.Join(dir, name))) {
			switch l := line.(type) {
			case *StateHash:
				if first < 0 {
					first, last = l.Second, l.Second-1
				}
				if l.Second != last+1 || len(l.Hash) != 10 {
					t.Errorf("second %d, of %d steps, after %d", l.Second, len(l.Hash), last)
				}
				last = l.Second
			case *Command:
				commands[l.Seq] = true
			}
		}
		if len(frames) == 0 && name != namesIn(t, dir)[len(namesIn(t, dir))-1] {
			t.Errorf("%s has no whole frame", name)
		}
	}
	if last < there {
		t.Errorf("second %d was said to be on the disk, the last there is %d", there, last)
	}
	for second := first; second <= there; second++ {
		if !commands[10*second] {
			t.Errorf("the command of second %d is missing", second)
		}
	}
}
