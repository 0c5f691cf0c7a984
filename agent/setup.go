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
	training, err := loadTraining(c)
	if err != nil {
		return nil, err
	}
	templateDuration := c.Replay.Duration
	if t := c.Replay.TemplateDuration; t != nil {
		templateDuration = *t
	}
	replay, err := NewReplay(ReplayConfig{
		Config: Config{
			Seed: c.Seed, DT: c.DT, Facility: c.Facility(), Augmentation: c.AugmentationConfig(), Models: models,
			Training: training, AllowInfeasibleBatchSizes: c.Control.AllowInfeasibleBatchSizes,
			AllowShiftsPastCapacity: c.Control.AllowShiftsPastCapacity, OnEvent: onEvent,
		},
		Duration: c.Replay.Duration, TemplateDuration: templateDuration, Endless: c.Replay.AtEnd == config.AtEndContinue, SteadySkipS: c.Replay.SteadySkipS,
		Data: data.Models, ITL: c.Replay.ITL, Commands: c.ScriptedCommands(),
	})
	if err != nil {
		return nil, err
	}
	return &Setup{replay, models, append(data.Warnings, idleModels(models)...)}, nil
}

// loadTraining reads each training trace once, however many runs use it.
func loadTraining(c *config.Config) (datacenter.TrainingSchedule, error) {
	traces := map[string]datacenter.TrainingTrace{}
	runs := make([]datacenter.TrainingRun, len(c.Training))
	for i := range c.Training {
		file := c.Training[i].Trace
		if _, loaded := traces[file]; !loaded {
			trace, err := workload.LoadTrainingTrace(file)
			if err != nil {
				return nil, fmt.Errorf("training[%d].trace: %w", i, err)
			}
			traces[file] = trace
		}
		runs[i] = c.Training[i].Run()
		runs[i].Trace = traces[file]
	}
	return datacenter.NewTrainingSchedule(runs...), nil
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
