package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// demoCommands are what a controller might do: batch sizes down as the grid is
// short of power, and up again.
func demoCommands() []datacenter.SetBatchSize {
	return []datacenter.SetBatchSize{
		{BatchSizeByModel: map[string]int{"Llama-3.1-8B": 16}},
		{BatchSizeByModel: map[string]int{"Llama-3.1-70B": 8, "Llama-3.1-405B": 8}},
		{BatchSizeByModel: map[string]int{"Llama-3.1-8B": 64, "Llama-3.1-70B": 32, "Llama-3.1-405B": 32}},
	}
}

const demoScriptInterval = 15 * time.Second

// demoScript commands the demo until someone else does. It knows that by the
// number of commands, of which it has counted its own.
type demoScript struct {
	accepted atomic.Int64  // commands from anybody that were not refused
	changed  chan struct{} // holds one
}

// onCommand counts a command that was not refused.
func (d *demoScript) onCommand(_ datacenter.Command, err error) {
	if refused(err) {
		return
	}
	d.accepted.Add(1)
	select {
	case d.changed <- struct{}{}:
	default: // it is about to look
	}
}

func refused(err error) bool {
	var e *datacenter.CommandError
	return errors.As(err, &e)
}

// follow sends the script's commands, again and again, until someone else has taken
// the controls or ctx is done.
func (d *demoScript) follow(ctx context.Context, run agent.Controllable, log zerolog.Logger) {
	ticker := time.NewTicker(demoScriptInterval)
	defer ticker.Stop()
	commands := demoCommands()
	own := int64(0)
	for i := 0; ; {
		due := false
		select {
		case <-ctx.Done():
			return
		case <-d.changed:
		case <-ticker.C:
			due = true
		}
		if d.accepted.Load() > own {
			log.Info().Msg("a command came over the API: the demo's own script ends")
			return
		}
		if !due {
			continue
		}
		err := run.Apply(ctx, commands[i%len(commands)])
		if !refused(err) {
			own++
		}
		if err != nil && ctx.Err() == nil {
			log.Warn().Err(err).Msg("a command of the demo failed")
		}
		i++
	}
}
