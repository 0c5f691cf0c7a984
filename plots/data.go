package plots

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/workload"
)

// Model is the data of one model, or of one of several measurements of it.
type Model struct {
	// Label is what the picture calls it.
	Label string
	Data  workload.ModelData
	// Observed is what was measured, where it is known: [ITL] draws its histograms behind
	// the fits, and [Logistic] its points, which otherwise are the means of the traces
	// and of the latency fits.
	Observed workload.Observed
}

// maxGridPanels bounds the panels of a picture.
const maxGridPanels = 120

// grid is a figure of panels side by side, as square as it gets.
func grid(panels []Panel) (*Figure, error) {
	if len(panels) > maxGridPanels {
		return nil, invalidf("%d panels are too many for one picture, which has at most %d: choose some", len(panels), maxGridPanels)
	}
	columns := min(len(panels), 3)
	if len(panels) == 4 {
		columns = 2
	}
	return &Figure{Columns: columns, Panels: panels}, nil
}

const batchTitle = "batch size"

// palette gives each batch size of all models its colour.
type palette []int

func paletteOf[V any](of func(Model) map[int]V, models []Model) palette {
	all := map[int]bool{}
	for _, m := range models {
		for size := range of(m) {
			all[size] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

func (p palette) color(batchSize int) Color {
	i, _ := slices.BinarySearch(p, batchSize)
	return ordered(i, len(p))
}

// dash tells neighbours apart where there are more colours than the eye keeps apart.
func (p palette) dash(batchSize int) Dash {
	i, _ := slices.BinarySearch(p, batchSize)
	if len(p) <= 8 {
		return Solid
	}
	return Dash(i % 2)
}

func tracesOf(m Model) map[int]*workload.InferenceTrace { return m.Data.Traces }
func mixturesOf(m Model) map[int]workload.ITLMixture    { return m.Data.ITL }

// Power draws the measured power over time, a panel a model and a line a batch size:
// that of all GPUs of one replica. It fails, wrapping [datacenter.ErrInvalidInput], if
// there are no traces.
func Power(models []Model) (*Figure, error) {
	colors := paletteOf(tracesOf, models)
	var panels []Panel
	for _, m := range models {
		if len(m.Data.Traces) == 0 {
			continue
		}
		most, length, gpus := 0.0, 0.0, 0
		for _, trace := range m.Data.Traces {
			for i, t := range trace.TS {
				most, length = max(most, math.Abs(trace.PowerW[i])), max(length, t)
			}
			gpus = max(gpus, trace.MeasuredGPUs)
		}
		power, seconds := unitFor(most, powerUnits()), timeUnit(length)
		title := fmt.Sprintf("%s, %d GPUs", m.Label, gpus)
		if gpus == 1 {
			title = m.Label + ", 1 GPU"
		}
		p := Panel{
			Title: title, LegendTitle: batchTitle,
			X: Axis{Label: "Time (" + seconds.name + ")"}, Y: Axis{Label: "Power (" + power.name + ")"},
		}
		for _, size := range slices.Sorted(maps.Keys(m.Data.Traces)) {
			trace := m.Data.Traces[size]
			var kept reducer
			for i, t := range trace.TS {
				kept.add(XY{t / seconds.size, trace.PowerW[i] / power.size})
			}
			p.Series = append(p.Series, Series{Name: fmt.Sprint(size), Color: colors.color(size), Dash: colors.dash(size), XY: kept.points()})
		}
		panels = append(panels, p)
	}
	if len(panels) == 0 {
		return nil, invalidf("there are no power traces to draw")
	}
	return grid(panels)
}

// Load reads the models of an OpenG2G data directory of either layout: all, or those
// with one of the labels, with what was measured where that is known. A model that was measured more than once has its folder's
// name with its label. Latency fits must be there if needITL says so. Warnings are
// remarks about the data. The errors wrap [datacenter.ErrInvalidInput].
func Load(dir string, labels []string, needITL bool) (models []Model, warnings []string, err error) {
	queries, err := workload.ListModels(dir)
	if err != nil {
		return nil, nil, err
	}
	listed := map[string]int{}
	for _, q := range queries {
		listed[q.ModelLabel]++
	}
	for _, label := range labels {
		if listed[label] == 0 {
			return nil, nil, invalidf("%s has no model %s; it has %s", dir, excerpt.Quote(label, maxName), listing(slices.Sorted(maps.Keys(listed))))
		}
	}
	if len(labels) > 0 {
		queries = slices.DeleteFunc(queries, func(q workload.DataQuery) bool { return !slices.Contains(labels, q.ModelLabel) })
	}
	data, err := workload.LoadInferenceData(dir, queries, true)
	if err != nil && !needITL {
		withITL := err
		if data, err = workload.LoadInferenceData(dir, queries, false); err == nil {
			warnings = append(warnings, fmt.Sprintf("drawn without latencies: %v", withITL))
		}
	}
	if err != nil {
		return nil, nil, err
	}
	observed, remarks, err := workload.LoadObserved(dir, queries)
	if err != nil {
		return nil, nil, err
	}
	warnings = append(warnings, remarks...)
	for i, q := range queries {
		m := Model{Label: q.ModelLabel, Data: data.Models[i], Observed: observed[i]}
		if listed[q.ModelLabel] > 1 {
			m.Label += " (" + q.Spec.Hash + ")"
		}
		models = append(models, m)
	}
	slices.SortStableFunc(models, func(a, b Model) int { return cmp.Compare(a.Label, b.Label) })
	return models, append(warnings, data.Warnings...), nil
}

// listing names models for a message.
func listing(labels []string) string {
	const most = 20
	text := ""
	for i, label := range labels {
		switch {
		case i == most:
			return text + fmt.Sprintf(" and %d more", len(labels)-most)
		case i > 0:
			text += ", "
		}
		text += excerpt.Quote(label, maxName)
	}
	return text
}
