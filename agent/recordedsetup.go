package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/recording"
)

// RecordedOptions say what of a recording is run again, and what is otherwise.
type RecordedOptions struct {
	// Read picks the run and the time; see [recording.ReadOptions].
	Read recording.ReadOptions
	// Config, if set, takes the place of the recorded one. Its models must be the recorded
	// ones.
	Config *config.Config
	// Seed, if set, takes the place of the config's.
	Seed             *uint64
	LeaveOutCommands bool
	// Environ are the variables that override the recorded config.
	Environ []string
	OnEvent func(datacenter.Event)
	// Tell is told what is missing in the recording, and how its states differ.
	Tell func(string)
}

// RecordedSetup is a run from a recording, made from what that has.
type RecordedSetup struct {
	Run    *Recorded
	Config *config.Config
	Models []datacenter.ModelSpec
	Header *recording.Header

	dir     string
	options RecordedOptions
}

// Renew begins the recording anew, with the config as it is but for the override. What is
// wrong with that is an [*OverrideError].
func (s *RecordedSetup) Renew(ctx context.Context, o *config.Override) (*RecordedSetup, error) {
	c, problems := s.Config.With(o)
	if len(problems) > 0 {
		return nil, &OverrideError{problems}
	}
	options := s.options
	options.Config, options.Seed = c, nil
	return SetUpRecorded(ctx, s.dir, options)
}

// SetUpRecorded reads the beginning of a recording and prepares to run it again. Its errors wrap
// [datacenter.ErrInvalidInput] where the recording or what is otherwise is at fault.
func SetUpRecorded(ctx context.Context, dir string, o RecordedOptions) (*RecordedSetup, error) {
	reader, err := recording.OpenReader(dir)
	if err != nil {
		return nil, err
	}
	if o.Tell == nil {
		o.Tell = func(string) {}
	}
	lines := newRecordedLines(ctx, reader, o.Read, o.Tell)
	first, err := lines.second()
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %s has no whole second of a run in what was asked for", datacenter.ErrInvalidInput, dir)
	}
	if err != nil {
		lines.stop()
		return nil, err
	}
	lines.gap, lines.damaged = false, false
	s, err := setUpRecorded(lines, first, o)
	if err != nil {
		lines.stop()
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	s.dir, s.options = dir, o
	return s, nil
}

// RecordedConfigOf is the config of a recorded run, as the environment overrides it. How
// the recorded run served its API, logged and recorded does not matter.
func RecordedConfigOf(h *recording.Header, environ []string) (*config.Config, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(h.Config, &keys); err != nil {
		return nil, fmt.Errorf("%w: the recorded config: %w", datacenter.ErrInvalidInput, err)
	}
	for _, key := range []string{"api", "log", "record"} {
		delete(keys, key)
	}
	text, err := json.Marshal(keys)
	if err != nil {
		return nil, err
	}
	return config.Parse("the recorded config", text, environ, config.ForLive)
}

func setUpRecorded(lines *recordedLines, first *recordedSecond, o RecordedOptions) (*RecordedSetup, error) {
	h := first.header
	recorded, err := RecordedConfigOf(h, nil)
	if err != nil {
		return nil, err
	}
	c := o.Config
	if c == nil {
		if c, err = RecordedConfigOf(h, o.Environ); err != nil {
			return nil, err
		}
	}
	if o.Seed != nil {
		with := *c
		with.Seed = *o.Seed
		c = &with
	}
	models, err := c.LiveModelSpecs()
	if err != nil {
		return nil, err
	}
	if err := sameModels(h, c, models); err != nil {
		return nil, err
	}
	if len(recorded.Models) != len(h.Models) {
		return nil, fmt.Errorf("%w: the recording's header names %d models, and its config has %d", datacenter.ErrInvalidInput, len(h.Models), len(recorded.Models))
	}
	traces, err := loadTraces(c)
	if err != nil {
		return nil, err
	}
	cfg := RecordedConfig{
		Config: Config{
			Seed: c.Seed, DT: c.DT, Facility: c.LiveFacility(), Augmentation: c.AugmentationConfig(), Models: models,
			Training: trainingOf(c, traces), AllowInfeasibleBatchSizes: c.Control.AllowInfeasibleBatchSizes,
			AllowShiftsPastCapacity: c.Control.AllowShiftsPastCapacity, OnEvent: o.OnEvent,
		},
		ITLWindow: duration(c.Live.ITLWindowS), Stagger: duration(c.Live.StaggerS), StaleAfter: duration(c.Live.StaleAfterS),
		WhatIf: whatIf(recorded, c), LeaveOutCommands: o.LeaveOutCommands, Tell: o.Tell,
	}
	servers := make([]int, len(models))
	for m := range models {
		cfg.SimulatedReplicas = append(cfg.SimulatedReplicas, *c.Models[m].Live.SimulatedNumReplicas)
		servers[m] = len(recorded.Models[m].Live.AllServers())
	}
	run, err := newRecorded(cfg, lines, first, servers)
	if err != nil {
		return nil, err
	}
	return &RecordedSetup{Run: run, Config: c, Models: models, Header: h}, nil
}

// sameModels refuses another config than that of the recorded run where nothing that was
// recorded would fit it.
func sameModels(h *recording.Header, c *config.Config, models []datacenter.ModelSpec) error {
	labels := make([]string, len(models))
	for m := range models {
		labels[m] = models[m].ModelLabel
	}
	if !slices.Equal(labels, h.Models) {
		return fmt.Errorf("%w: models: must be those of the recording, %q in this order, got %q", datacenter.ErrInvalidInput, h.Models, labels)
	}
	if c.DT.String() != h.DT.String() {
		return fmt.Errorf("%w: dt_s: must be that of the recording, %s, got %s", datacenter.ErrInvalidInput, h.DT, c.DT)
	}
	return nil
}

// whatIf are the keys that two configs differ in and that make other states.
func whatIf(recorded, c *config.Config) []string {
	taken, restart := config.Changes(recorded, c)
	return slices.DeleteFunc(slices.Concat(restart, taken), func(path string) bool {
		section, key, _ := strings.Cut(path, ".")
		switch section {
		case "api", "log", "record", "replay", "control":
			return true
		case "live":
			return !slices.Contains([]string{"stagger_s", "itl_window_s", "stale_after_s"}, key)
		}
		return strings.HasPrefix(section, "models[") && !matters(key)
	})
}

// matters reports whether a key of a model makes other states.
func matters(key string) bool {
	for _, k := range []string{"model_label", "gpus_per_replica", "initial_batch_size", "feasible_batch_sizes", "replicas", "live.simulated_num_replicas"} {
		if key == k || strings.HasPrefix(key, k+".") || strings.HasPrefix(key, k+"[") {
			return true
		}
	}
	return false
}

// RecordedHeader is the first header of a run in a recording, of the first run if none is
// named.
func RecordedHeader(ctx context.Context, dir, runID string) (*recording.Header, error) {
	reader, err := recording.OpenReader(dir)
	if err != nil {
		return nil, err
	}
	options := recording.ReadOptions{RunID: runID, Kinds: []recording.Kind{recording.KindHeader}, Damaged: func(recording.Damage) {}}
	for entry, err := range reader.Lines(ctx, options) {
		if err != nil {
			return nil, err
		}
		if h, is := entry.Line.(*recording.Header); is {
			return h, nil
		}
	}
	return nil, fmt.Errorf("%w: %s has no header of such a run", datacenter.ErrInvalidInput, dir)
}
