package agent

import (
	"fmt"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/workload"
)

// Setup is a replay made from a config, with what was noticed on the way.
type Setup struct {
	Replay *Replay
	Models []datacenter.ModelSpec
	// Warnings are remarks that do not stop a run.
	Warnings []string

	config  *config.Config
	data    *workload.InferenceData
	traces  map[string]datacenter.TrainingTrace
	onEvent func(datacenter.Event)
	made    madeBefore
}

// SetUpReplay loads the data that a valid config names and prepares the replay.
// Its errors wrap [datacenter.ErrInvalidInput].
func SetUpReplay(c *config.Config, onEvent func(datacenter.Event)) (*Setup, error) {
	models, err := c.ModelSpecs()
	if err != nil {
		return nil, err
	}
	queries := make([]workload.DataQuery, len(c.Models))
	for i, m := range c.Models {
		queries[i] = workload.DataQuery{
			ModelLabel: m.ModelLabel, ModelID: m.ModelID, GPUsPerReplica: m.GPUsPerReplica, FeasibleBatchSizes: m.FeasibleBatchSizes,
			Spec: workload.SpecFilter{
				Hash: m.SpecHash, GPUModel: m.GPUModel, Task: m.Task, Precision: m.Precision,
				TensorParallel: m.TensorParallel, ExpertParallel: m.ExpertParallel,
				BatchSizes: m.BatchSizes, FitExcludeBatchSizes: m.FitExcludeBatchSizes,
			},
		}
	}
	data, err := workload.LoadInferenceData(c.Replay.DataDir, queries, c.Replay.ITL)
	if err != nil {
		return nil, fmt.Errorf("replay.data_dir: %w", err)
	}
	traces, err := loadTraces(c)
	if err != nil {
		return nil, err
	}
	s := &Setup{Models: measured(models, data.Models), config: c, data: data, traces: traces, onEvent: onEvent}
	if s.Replay, err = s.replayOf(c); err != nil {
		return nil, err
	}
	s.Warnings = append(data.Warnings, idleModels(models)...)
	return s, nil
}

// replayOf prepares a replay of the data that has been read.
func (s *Setup) replayOf(c *config.Config) (*Replay, error) {
	models, err := c.ModelSpecs()
	if err != nil {
		return nil, err
	}
	templateDuration := c.Replay.Duration
	if t := c.Replay.TemplateDuration; t != nil {
		templateDuration = *t
	}
	return newReplay(ReplayConfig{
		Config: Config{
			Seed: c.Seed, DT: c.DT, Facility: c.Facility(), Augmentation: c.AugmentationConfig(), Models: models,
			Training: trainingOf(c, s.traces), AllowInfeasibleBatchSizes: c.Control.AllowInfeasibleBatchSizes,
			AllowShiftsPastCapacity: c.Control.AllowShiftsPastCapacity, OnEvent: s.onEvent,
		},
		Duration: c.Replay.Duration, TemplateDuration: templateDuration, Endless: c.Replay.AtEnd == config.AtEndContinue, SteadySkipS: c.Replay.SteadySkipS,
		Data: s.data.Models, ITL: c.Replay.ITL, Commands: c.ScriptedCommands(),
	}, &s.made)
}

// loadTraces reads each training trace once, however many runs use it.
func loadTraces(c *config.Config) (map[string]datacenter.TrainingTrace, error) {
	traces := map[string]datacenter.TrainingTrace{}
	for i := range c.Training {
		file := c.Training[i].Trace
		if _, loaded := traces[file]; loaded {
			continue
		}
		trace, err := workload.LoadTrainingTrace(file)
		if err != nil {
			return nil, fmt.Errorf("training[%d].trace: %w", i, err)
		}
		traces[file] = trace
	}
	return traces, nil
}

// trainingOf is a config's training, with its traces by their files.
func trainingOf(c *config.Config, traces map[string]datacenter.TrainingTrace) datacenter.TrainingSchedule {
	runs := make([]datacenter.TrainingRun, len(c.Training))
	for i := range runs {
		runs[i] = c.Training[i].Run()
		runs[i].Trace = traces[c.Training[i].Trace]
	}
	return datacenter.NewTrainingSchedule(runs...)
}

// idleModels warns of models whose ramps will never show.
func idleModels(models []datacenter.ModelSpec) []string {
	var warnings []string
	for _, m := range models {
		if m.Replicas != nil && m.Replicas.Initial() == 0 && m.Replicas.MaxCount() > 0 {
			warnings = append(warnings, fmt.Sprintf(
				"model %q starts with 0 replicas: as in OpenG2G it never gets servers, and its ramps have no effect", m.ModelLabel))
		}
	}
	return warnings
}
