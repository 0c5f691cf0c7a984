package workload

import (
	"path/filepath"
	"slices"
)

// Held is a measurement that a data directory holds.
type Held struct {
	// ModelLabel is empty where that cannot be told.
	ModelLabel string
	// Dir is its folder in layout 0.2.
	Dir string
	// BatchSizes are those of its traces in layout 0.1, ascending.
	BatchSizes []int
}

// ListHeld returns what a data directory of a layout holds, in the order of folders'
// names or labels; nothing if the directory is not there or has no data. The errors are
// [*FileError].
func ListHeld(dir string, layout Layout) ([]Held, error) {
	var held []Held
	if layout == Layout02 {
		_, found, err := findMeasurements(dir)
		for _, m := range found {
			h := Held{Dir: m.dir}
			if m.manifest.Spec != nil {
				h.ModelLabel = m.manifest.Spec.ModelLabel
			}
			held = append(held, h)
		}
		return held, err
	}
	summary := filepath.Join(dir, tracesSummaryFile)
	if !exists(summary) {
		return nil, nil
	}
	sizes := map[string][]int{}
	err := readTable(summary, []string{"model_label", "max_num_seqs"}, func(row *table) error {
		n, err := row.positiveInt(1)
		sizes[row.text(0)] = append(sizes[row.text(0)], n)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, label := range sortedKeys(sizes) {
		slices.Sort(sizes[label])
		held = append(held, Held{ModelLabel: label, BatchSizes: slices.Compact(sizes[label])})
	}
	return held, nil
}
