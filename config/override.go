package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// Override is what one replay has otherwise than the config that it is a run of. What
// is nil is as in the config.
type Override struct {
	Seed *uint64
	// Replicas are schedules by model label, nil for a model without servers.
	Replicas          map[string]*Replicas
	InitialBatchSizes map[string]int // by model label
	// Training takes the place of the config's. Of the trace it has the path as in the
	// config, or its end; or nothing where the config names just one.
	Training *[]Training
	Duration *datacenter.Seconds
}

// With returns the config of a replay that has something otherwise, or what is wrong
// with that; the paths are those of the override. The config itself stays as it is.
// It reads no file: traces are those that the config names.
func (c *Config) With(o *Override) (*Config, []Problem) {
	r := &rules{unread: newProblemSet(), problems: newProblemSet()}
	run := *c
	run.Models = slices.Clone(c.Models)
	if o.Seed != nil {
		run.Seed = *o.Seed
	}
	for i := range run.Models {
		m := &run.Models[i]
		if replicas, there := o.Replicas[m.ModelLabel]; there {
			replicas.validate(r, "replicas."+m.ModelLabel)
			m.Replicas = replicas
		}
		if size, there := o.InitialBatchSizes[m.ModelLabel]; there {
			r.that(slices.Contains(m.FeasibleBatchSizes, size), "initial_batch_sizes."+m.ModelLabel,
				"%d is not one of the feasible batch sizes %v", size, m.FeasibleBatchSizes)
			m.InitialBatchSize = &size
		}
	}
	if o.Training != nil {
		run.Training = slices.Clone(*o.Training)
		for i := range run.Training {
			c.overrideTraining(r, &run.Training[i], fmt.Sprintf("training[%d]", i))
		}
	}
	if d := o.Duration; d != nil {
		if r.that(!d.IsZero(), "duration_s", "must be > 0, got 0") {
			c.overrideDuration(r, *d)
		}
		run.Replay.Duration = *d
	}
	if len(r.problems.list) > 0 {
		return nil, r.problems.list
	}
	return &run, nil
}

// maxTemplateSteps is how long templates may become by an override: they are made while
// others wait, and kept beside those that the config has asked for.
const maxTemplateSteps = 1_000_000

// overrideDuration checks how long a run is, and with it its templates, unless the config
// says how long those are.
func (c *Config) overrideDuration(r *rules, d datacenter.Seconds) {
	steps := c.DT.StepsWithin(d)
	if c.Replay.TemplateDuration != nil {
		r.that(steps <= maxSteps, "duration_s", "is %d steps of dt_s, at most %d are allowed", steps, maxSteps)
		return
	}
	most := max(maxTemplateSteps, c.DT.StepsWithin(c.Replay.Duration))
	r.that(steps <= most, "duration_s", "is %d steps of dt_s, for which power templates as long would be made; at most %d are allowed, "+
		"and %d where the config has replay.template_duration_s", steps, most, maxSteps)
}

// overrideTraining checks a training run and finds its trace.
func (c *Config) overrideTraining(r *rules, t *Training, path string) {
	var traces []string
	for i := range c.Training {
		if trace := c.Training[i].Trace; !slices.Contains(traces, trace) {
			traces = append(traces, trace)
		}
	}
	named := t.Trace
	matches := slices.DeleteFunc(slices.Clone(traces), func(trace string) bool {
		return named != "" && trace != named && !strings.HasSuffix(trace, "/"+strings.TrimPrefix(named, "./"))
	})
	switch {
	case len(traces) == 0:
		r.that(false, path+".trace", "the config names no training trace, and none is read here: name it in training[].trace there")
	case len(matches) != 1:
		r.that(false, path+".trace", "must be one of the traces that the config names, %q, got %q", traces, named)
	default:
		t.Trace = matches[0]
	}
	t.Trace = cmp.Or(t.Trace, "?") // that it is missing was told
	t.validate(r, path)
}
