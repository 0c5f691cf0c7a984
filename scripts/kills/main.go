// The kills program starts live runs with --out in one folder, kills each with SIGKILL
// at a random moment, and looks at what is left after one that ends in order: nothing
// that was complete may have been replaced, nothing hidden may be left, and all that
// was written must be readable.
//
//	go run ./scripts/kills [-runs 50] [-ending .jsonl]
//
// With -recording, runs record in one directory (--record) instead: at most the last
// second of each may be missing, nothing before it, and each goes on behind the others.
//
//	go run ./scripts/kills -recording [-runs 100]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/backoff"
	"github.com/g2g-agent/g2g-agent/record"
	"github.com/g2g-agent/g2g-agent/scripts/internal/measuring"
)

func main() {
	runs := flag.Int("runs", 50, "how many runs are killed")
	ending := flag.String("ending", ".jsonl", "of the output: .csv, .jsonl or .parquet")
	recordings := flag.Bool("recording", false, "look at recordings, not at outputs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	what := func() error { return kill(ctx, *runs, *ending) }
	if *recordings {
		what = func() error { return killRecordings(ctx, *runs) }
	}
	if err := what(); err != nil {
		fmt.Fprintln(os.Stderr, "kills:", err)
		os.Exit(1)
	}
}

// earlier is what stands under the name of the output before the first run.
const earlier = "an earlier file\n"

func kill(ctx context.Context, runs int, ending string) error {
	dir, err := os.MkdirTemp("", "g2g-kills")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary, err := measuring.Build(ctx, dir)
	if err != nil {
		return err
	}
	folder := filepath.Join(dir, "out")
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	out := filepath.Join(folder, "states"+ending)
	if err := os.WriteFile(out, []byte(earlier), 0o600); err != nil {
		return err
	}
	for i := range runs {
		// The first states come after some 3 s.
		if _, err := killed(ctx, demo(ctx, binary, "--out", out), time.Duration(rand.Int64N(int64(6*time.Second)))); err != nil {
			return fmt.Errorf("run %d: %w", i, err)
		}
	}
	cmd := demo(ctx, binary, "--out", out, "--duration-s", "1")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("the run after %d that were killed: %w\n%s", runs, err, said)
	}
	return look(folder, runs)
}

func demo(ctx context.Context, binary string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, binary, append([]string{"demo"}, args...)...)
	cmd.Env = append(os.Environ(), "G2G_AGENT_API__LISTEN=", "G2G_AGENT_LIVE__STAGGER_S=1")
	return cmd
}

// killed lets a run go on for d, and says when it was killed.
func killed(ctx context.Context, cmd *exec.Cmd, d time.Duration) (at time.Time, err error) {
	if err := cmd.Start(); err != nil {
		return at, err
	}
	_ = backoff.Sleep(ctx, d) // an interrupt ends it all
	at = time.Now()
	if err := cmd.Process.Kill(); err != nil {
		return at, fmt.Errorf("it ended by itself: %w", errors.Join(err, cmd.Wait()))
	}
	_ = cmd.Wait() // it was killed
	return at, ctx.Err()
}

// look says what is in the folder, and what should not be.
func look(folder string, runs int) error {
	files, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	var faults []error
	readable, states, intact := 0, 0, 0
	for _, f := range files {
		path := filepath.Join(folder, f.Name())
		raw, err := os.ReadFile(path)
		switch {
		case err != nil:
			faults = append(faults, err)
		case strings.HasPrefix(f.Name(), ".") || strings.Contains(f.Name(), ".partial"):
			faults = append(faults, fmt.Errorf("%s is left", f.Name()))
		case string(raw) == earlier:
			readable++
			intact++
		default:
			all, err := record.ReadAll(path)
			switch {
			case err != nil:
				faults = append(faults, err)
			case len(all) == 0:
				faults = append(faults, fmt.Errorf("%s has no states", f.Name()))
			default:
				readable++
				states += len(all)
			}
		}
	}
	if intact != 1 {
		faults = append(faults, errors.New("the file that was there before the first run is not there as it was"))
	}
	fmt.Printf("%d runs killed at random moments, and one that ended: %d files can be read, with %d states; %d faults\n", runs, readable, states, len(faults))
	return errors.Join(faults...)
}
