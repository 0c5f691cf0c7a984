package characterize

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/workload"
)

// maxQuoted bounds what a message repeats of a label, in bytes.
const maxQuoted = 100

// checkDirectory refuses a directory with data that would be lost, or that a reader
// could not tell from what is to be written. Its errors wrap
// [datacenter.ErrInvalidInput].
func checkDirectory(cfg *Config) error {
	if err := workload.CheckLayout(cfg.Dir, cfg.Layout); err != nil {
		return err
	}
	held, err := workload.ListHeld(cfg.Dir, cfg.Layout)
	if err != nil {
		return err
	}
	if cfg.Layout == workload.Layout01 {
		return checkTables(cfg, held)
	}
	for _, h := range held {
		if filepath.Dir(h.Dir) != filepath.Clean(cfg.Dir) {
			return fmt.Errorf("%w: %s holds data in a folder below (%s), which no reader would find beside what is to be written; write to another directory",
				datacenter.ErrInvalidInput, cfg.Dir, h.Dir)
		}
		for i := range cfg.Models {
			if m := &cfg.Models[i]; m.ModelLabel == h.ModelLabel && m.Hash() != filepath.Base(h.Dir) {
				return fmt.Errorf("%w: %s is another measurement of model %s than the one to be written; write to another directory, or remove it: "+
					"what was measured for it is kept in %s", datacenter.ErrInvalidInput, h.Dir, excerpt.Quote(h.ModelLabel, maxQuoted), filepath.Join(cfg.Dir, characterizationFolder))
			}
		}
	}
	return nil
}

// checkTables refuses a directory in layout 0.1 whose tables have something that those
// to be written, which take their place, would not have.
func checkTables(cfg *Config, held []workload.Held) error {
	var lost []string
	for _, h := range held {
		var measured []int
		for i := range cfg.Models {
			if cfg.Models[i].ModelLabel == h.ModelLabel {
				measured = cfg.Models[i].BatchSizes
			}
		}
		missing := slices.DeleteFunc(slices.Clone(h.BatchSizes), func(b int) bool { return slices.Contains(measured, b) })
		if len(missing) > 0 {
			lost = append(lost, fmt.Sprintf("model %s at %v", excerpt.Quote(h.ModelLabel, maxQuoted), missing))
		}
	}
	if lost == nil {
		return nil
	}
	return fmt.Errorf("%w: %s has traces of %s, which would be lost: layout %s has one table for all; ask for these as well "+
		"(points that are measured are not measured again), or write to another directory", datacenter.ErrInvalidInput, cfg.Dir, strings.Join(lost, ", "), cfg.Layout)
}
