package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/record"
	"github.com/g2g-agent/g2g-agent/recording"
)

type exportCmd struct {
	Dir  string `arg:"" placeholder:"DIR" help:"The recording."`
	Out  string `required:"" placeholder:"FILE" help:"File to write; the ending picks the format: .csv, .jsonl or .parquet. It appears when it is complete."`
	Kind string `default:"states" enum:"states,power,itl,events" help:"states: every state, computed again from what was recorded and compared with the recorded hashes. power: the GPUs' readings. itl: latencies by step and model. events: events and commands."`
	partFlags
}

// Run writes a table of a recording.
func (cmd exportCmd) Run(ctx context.Context, term terminal) error {
	r, err := recording.OpenReader(cmd.Dir)
	if err != nil {
		return err
	}
	o, err := cmd.options(r)
	if err != nil {
		return err
	}
	if cmd.Kind == "states" {
		if o.RunID, err = runsOf(r).only("--kind states", o.RunID); err != nil {
			return err
		}
		return cmd.states(ctx, o, term)
	}
	o.Damaged = warnOfDamage(term)
	table := exportTables()[cmd.Kind]
	o.Kinds = table.kinds
	out, err := record.CreateTable(cmd.Out, table.columns)
	if err != nil {
		return err
	}
	defer out.Abort()
	e := &exporter{out: out}
	for entry, err := range r.Lines(ctx, o) {
		if err != nil {
			return err
		}
		if err := e.line(entry); err != nil {
			return err
		}
	}
	return out.Commit()
}

// states runs the recording again, since it has full states only now and then.
func (cmd exportCmd) states(ctx context.Context, o recording.ReadOptions, term terminal) error {
	setup, err := agent.SetUpRecorded(ctx, cmd.Dir, agent.RecordedOptions{
		Read: o, Tell: func(text string) { _ = tell(term.stderr, "g2g-agent: "+text+"\n") }, // there is nobody to be told
	})
	if err != nil {
		return err
	}
	defer setup.Run.Close()
	out, err := record.Create(cmd.Out, labelsOf(setup.Models))
	if err != nil {
		return err
	}
	defer out.Abort()
	if _, err := agent.RunFast(ctx, setup.Run, out.Write); err != nil {
		return err
	}
	if c := setup.Run.Comparison(); c.Different > 0 {
		return fmt.Errorf("nothing was written: %d of the %d states compared differ from the recorded ones, first %s", c.Different, c.Compared, c.First)
	}
	return out.Commit()
}

// exportTable is a kind of export that is a table of lines.
type exportTable struct {
	kinds   []recording.Kind
	columns []record.Column
}

func exportTables() map[string]exportTable {
	const whole, float, text = record.IntColumn, record.FloatColumn, record.TextColumn
	return map[string]exportTable{
		"power": {[]recording.Kind{recording.KindPower}, []record.Column{
			{Name: "run_id", Type: text}, {Name: "time_s", Type: float}, {Name: "t_ms", Type: whole}, {Name: "gpu", Type: text},
			{Name: "model_label", Type: text}, {Name: "power_w", Type: float}, {Name: "step", Type: whole}, {Name: "mark", Type: text},
		}},
		"itl": {[]recording.Kind{recording.KindITL}, []record.Column{
			{Name: "run_id", Type: text}, {Name: "seq", Type: whole}, {Name: "time_s", Type: float}, {Name: "model_label", Type: text},
			{Name: "method", Type: text}, {Name: "count", Type: whole}, {Name: "sum_ns", Type: whole}, {Name: "output_tokens", Type: whole},
			{Name: "mean_s", Type: float}, {Name: "p50_s", Type: float}, {Name: "p90_s", Type: float}, {Name: "p95_s", Type: float}, {Name: "p99_s", Type: float},
		}},
		"events": {[]recording.Kind{recording.KindEvent, recording.KindCommand}, []record.Column{
			{Name: "run_id", Type: text}, {Name: "kind", Type: text}, {Name: "seq", Type: whole}, {Name: "time_s", Type: float}, {Name: "wall_time", Type: text},
			{Name: "id", Type: whole}, {Name: "topic", Type: text}, {Name: "actor", Type: text}, {Name: "data", Type: text}, {Name: "results", Type: text},
		}},
	}
}

