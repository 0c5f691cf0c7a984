package mlenergy

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
	"github.com/g2g-agent/g2g-agent/workload"
)

// Destination is the OpenG2G data directory that is to be there.
type Destination struct {
	Dir    string
	Layout workload.Layout
	// Force makes anew what is there.
	Force bool
	Write workload.WriteOptions
}

// Report is what [Generator.Ensure] did.
type Report struct {
	// Written and Present are the labels of models whose data was made, and of those
	// whose data was there.
	Written, Present []string
}

// Ensure makes the data of the specs that the directory does not have, as OpenG2G's
// ensure does: what is there and complete is used, whatever version of OpenG2G made it,
// with a warning if it is another. In layout 0.2 a measurement is there as soon as it is
// made, in the folder specs of a directory that has its measurements in that; in layout
// 0.1, which has one table for all, at the end, and one without a batch size that the
// benchmark has is refused. warn is called with remarks that stop nothing.
func (g *Generator) Ensure(ctx context.Context, to Destination, specs []workload.DataSpec, warn func(string)) (*Report, error) {
	for i := range specs {
		if err := checkSpec(&specs[i]); err != nil {
			return nil, err
		}
	}
	if err := workload.CheckLayout(to.Dir, to.Layout); err != nil {
		return nil, err
	}
	to.Dir = to.base()
	report := &Report{}
	if to.Layout == workload.Layout01 {
		return report, g.ensureV01(ctx, to, specs, report, warn)
	}
	return report, g.ensureV02(ctx, to, specs, report, warn)
}

func (g *Generator) ensureV02(ctx context.Context, to Destination, specs []workload.DataSpec, report *Report, warn func(string)) error {
	var missing, withoutCurves []workload.DataSpec
	for i := range specs {
		spec := &specs[i]
		has, remarks := false, []string(nil)
		if !to.Force {
			has, remarks = workload.HasMeasurement(to.Dir, spec)
		}
		warnAll(warn, remarks)
		switch {
		case !has:
			missing = append(missing, *spec)
		case !workload.HasLogistic(to.Dir, spec):
			withoutCurves = append(withoutCurves, *spec)
		default:
			report.Present = append(report.Present, spec.ModelLabel)
		}
	}
	if len(missing)+len(withoutCurves) == 0 {
		return nil
	}
	for _, spec := range slices.Concat(missing, withoutCurves) {
		if err := checkFolders(filepath.Join(to.Dir, spec.Hash())); err != nil {
			return err
		}
	}
	runs, err := ReadRuns(ctx, g.Source)
	if err != nil {
		return err
	}
	selections, err := selectAll(runs, missing)
	if err != nil {
		return err
	}
	for i := range withoutCurves {
		spec := &withoutCurves[i]
		if err := addLogistic(to.Dir, runs, spec, warn); err != nil {
			return err
		}
		report.Present = append(report.Present, spec.ModelLabel)
	}
	if len(selections) == 0 {
		return nil
	}
	return g.Generate(ctx, selections, func(m workload.Measured, warnings []string) error {
		warnAll(warn, warnings)
		report.Written = append(report.Written, m.Spec.ModelLabel)
		return workload.WriteData(to.Dir, []workload.Measured{m}, to.Layout, to.Write)
	})
}

// addLogistic makes the curves of a measurement that lacks them.
func addLogistic(dir string, runs []Run, spec *workload.DataSpec, warn func(string)) error {
	s, err := Select(runs, *spec)
	if err != nil {
		return err
	}
	fits, warnings, err := s.Logistic()
	warnAll(warn, warnings)
	if err != nil || fits == nil {
		return err
	}
	return workload.WriteLogistic(dir, spec, fits)
}

func (g *Generator) ensureV01(ctx context.Context, to Destination, specs []workload.DataSpec, report *Report, warn func(string)) error {
	if !to.Force && workload.HasV01(to.Dir) {
		return g.useV01(ctx, to.Dir, specs, report, warn)
	}
	if err := checkFolders(to.Dir, filepath.Join(to.Dir, "traces")); err != nil {
		return err
	}
	runs, err := ReadRuns(ctx, g.Source)
	if err != nil {
		return err
	}
	selections, err := selectAll(runs, specs)
	if err != nil {
		return err
	}
	var all []workload.Measured
	err = g.Generate(ctx, selections, func(m workload.Measured, warnings []string) error {
		warnAll(warn, warnings)
		report.Written = append(report.Written, m.Spec.ModelLabel)
		all = append(all, m)
		return nil
	})
	if err != nil {
		return err
	}
	return workload.WriteData(to.Dir, all, to.Layout, to.Write)
}

// checkFolders refuses folders that nothing can be written in, before the benchmark is
// read, which takes its time.
func checkFolders(folders ...string) error {
	for _, dir := range folders {
		if err := atomicfile.CheckFolder(dir); err != nil {
			return fmt.Errorf("%w: %w", datacenter.ErrInvalidInput, err)
		}
	}
	return nil
}

// useV01 uses what is there, if it has all that is wanted and that the benchmark has.
// Layout 0.1 has one table for all models, so that nothing is added to it.
func (g *Generator) useV01(ctx context.Context, dir string, specs []workload.DataSpec, report *Report, warn func(string)) error {
	const otherwise = "choose another directory, or have this one replaced whole (force)"
	var queries []workload.DataQuery
	for i := range specs {
		queries = append(queries, workload.DataQuery{ModelLabel: specs[i].ModelLabel, ModelID: specs[i].ModelID, GPUsPerReplica: specs[i].GPUsPerReplica})
	}
	data, err := workload.LoadInferenceData(dir, queries, true)
	if err != nil {
		return fmt.Errorf("%w; %s", err, otherwise)
	}
	warnAll(warn, data.Warnings)
	var runs []Run
	for i := range specs {
		spec := specs[i]
		// A batch size without a trace has a fit still.
		has := func(b int) bool { _, ok := data.Models[i].ITL[b]; return ok }
		spec.BatchSizes = slices.DeleteFunc(slices.Clone(spec.BatchSizes), has)
		if len(spec.BatchSizes) > 0 && runs == nil {
			if runs, err = ReadRuns(ctx, g.Source); err != nil {
				return err
			}
		}
		if lacking := batchSizesOf(runs, &spec); len(lacking) > 0 {
			return errorAt(dir, "has nothing of model %s at batch sizes %v, which the benchmark has; %s", quote(spec.ModelLabel), lacking, otherwise)
		}
		report.Present = append(report.Present, spec.ModelLabel)
	}
	return nil
}

func selectAll(runs []Run, specs []workload.DataSpec) ([]*Selection, error) {
	var all []*Selection
	for i := range specs {
		s, err := Select(runs, specs[i])
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func warnAll(warn func(string), warnings []string) {
	for _, w := range warnings {
		warn(w)
	}
}

// Path is where a destination has the spec's data.
func (d Destination) Path(spec *workload.DataSpec) string {
	if d.Layout == workload.Layout01 {
		return d.Dir
	}
	return filepath.Join(d.base(), spec.Hash())
}

// base is the directory's folder that has its measurements, where readers look for them.
func (d Destination) base() string {
	if d.Layout == workload.Layout01 {
		return d.Dir
	}
	return workload.MeasurementsDir(d.Dir)
}
