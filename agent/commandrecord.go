package agent

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/recording"
	"github.com/g2g-agent/g2g-agent/rig"
)

// Origin is where a command came from, for the recording.
type Origin struct {
	Actor          recording.Actor
	IdempotencyKey string
	// Body is the command as it was received; nil: as this program would write it.
	Body []byte
}

type originKey struct{}

// WithOrigin says where the commands that are given with the context came from.
func WithOrigin(ctx context.Context, o Origin) context.Context {
	return context.WithValue(ctx, originKey{}, o)
}

// recordedResult is what became of one model's part of a command.
type recordedResult struct {
	ModelLabel string `json:"model_label,omitempty"`
	Outcome    string `json:"outcome"`
	Detail     string `json:"detail,omitempty"`
}

// The outcomes of a command beside those of vLLM servers.
const outcomeAccepted, outcomeRefused = "accepted", "refused"

// recordCommand records a command and what became of it, and waits for the disk if the
// run is to.
func (l *Live) recordCommand(ctx context.Context, command datacenter.Command, failed error) {
	line := recording.Command{WallTime: time.Now()}
	origin, _ := ctx.Value(originKey{}).(Origin)
	line.Actor, line.IdempotencyKey, line.Body = origin.Actor, origin.IdempotencyKey, origin.Body
	if line.Actor.Via == "" {
		line.Actor.Via = "script"
	}
	if line.Body == nil {
		line.Body, _ = datacenter.EncodeCommand(command) // what was applied can be encoded
	}
	line.Results, _ = json.Marshal(resultsOf(command, failed)) // text always marshals
	to := l.noteCommand(&line, command, failed)
	if to == nil {
		return
	}
	// The events of what took effect have told what is in force; by now it may be something else.
	if err := to.SyncCommand(ctx, line, nil); err != nil {
		l.cfg.Log.Warn().Err(err).Str("command", command.Name()).Msg("a command was carried out and may not be in the recording")
	}
}

// noteCommand fills in when a command was carried out, and hands it over unless that is to
// wait for the disk: then it returns who is to take it. What is in force is handed over in
// the order in which it is so.
func (l *Live) noteCommand(line *recording.Command, command datacenter.Command, failed error) (waiting Recorder) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line.Seq = l.pipeline.step
	if failed == nil {
		line.Seq = l.pipeline.firstWith(command)
	}
	line.TimeS = l.cfg.DT.Times(line.Seq)
	to := l.notes.to
	if to == nil || l.cfg.SyncCommands {
		return to
	}
	to.Command(*line, l.pipeline.inForce())
	return nil
}

// firstWith is the first step with what a command has changed, if it has any.
func (p *Pipeline) firstWith(command datacenter.Command) int64 {
	first := int64(-1)
	for m := range p.cfg.Models {
		label := p.cfg.Models[m].ModelLabel
		switch c := command.(type) {
		case datacenter.SetBatchSize:
			if _, named := c.BatchSizeByModel[label]; named {
				first = max(first, p.changed[m].batchSize)
			}
		case datacenter.ShiftReplicas:
			if c.ModelLabel == label {
				first = max(first, p.changed[m].shift)
			}
		default:
			first = max(first, p.changed[m].batchSize, p.changed[m].shift)
		}
	}
	if first < 0 {
		return p.step
	}
	return first
}

// resultsOf is what became of each model's part of a command.
func resultsOf(command datacenter.Command, failed error) []recordedResult {
	var labels []string
	switch c := command.(type) {
	case datacenter.SetBatchSize:
		labels = slices.Sorted(maps.Keys(c.BatchSizeByModel))
	case datacenter.ShiftReplicas:
		labels = []string{c.ModelLabel}
	}
	servers := (*ServersError)(nil)
	switch {
	case errors.As(failed, &servers) && labels == nil:
		labels = servers.labels()
	case failed != nil && servers == nil:
		return []recordedResult{{Outcome: outcomeRefused, Detail: failed.Error()}}
	case labels == nil:
		return []recordedResult{{Outcome: outcomeAccepted}}
	}
	results := make([]recordedResult, len(labels))
	for i, label := range labels {
		results[i] = recordedResult{ModelLabel: label, Outcome: outcomeAccepted}
		if servers == nil {
			continue
		}
		if err := servers.ByModel[label]; err != nil {
			results[i].Outcome, results[i].Detail = string(rig.OutcomeOf(err)), err.Error()
		}
	}
	return results
}
