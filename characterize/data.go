package characterize

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/npmath"
	"github.com/g2g-agent/g2g-agent/workload"
)

// A latency fit is of at most so many samples, drawn with this seed: more than
// mlenergy-data's 2048, since here they are at hand and each draw less is noise less.
const (
	fitSamples = 1 << 16
	fitSeed    = 0
)

// Data is a data directory that was written.
type Data struct {
	Dir    string
	Layout workload.Layout
	// Models are what is in it.
	Models []workload.Measured
	at     time.Time
}

// fitLatency fits a mixture to the latencies of points.
func fitLatency(points []*Point) workload.ITLMixture {
	return workload.FitITL(LatenciesS(points), fitSamples, fitSeed)
}

// fitDoubt is a remark about a latency fit whose mean is far from what was measured, empty
// if it is not: the mixture has two parts and an endless tail, whatever the latencies are.
func fitDoubt(fit workload.ITLMixture, measuredS float64) string {
	const far = 0.25
	if mean := fit.MeanS(); !(math.Abs(mean-measuredS) <= far*measuredS) {
		return fmt.Sprintf("the latency fit has a mean of %.4g ms, measured were %.4g ms: OpenG2G's mixture does not follow these latencies, and replays take them from it",
			1e3*mean, 1e3*measuredS)
	}
	return ""
}

// data puts together what is measured, with remarks about the curves. The same points
// always give the same data. Models and batch sizes that have none are left out.
func (m *Measured) data(cfg *Config) (*Data, []string) {
	d := &Data{Dir: cfg.Dir, Layout: cfg.Layout}
	var warnings []string
	for i := range cfg.Models {
		spec := &cfg.Models[i]
		model := workload.Measured{Spec: *spec, Traces: map[int]*workload.InferenceTrace{}, ITL: map[int]workload.ITLMixture{}}
		var sizes []int
		var curves [3][]float64
		var points []*Point
		for _, batchSize := range spec.BatchSizes {
			repeats := m.of(spec.ModelLabel, batchSize)
			if len(repeats) == 0 {
				continue
			}
			points = append(points, repeats...)
			var timelines []workload.Timeline
			var values [3][]float64
			for _, p := range repeats {
				timelines = append(timelines, p.timeline())
				values[0] = append(values[0], p.PowerW())
				values[1] = append(values[1], p.MeanITLS())
				values[2] = append(values[2], p.ThroughputTokensPerS())
				if ended := p.BeganUTC.Add(time.Duration(p.Spans[len(p.Spans)-1].ToNS)); ended.After(d.at) {
					d.at = ended
				}
			}
			trace, err := workload.MedianTrace(timelines, traceStepS, spec.GPUsPerReplica)
			if err != nil {
				warnings = append(warnings, fmt.Sprintf("model %q, batch size %d: %v", spec.ModelLabel, batchSize, err))
				continue
			}
			model.Traces[batchSize], model.ITL[batchSize] = trace, fitLatency(repeats)
			if doubt := fitDoubt(model.ITL[batchSize], npmath.Median(values[1])); doubt != "" {
				warnings = append(warnings, fmt.Sprintf("model %q, batch size %d: %s", spec.ModelLabel, batchSize, doubt))
			}
			if slices.Contains(spec.FitExcludeBatchSizes, batchSize) {
				continue
			}
			sizes = append(sizes, batchSize)
			for k := range curves {
				curves[k] = append(curves[k], npmath.Median(values[k]))
			}
		}
		model.Logistic = new(workload.LogisticFits)
		for k, c := range []struct {
			name string
			fit  *workload.LogisticFit
		}{{"power", &model.Logistic.PowerW}, {"latency", &model.Logistic.LatencyS}, {"throughput", &model.Logistic.ThroughputTokensPerS}} {
			var doubts []string
			*c.fit, doubts = workload.FitLogistic(sizes, curves[k])
			for _, doubt := range doubts {
				warnings = append(warnings, fmt.Sprintf("model %q, curve of %s: %s", spec.ModelLabel, c.name, doubt))
			}
		}
		model.Observed = observed(spec, points)
		d.Models = append(d.Models, model)
	}
	return d, warnings
}

// observed is what pictures of a model are made of: all its points, each repeat by itself,
// and the latencies of each batch size.
func observed(spec *workload.DataSpec, points []*Point) workload.Observed {
	o := workload.Observed{ITL: map[int]*workload.ITLHistogram{}}
	bySize := map[int][]*Point{}
	for _, p := range points {
		o.Points = append(o.Points, workload.Point{
			BatchSize: p.BatchSize, PowerW: p.PowerW(), LatencyS: p.MeanITLS(), ThroughputTokensPerS: p.ThroughputTokensPerS(),
			NotInFit: slices.Contains(spec.FitExcludeBatchSizes, p.BatchSize),
		})
		bySize[p.BatchSize] = append(bySize[p.BatchSize], p)
	}
	for batchSize, repeats := range bySize {
		if h := workload.NewITLHistogram(LatenciesS(repeats)); h != nil {
			o.ITL[batchSize] = h
		}
	}
	return o
}

// of are the points of a model at a batch size, in order.
func (m *Measured) of(label string, batchSize int) []*Point {
	var points []*Point
	for _, p := range m.Points {
		if p.ModelLabel == label && p.BatchSize == batchSize {
			points = append(points, p)
		}
	}
	return points
}

// write writes the data directory. Its time is that of the latest measurement: who
// writes it again writes the same.
func (d *Data) write(cfg *Config) error {
	return workload.WriteData(d.Dir, d.Models, d.Layout, workload.WriteOptions{WrittenAt: d.at, AgentVersion: cfg.AgentVersion, Rounded: true})
}
