package mlenergy

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"

	"github.com/g2g-agent/g2g-agent/internal/textfile"
	"github.com/g2g-agent/g2g-agent/workload"
)

// The members of results.json that are read.
const (
	keyResults  = "results"
	keyTimeline = "timeline"
	keyStart    = "steady_state_start_time"
	keyEnd      = "steady_state_end_time"
	keyPower    = "power"
	keyInstant  = "device_instant"

	keyBounds = keyTimeline + "." + keyStart + " and " + keyEnd
	keySeries = keyTimeline + "." + keyPower + "." + keyInstant
)

// Results is what a run's results.json says of its steady state.
type Results struct {
	// ITLS are the inter-token latencies of all successful requests in seconds: finite
	// and above 0, at least one.
	ITLS []float64
	// Power is that of all GPUs together, in watts, with seconds since the start of the
	// steady state.
	Power workload.Timeline
	// NoPower are the GPUs that have no power at any time of the first one: they count as
	// 0 W, as with OpenG2G.
	NoPower []int
}

// maxSteadyS bounds the steady state of a run, and so its trace: some days, in seconds.
const maxSteadyS = 1e6

// sample is a GPU's power at a time.
type sample struct{ t, w float64 }

// results is the file as it is read.
type results struct {
	scan       *scanner
	start, end *float64
	hasSeries  bool
	series     map[int][]sample // by GPU
	itlS       []float64
	latencies  []float64 // of the request being read
}

// ReadResults reads a results.json as a stream. Its errors say at which key or byte.
func ReadResults(r io.Reader) (*Results, error) {
	f := &results{scan: newScanner(textfile.NewReader(r))}
	err := f.scan.object(func(name []byte) error {
		switch string(name) {
		case keyResults:
			f.itlS = f.itlS[:0]
			return in(keyResults, f.scan.array(f.request))
		case keyTimeline:
			f.start, f.end, f.hasSeries, f.series = nil, nil, false, nil
			return f.scan.object(f.timeline)
		default:
			return f.scan.skip()
		}
	})
	if err != nil {
		return nil, err
	}
	if err := f.scan.finish(); err != nil {
		return nil, err
	}
	if len(f.itlS) == 0 {
		return nil, fmt.Errorf("%s: no successful request has an inter-token latency (itl) above 0", keyResults)
	}
	power, noPower, err := f.power()
	if err != nil {
		return nil, err
	}
	return &Results{ITLS: f.itlS, Power: power, NoPower: noPower}, nil
}