// exporter writes lines as rows.
type exporter struct {
	out    *record.Table
	header *recording.Header
	models map[string]string // by GPU
	row    []record.Cell
}

func (e *exporter) line(entry *recording.Entry) error {
	if h := entry.Header; h != e.header {
		e.header, e.models = h, map[string]string{}
		if h != nil {
			for _, gpu := range h.GPUs {
				e.models[gpu.GPU] = gpu.ModelLabel
			}
		}
	}
	switch l := entry.Line.(type) {
	case *recording.Power:
		return e.power(l)
	case *recording.ITL:
		return e.itl(l)
	case *recording.Event:
		id := record.Int(l.ID)
		if l.ID < 0 {
			id = record.Missing(record.IntColumn)
		}
		return e.write(record.Text("event"), record.Int(l.Seq), record.Float(l.TimeS), wallTime(l.WallTime), id,
			record.Text(l.Topic), record.Missing(record.TextColumn), jsonText(l.Data), record.Missing(record.TextColumn))
	case *recording.Command:
		actor, err := json.Marshal(l.Actor)
		if err != nil {
			return err
		}
		return e.write(record.Text("command"), record.Int(l.Seq), record.Float(l.TimeS), wallTime(l.WallTime), record.Missing(record.IntColumn),
			record.Missing(record.TextColumn), jsonText(actor), jsonText(l.Body), jsonText(l.Results))
	}
	return nil
}

// write writes a row, after the run's id.
func (e *exporter) write(cells ...record.Cell) error {
	id := record.Missing(record.TextColumn)
	if e.header != nil {
		id = record.Text(e.header.RunID)
	}
	e.row = append(append(e.row[:0], id), cells...)
	return e.out.Write(e.row)
}

func (e *exporter) power(l *recording.Power) error {
	label := record.Missing(record.TextColumn)
	if model, known := e.models[l.GPU]; known {
		label = record.Text(model)
	}
	for i, tMs := range l.TMs {
		timeS := math.NaN()
		if e.header != nil {
			const nsPerMs, nsPerS = 1_000_000, 1e9
			timeS = float64((tMs-e.header.StartMs)*nsPerMs+l.OffsetNs) / nsPerS
		}
		err := e.write(record.Float(timeS), record.Int(tMs), record.Text(l.GPU), label,
			record.Float(float64(l.PowerMW[i])/1000), record.Int(l.Steps[i]), record.Text(string(rune(l.MarkOf(i)))))
		if err != nil {
			return err
		}
	}
	return nil
}

func (e *exporter) itl(l *recording.ITL) error {
	timeS, meanS := math.NaN(), math.NaN()
	if e.header != nil {
		timeS = e.header.DT.Times(l.Seq)
	}
	if l.Count > 0 {
		meanS = time.Duration(l.SumNs).Seconds() / float64(l.Count)
	}
	step := loadgen.StepITL{Bins: l.Bins, Counts: l.Counts}
	q := step.PercentilesS()
	return e.write(record.Int(l.Seq), record.Float(timeS), record.Text(l.ModelLabel), record.Text(string(l.Method)), record.Int(l.Count), record.Int(l.SumNs),
		record.Int(l.OutputTokens), record.Float(meanS), record.Float(q[0]), record.Float(q[1]), record.Float(q[2]), record.Float(q[3]))
}

func wallTime(t time.Time) record.Cell {
	if t.IsZero() {
		return record.Missing(record.TextColumn)
	}
	return record.Text(t.UTC().Format(time.RFC3339Nano))
}

func jsonText(raw json.RawMessage) record.Cell {
	if len(raw) == 0 {
		return record.Missing(record.TextColumn)
	}
	return record.Text(string(raw))
}
