package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/recording"
)

type recordingCmd struct {
	Info   recordingInfoCmd   `cmd:"" help:"Say what is in a recording: its runs, their times, GPUs, models and lines."`
	Verify recordingVerifyCmd `cmd:"" help:"Read all of a recording and say, segment by segment, what is damaged or missing; exit status 1 unless it is whole."`
	Cut    recordingCutCmd    `cmd:"" help:"Write a part of a recording, by time, into a new directory: a recording that reads alone."`
}

type recordingInfoCmd struct {
	Dir  string `arg:"" placeholder:"DIR" help:"The recording."`
	JSON bool   `help:"Print JSON."`
}

// Run says what is in a recording.
func (cmd recordingInfoCmd) Run(ctx context.Context, term terminal) error {
	r, err := recording.OpenReader(cmd.Dir)
	if err != nil {
		return err
	}
	info, err := r.Info(ctx)
	if err != nil {
		return err
	}
	if cmd.JSON {
		return printJSON(term.stdout, info)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s: runs: %d, segments: %d, %.1f MB\n", cmd.Dir, len(info.Runs), info.Segments, megabytes(info.Bytes))
	for i := range info.Runs {
		writeRunInfo(&b, &info.Runs[i])
	}
	if info.Damages > 0 {
		fmt.Fprintf(&b, "\n%d parts of it cannot be read: g2g-agent recording verify %s says which\n", info.Damages, cmd.Dir)
	}
	_, err = term.stdout.Write(b.Bytes())
	return err
}

func megabytes(n int64) float64 { return float64(n) / 1e6 }

// maxShown bounds what is shown of a text in a recording, in bytes.
const maxShown = 200

func writeRunInfo(b *bytes.Buffer, run *recording.RunInfo) {
	shown := func(text string) string { return excerpt.Printable(text, maxShown) }
	end := "no end: it was killed, or goes on"
	if run.End != "" {
		end = "ended: " + shown(run.End)
	}
	fmt.Fprintf(b, "\nrun %s, started %s by g2g-agent %s\n", shown(run.RunID), run.StartedAt.Format(time.RFC3339), shown(run.AgentVersion))
	fmt.Fprintf(b, "  %s to %s: seconds %d to %d, %d of them here; %s\n",
		run.From.Format(time.RFC3339), run.To.Format(time.RFC3339), run.FirstSecond, run.LastSecond, run.Seconds, end)
	fmt.Fprintf(b, "  %d GPUs, a step every %s s, models: %s\n", run.GPUs, run.DT, shown(strings.Join(run.Models, ", ")))
	fmt.Fprintf(b, "  %.1f MB; before compression:\n", megabytes(run.Bytes))
	for _, kind := range slices.Sorted(maps.Keys(run.Lines)) {
		fmt.Fprintf(b, "    %-12s %9d lines %10.2f MB\n", shown(string(kind)), run.Lines[kind], megabytes(run.LineBytes[kind]))
	}
}

func printJSON(w io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

type recordingVerifyCmd struct {
	Dir  string `arg:"" placeholder:"DIR" help:"The recording."`
	JSON bool   `help:"Print JSON."`
}

// Run says what is damaged or missing; an error if anything is.
func (cmd recordingVerifyCmd) Run(ctx context.Context, term terminal) error {
	r, err := recording.OpenReader(cmd.Dir)
	if err != nil {
		return err
	}
	report, err := r.Verify(ctx)
	if err != nil {
		return err
	}
	if cmd.JSON {
		err = printJSON(term.stdout, report)
	} else {
		_, err = term.stdout.Write(verdict(report))
	}
	if err == nil && !report.Whole {
		err = fmt.Errorf("%s is not whole", cmd.Dir)
	}
	return err
}

// verdict is what was found, in words.
func verdict(report *recording.Report) []byte {
	var b bytes.Buffer
	for i := range report.Segments {
		s := &report.Segments[i]
		seconds := "no seconds"
		if s.FirstSecond != nil {
			seconds = fmt.Sprintf("seconds %d to %d (%d)", *s.FirstSecond, *s.LastSecond, s.Seconds)
		}
		order := "ended in order"
		if !s.EndedInOrder {
			order = "not ended in order"
		}
		fmt.Fprintf(&b, "%s: %s, %d frames, %.1f MB; damaged: %d frames of %d bytes, %d lines; %d gaps; %d other faults; %s\n",
			s.File, seconds, s.Frames, megabytes(s.Bytes), s.DamagedFrames, s.DamagedBytes, s.DamagedLines, s.Gaps, s.Faults, order)
		for _, finding := range s.Findings {
			fmt.Fprintf(&b, "  %s\n", finding)
		}
	}
	if report.Whole {
		fmt.Fprintf(&b, "%s is whole\n", excerpt.Printable(report.Dir, maxShown))
	}
	return b.Bytes()
}

type recordingCutCmd struct {
	Dir string `arg:"" placeholder:"DIR" help:"The recording."`
	Out string `required:"" placeholder:"DIR" help:"Directory to make. It appears when it is complete."`
	partFlags
}

// Run cuts a part out.
func (cmd recordingCutCmd) Run(ctx context.Context, term terminal) error {
	r, err := recording.OpenReader(cmd.Dir)
	if err != nil {
		return err
	}
	o, err := cmd.options(r)
	if err != nil {
		return err
	}
	o.Damaged = warnOfDamage(term)
	return r.Cut(ctx, o, cmd.Out)
}

// warnOfDamage tells of what is left out.
func warnOfDamage(term terminal) func(recording.Damage) {
	return func(d recording.Damage) {
		_ = tell(term.stderr, "g2g-agent: left out: "+d.String()+"\n") // there is nobody to be told
	}
}

// partFlags pick a part of a recording.
type partFlags struct {
	From  string `placeholder:"TIME" help:"Where it begins: seconds since the start of the run, or a time such as 2026-11-25T10:00:00Z. Whole seconds of the run that begin then or later."`
	To    string `placeholder:"TIME" help:"Where it ends, likewise; the second that begins then is no longer part of it."`
	RunID string `name:"run" placeholder:"RUN_ID" help:"Only this run, of those that the recording has."`
}

// options are what the flags pick of a recording.
func (f partFlags) options(r *recording.Reader) (o recording.ReadOptions, err error) {
	runs := runsOf(r)
	o.RunID = f.RunID
	if _, there := runs.startMs[f.RunID]; f.RunID != "" && !there {
		return o, invalidf("--run: %s has no run %s; it has %s", r.Dir(), excerpt.Quote(f.RunID, maxQuoted), runs.names())
	}
	if o.FromMs, err = runs.timeMs("--from", f.From, f.RunID); err != nil {
		return o, err
	}
	if o.ToMs, err = runs.timeMs("--to", f.To, f.RunID); err != nil {
		return o, err
	}
	if f.To != "" && o.ToMs <= o.FromMs {
		return o, invalidf("--to: %s is not after --from", excerpt.Quote(f.To, maxQuoted))
	}
	return o, nil
}

// recordedRuns are the runs that the segments' headers name.
type recordedRuns struct {
	ids     []string
	startMs map[string]int64
}

func runsOf(r *recording.Reader) recordedRuns {
	runs := recordedRuns{startMs: map[string]int64{}}
	for _, s := range r.Segments() {
		if _, known := runs.startMs[s.RunID]; s.HasHeader && !known {
			runs.ids = append(runs.ids, s.RunID)
			runs.startMs[s.RunID] = s.StartMs
		}
	}
	return runs
}

func (runs recordedRuns) names() string {
	if len(runs.ids) == 0 {
		return "none with a header that can be read"
	}
	const most = 10
	var names []string
	for _, id := range runs.ids[:min(len(runs.ids), most)] {
		names = append(names, excerpt.Printable(id, maxQuoted))
	}
	if more := len(runs.ids) - most; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}

// only is the one run there is, or that was asked for.
func (runs recordedRuns) only(flag, runID string) (string, error) {
	switch {
	case runID != "":
		return runID, nil
	case len(runs.ids) == 1:
		return runs.ids[0], nil
	}
	return "", invalidf("%s: name a run with --run; the recording has %s", flag, runs.names())
}

// timeMs reads a time: seconds of a run, or a time of day; 0 for none.
func (runs recordedRuns) timeMs(flag, text, runID string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t.UnixMilli(), nil
	}
	const most = 1e12
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || !(math.Abs(seconds) <= most) {
		return 0, invalidf("%s: want seconds since the start of the run or a time such as 2026-11-25T10:00:00Z, got %s", flag, excerpt.Quote(text, maxQuoted))
	}
	id, err := runs.only(flag, runID)
	if err != nil {
		return 0, err
	}
	return runs.startMs[id] + int64(math.Round(seconds*1000)), nil
}