// in names the key at which an error came up.
func in(key string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// request reads an entry of results.
func (f *results) request() error {
	success := false
	f.latencies = f.latencies[:0]
	err := f.scan.object(func(name []byte) (err error) {
		switch string(name) {
		case "success":
			success, err = f.scan.truth()
			return err
		case "itl":
			f.latencies = f.latencies[:0]
			return in("itl", f.scan.array(func() error {
				v, err := f.scan.number()
				f.latencies = append(f.latencies, v)
				return err
			}))
		default:
			return f.scan.skip()
		}
	})
	if err == nil && success {
		f.itlS = appendLatencies(f.itlS, f.latencies)
	}
	return err
}

// appendLatencies appends the latency of each token of a request. The client saw tokens
// that came together as one latency and zeros behind it: it is spread evenly over them.
// What comes before the first latency is not one between tokens.
func appendLatencies(dst, seen []float64) []float64 {
	first := slices.IndexFunc(seen, func(v float64) bool { return v > 0 })
	if first < 0 {
		return dst
	}
	seen = seen[first:]
	for i := 0; i < len(seen); {
		latency := seen[i]
		i++
		if latency <= 0 {
			continue
		}
		n := 1
		for ; i < len(seen) && seen[i] == 0; i++ {
			n++
		}
		each := latency / float64(n)
		if !(each > 0) || math.IsInf(each, 0) {
			continue
		}
		for range n {
			dst = append(dst, each)
		}
	}
	return dst
}

func (f *results) timeline(name []byte) error {
	switch string(name) {
	case keyStart:
		return in(keyTimeline+"."+keyStart, f.bound(&f.start))
	case keyEnd:
		return in(keyTimeline+"."+keyEnd, f.bound(&f.end))
	case keyPower:
		f.hasSeries, f.series = false, nil
		return in(keyTimeline+"."+keyPower, f.scan.object(func(name []byte) error {
			if string(name) != keyInstant {
				return f.scan.skip()
			}
			f.hasSeries, f.series = true, map[int][]sample{}
			return in(keyInstant, f.scan.object(f.gpu))
		}))
	default:
		return f.scan.skip()
	}
}

// bound reads an end of the steady state; null is none.
func (f *results) bound(to **float64) error {
	*to = nil
	c, err := f.scan.peek()
	if err != nil {
		return err
	}
	if c == 'n' {
		return f.scan.skip()
	}
	v, err := f.scan.number()
	*to = &v
	return err
}

// gpu reads the power of one GPU: [[t, W], …].
func (f *results) gpu(name []byte) error {
	id, err := strconv.Atoi(string(name))
	if err != nil || strconv.Itoa(id) != string(name) {
		return f.scan.errorf("%s is not the number of a GPU", quote(string(name)))
	}
	var series []sample
	err = f.scan.array(func() error {
		var pair [2]float64
		n := 0
		err := f.scan.array(func() error {
			if n == len(pair) {
				return f.scan.errorf("want [time, watts], got more numbers")
			}
			var err error
			pair[n], err = f.scan.number()
			n++
			return err
		})
		if err == nil && n < len(pair) {
			err = f.scan.errorf("want [time, watts], got %d numbers", n)
		}
		series = append(series, sample{pair[0], pair[1]})
		return err
	})
	f.series[id] = series
	return in(fmt.Sprintf("GPU %d", id), err)
}

// power adds up the GPUs' power in the steady state, as mlenergy-data does: at the
// times of the first GPU, with what each had last at one of those times, and nothing of
// a GPU before its first.
func (f *results) power() (out workload.Timeline, noPower []int, err error) {
	var none workload.Timeline
	switch {
	case f.start == nil || f.end == nil:
		return none, nil, fmt.Errorf("%s: the run has no steady state: want two times in seconds", keyBounds)
	case !f.hasSeries:
		return none, nil, fmt.Errorf("%s is missing: want the power of each GPU", keySeries)
	case len(f.series) == 0:
		return none, nil, fmt.Errorf("%s has no GPU", keySeries)
	}
	start, end := *f.start, *f.end
	gpus := make([]int, 0, len(f.series))
	for id := range f.series {
		gpus = append(gpus, id)
	}
	slices.Sort(gpus)
	var times []float64
	for _, s := range f.series[gpus[0]] {
		if start <= s.t && s.t <= end {
			times = append(times, s.t)
		}
	}
	if len(times) == 0 {
		return none, nil, fmt.Errorf("%s: GPU %d has no timeline samples in the steady state, from %v to %v", keySeries, gpus[0], start, end)
	}
	slices.SortStableFunc(times, func(a, b float64) int { return cmp.Compare(a-start, b-start) })
	if last := times[len(times)-1] - start; !(last <= maxSteadyS) { // a trace has a point every so often
		return none, nil, fmt.Errorf("%s: GPU %d has a sample %v s after the start of the steady state, want at most %v s", keySeries, gpus[0], last, float64(maxSteadyS))
	}
	out = workload.Timeline{TS: make([]float64, len(times)), PowerW: make([]float64, len(times))}
	for i, t := range times {
		out.TS[i] = t - start
	}
	for _, id := range gpus {
		at := map[float64]float64{}
		for _, s := range f.series[id] {
			if start <= s.t && s.t <= end {
				at[s.t] = s.w
			}
		}
		last := math.NaN()
		for i, t := range times {
			if w, ok := at[t]; ok && !math.IsNaN(w) {
				last = w
			}
			if !math.IsNaN(last) {
				out.PowerW[i] += last
			}
		}
		if math.IsNaN(last) {
			noPower = append(noPower, id)
		}
	}
	return out, noPower, nil
}
