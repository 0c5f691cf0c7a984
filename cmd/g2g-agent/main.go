// Command g2g-agent turns readings of a few GPUs into the three-phase power of a
// whole datacenter: offline from recorded traces, live from real hosts.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// Exit statuses.
const (
	exitDone    = 0
	exitFailed  = 1
	exitInvalid = 2 // wrong flags, config or input data
)

// maxMessage bounds the program's last words, in bytes.
const maxMessage = 64 << 10

// commandLine is the program's verbs.
type commandLine struct {
	Demo         demoCmd         `cmd:"" help:"Run live on simulated hosts: three models, nothing to install."`
	Run          runCmd          `cmd:"" help:"Run live: read the power of GPUs, load vLLM servers, scale to the datacenter."`
	Sim          simCmd          `cmd:"" help:"Run only simulated servers: a zeusd and vLLM servers to try an agent on."`
	Replay       replayCmd       `cmd:"" help:"Run the datacenter over recorded traces, as fast as possible or in real time."`
	Check        checkCmd        `cmd:"" help:"Validate a config and the data it names, without running anything."`
	Report       reportCmd       `cmd:"" help:"Sum up a run from the states it has written: power, latency, throughput."`
	Recording    recordingCmd    `cmd:"" help:"Look into a recording, check it, cut a part out."`
	Export       exportCmd       `cmd:"" help:"Write a recording as a table: CSV, JSON lines or Parquet."`
	Characterize characterizeCmd `cmd:"" help:"Measure models on live servers into a data directory: power and latency at each batch size."`
	Generate     generateCmd     `cmd:"" help:"Make input data."`
	Plot         plotCmd         `cmd:"" help:"Draw a run, or measured data and the fits to them, as PNG or SVG."`
	Version      versionCmd      `cmd:"" help:"Print the version."`
}

func main() {
	ctx, end := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, endSignals()...)
	go endBySignal(signals, end)
	err := run(ctx, os.Args[1:], terminal{os.Stdout, os.Stderr, os.Environ(), func() { askToEnd(signals) }})
	end()
	if err != nil {
		say(err)
	}
	os.Exit(exitStatus(err))
}

// say prints why the program ends, to who may not be reading.
func say(err error) {
	// That the input is at fault shows in the exit status and in the message itself.
	message := strings.ReplaceAll(err.Error(), datacenter.ErrInvalidInput.Error()+": ", "")
	_ = tell(os.Stderr, "g2g-agent: "+excerpt.Printable(message, maxMessage, '\n')+"\n") // there is nobody to be told
}

// run parses args and runs the verb they name.
func run(ctx context.Context, args []string, term terminal) error {
	helped := false
	parser, err := kong.New(&commandLine{}, append(decimalNumbers(),
		kong.Name("g2g-agent"),
		kong.Description("Datacenter power for grid simulation: replay recorded traces, or run live on GPU hosts."),
		kong.Writers(term.stdout, term.stderr),
		kong.Exit(func(int) { helped = true }), // --help has been printed
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(term),
	)...)
	if err != nil {
		return err
	}
	verb, err := parser.Parse(underscoresToDashes(args))
	if helped {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w (g2g-agent --help lists verbs and flags)", datacenter.ErrInvalidInput, err)
	}
	return verb.Run()
}

func exitStatus(err error) int {
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, datacenter.ErrInvalidInput):
		return exitInvalid
	default:
		return exitFailed
	}
}
