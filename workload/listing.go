package workload

import (
	"os"
	"path/filepath"
)

// layout is where a data directory keeps its measurements: in what summary lists
// (0.1) or, if that is empty, in folders of specsDir (0.2).
type layout struct {
	summary      string
	specsDir     string
	measurements []measurement
}

// findLayout finds out which of the layouts dir has.
func findLayout(dir string) (l layout, err error) {
	info, err := os.Stat(dir)
	if err != nil {
		return l, openError(dir, err)
	}
	if !info.IsDir() {
		return l, fileErrorf(dir, 0, "is not a directory")
	}
	summary := filepath.Join(dir, tracesSummaryFile)
	if l.specsDir, l.measurements, err = findMeasurements(dir); err != nil {
		return l, err
	}
	switch hasSummary := exists(summary); {
	case hasSummary && len(l.measurements) > 0:
		return l, fileErrorf(dir, 0, "holds both OpenG2G layouts, %s and %s: name the folder of the one you mean",
			summary, filepath.Join(l.measurements[0].dir, traceFile))
	case hasSummary:
		l.summary = summary
	case len(l.measurements) == 0:
		return l, fileErrorf(dir, 0, "is not an OpenG2G data directory: it has neither %s (0.1) nor HASH/%s or %s/HASH/%s (0.2)",
			tracesSummaryFile, traceFile, specsFolder, traceFile)
	}
	return l, nil
}

// ListModels returns what an OpenG2G data directory of either layout holds, as
// queries that [LoadInferenceData] answers: in the 0.1 layout each model, in the order
// of their labels; in the 0.2 layout each measurement, in the order of their folders'
// names, of which one model may have several. A measurement without a manifest has its
// folder's name for a label, and one GPU. The errors are [*FileError].
func ListModels(dir string) ([]DataQuery, error) {
	l, err := findLayout(dir)
	if err != nil {
		return nil, err
	}
	if l.summary != "" {
		return listSummary(l.summary)
	}
	var queries []DataQuery
	for _, m := range l.measurements {
		hash := filepath.Base(m.dir)
		q := DataQuery{ModelLabel: hash, GPUsPerReplica: 1, Spec: SpecFilter{Hash: hash}}
		if s := m.manifest.Spec; s != nil {
			q.ModelLabel, q.ModelID, q.GPUsPerReplica = s.ModelLabel, s.ModelID, s.GPUsPerReplica
			if q.GPUsPerReplica < 1 {
				return nil, fileErrorf(filepath.Join(m.dir, manifestFile), 0, "spec.gpus_per_replica must be at least 1, got %d", s.GPUsPerReplica)
			}
		}
		queries = append(queries, q)
	}
	return queries, nil
}

// listSummary lists the models of traces_summary.csv.
func listSummary(file string) ([]DataQuery, error) {
	gpus := map[string]int{}
	err := readTable(file, []string{"model_label", "num_gpus"}, func(row *table) error {
		n, err := row.positiveInt(1)
		if err != nil {
			return err
		}
		gpus[row.text(0)] = n
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(gpus) == 0 {
		return nil, fileErrorf(file, 0, "has no rows")
	}
	var queries []DataQuery
	for _, label := range sortedKeys(gpus) {
		queries = append(queries, DataQuery{ModelLabel: label, GPUsPerReplica: gpus[label]})
	}
	return queries, nil
}
