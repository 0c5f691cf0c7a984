package agent

import (
	"cmp"
	"errors"
	"strings"

	"github.com/g2g-agent/g2g-agent/augment"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/workload"
)

// OverrideError is all that is wrong with what a run is to have otherwise than its
// config.
type OverrideError struct{ Problems []config.Problem }

func (e *OverrideError) Error() string { return e.Problems[0].String() }

// Unwrap makes the error a [datacenter.ErrInvalidInput].
func (e *OverrideError) Unwrap() error { return datacenter.ErrInvalidInput }

// Renew prepares another replay of the data that has been read, as the config has it but
// for the override. Its error is an [*OverrideError], or a [*datacenter.CommandError] for
// what the data or the capacity does not allow.
func (s *Setup) Renew(o *config.Override) (*Replay, error) {
	c, problems := s.config.With(o)
	if len(problems) > 0 {
		return nil, &OverrideError{problems}
	}
	replay, err := s.replayOf(c)
	if err == nil {
		return replay, nil
	}
	reason := strings.ReplaceAll(err.Error(), datacenter.ErrInvalidInput.Error()+": ", "")
	if over := (*capacityError)(nil); errors.As(err, &over) {
		return nil, refuse("command", datacenter.ErrNoCapacity, "%s", reason)
	}
	if missing := (*workload.MissingBatchError)(nil); errors.As(err, &missing) {
		field := "command" // such as the failsafe batch size of a model that gets servers now
		if size, there := o.InitialBatchSizes[missing.ModelLabel]; there && size == missing.BatchSize {
			field = "initial_batch_sizes." + missing.ModelLabel
		}
		return nil, refuse(field, datacenter.ErrInfeasibleBatchSize, "%v", missing)
	}
	if errors.Is(err, datacenter.ErrInvalidInput) {
		return nil, refuse("command", datacenter.ErrOutOfRange, "%s", reason)
	}
	return nil, err
}

// madeBefore keeps what replays of the same data have in common: the templates of two
// lengths, the first one asked for and the last one, and the servers of the last seed.
type madeBefore struct {
	first, last *templatesOf
	pool        *augment.Pool
	poolSeed    uint64
	poolStagger int64
}

// templatesOf are the templates on a grid.
type templatesOf struct {
	grid  workload.Grid
	store *workload.TemplateStore
}

func (t *templatesOf) are(g workload.Grid) bool {
	return t != nil && t.grid.Duration.String() == g.Duration.String() // of one config, they differ in nothing else
}

// templates returns those for a replay.
func (b *madeBefore) templates(cfg *ReplayConfig) (*workload.TemplateStore, error) {
	grid := workload.Grid{DT: cfg.DT, Duration: cfg.TemplateDuration, SteadySkipS: cfg.SteadySkipS}
	if grid.Duration.IsZero() {
		grid.Duration = cfg.Duration
	}
	for _, made := range []*templatesOf{b.first, b.last} {
		if made.are(grid) {
			return made.store, nil
		}
	}
	store, err := workload.NewTemplateStore(grid, cfg.labels(), cfg.Data)
	if err != nil {
		return nil, err
	}
	b.last = &templatesOf{grid, store}
	b.first = cmp.Or(b.first, b.last)
	return store, nil
}

// poolOf returns the servers of a replay.
func (b *madeBefore) poolOf(cfg *ReplayConfig, stagger int64) *augment.Pool {
	if b.pool == nil || b.poolSeed != cfg.Seed || b.poolStagger != stagger {
		b.pool, b.poolSeed, b.poolStagger = cfg.newPool(augment.StaggerSteps(stagger)), cfg.Seed, stagger
	}
	return b.pool
}
