//go:build linux

// Loadbench measures how exactly and how cheaply a load generator measures
// inter-token latency. scripts/compare_loadgen.py runs it.
//
//	loadbench serve    a server that knows when it wrote each token
//	loadbench samples  our streams against it, each sample compared with the truth
//	loadbench generate our load generator against it: CPU, memory, bias, self-check
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "loadbench:", err)
		os.Exit(1)
	}
}

// options are the flags of all verbs.
type options struct {
	url      string        // of the server
	streams  int           // requests in flight
	tokens   int           // of an answer
	interval time.Duration // between two tokens of a stream
	stagger  bool          // whether the first answers are shorter
	tick     time.Duration // between two times of writing; 0: each token has its own
	warmUp   time.Duration
	measure  time.Duration
}

func run(ctx context.Context, args []string, out io.Writer) error {
	verb := ""
	if len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet("loadbench "+verb, flag.ContinueOnError)
	var o options
	flags.StringVar(&o.url, "url", "", "of the server, for its clients")
	flags.IntVar(&o.streams, "streams", 64, "requests in flight")
	flags.IntVar(&o.tokens, "tokens", 256, "length of an answer")
	flags.DurationVar(&o.interval, "interval", 50*time.Millisecond, "between two tokens of a stream")
	flags.BoolVar(&o.stagger, "stagger", true, "give the first answers all lengths, so that they don't end together")
	flags.DurationVar(&o.tick, "tick", 0, "write what is due together only so often (0: each token at its own time)")
	flags.DurationVar(&o.warmUp, "warm-up", 2*time.Second, "time before the measured one")
	flags.DurationVar(&o.measure, "measure", 2*time.Second, "measured time")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var result any
	var err error
	switch verb {
	case "serve":
		return serve(ctx, o, out)
	case "samples":
		result, err = measureSamples(ctx, o)
	case "generate":
		result, err = measureGenerator(ctx, o)
	default:
		return fmt.Errorf("verb is %q, want serve, samples or generate", verb)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(result)
}

// cpuTime is what this process has used so far.
func cpuTime() (time.Duration, error) {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0, err
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}
