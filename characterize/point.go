package characterize

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
)

// pointFormat is the format of points' files.
const pointFormat = "g2g-agent point 1"

// Point is what was measured of a model at one batch size, as it came. Times are in
// nanoseconds since BeganUTC.
type Point struct {
	Format string `json:"format"`
	Spec
	// BeganUTC is when the measurement began, after all was steady.
	BeganUTC          time.Time `json:"began_utc"`
	BatchSizeActuator string    `json:"batch_size_actuator"`
	// ITLMethod is how tokens were counted, as in [loadgen.ITLWindow].
	ITLMethod string `json:"itl_method"`
	// SettleS is how long it took from setting the batch size until then, in seconds;
	// Settled says that all was steady, and not that the time for it was up.
	SettleS float64 `json:"settle_s"`
	Settled bool    `json:"settled"`
	// Spans are stretches of time one behind the other.
	Spans []Span `json:"spans"`
	// GPUs have the readings of each of the model's GPUs, in config order.
	GPUs []GPUCourse `json:"gpus"`
	ITL  Latencies   `json:"itl"`
}

// Spec says what a point is of. A point is taken up by a later call if all of it is the
// same.
type Spec struct {
	ModelLabel     string `json:"model_label"`
	ModelID        string `json:"model_id"`
	GPUModel       string `json:"gpu_model"`
	Task           string `json:"task"`
	Precision      string `json:"precision"`
	TensorParallel int    `json:"tensor_parallel"`
	ExpertParallel int    `json:"expert_parallel"`
	GPUsPerReplica int    `json:"gpus_per_replica"`
	NumGPUs        int    `json:"num_gpus"`
	NumServers     int    `json:"num_servers"`
	// Servers are the servers' URLs, each with its GPUs.
	Servers         string `json:"servers"`
	MaxOutputTokens int    `json:"max_output_tokens"`
	// RequestsSHA256 is of what the servers are asked.
	RequestsSHA256 string `json:"requests_sha256"`
	BatchSize      int    `json:"batch_size"`
	// Repeat counts the measurements at the batch size, from 0.
	Repeat   int     `json:"repeat"`
	MeasureS float64 `json:"measure_s"`
	SteadyS  float64 `json:"steady_s"`
}

// Span is a stretch of time.
type Span struct {
	FromNS int64 `json:"from_ns"`
	ToNS   int64 `json:"to_ns"`
	// PowerW is the mean power of a GPU as it was known at once, ITLS the mean latency in
	// seconds, ITLP50S the median over the window that ends with the span, Running the mean
	// number of requests a server ran; nil is unknown.
	PowerW  *float64 `json:"power_w"`
	ITLS    *float64 `json:"itl_s"`
	ITLP50S *float64 `json:"itl_p50_s"`
	Running *float64 `json:"running"`
	Tokens  uint64   `json:"tokens"`
	// LeftOut is why it does not count; empty if it does.
	LeftOut string `json:"left_out,omitempty"`
}

// GPUCourse are a GPU's readings, each of which holds until the next.
type GPUCourse struct {
	AtNS   []int64   `json:"at_ns"`
	PowerW []float64 `json:"power_w"`
	// Its energy counter showed EnergyJ[i] joules at EnergyAtNS[i]; both are empty where
	// it has none.
	EnergyAtNS []int64   `json:"energy_at_ns"`
	EnergyJ    []float64 `json:"energy_j"`
}

// Latencies are single latencies in order of time: Tokens[i] tokens came at AtNS[i],
// each ITLNS[i] after the one before.
type Latencies struct {
	// Share is the part of all that is here, drawn at random; 1 is all.
	Share  float64 `json:"share"`
	AtNS   []int64 `json:"at_ns"`
	ITLNS  []int64 `json:"itl_ns"`
	Tokens []int   `json:"tokens"`
}

// newPoint puts together what was measured from a time on; it says nothing of what it
// is a point of.
func newPoint(j *judge, from time.Time, r *recording) *Point {
	spans := j.settled()
	to := spans[len(spans)-1].to
	p := &Point{Format: pointFormat, BeganUTC: from.UTC().Round(0), ITL: Latencies{Share: r.samples.Share}}
	ns := func(t time.Time) int64 { return int64(t.Sub(from)) }
	for i := range spans {
		s := &spans[i]
		p.Spans = append(p.Spans, Span{ns(s.from), ns(s.to), known(s.powerW), known(s.itlS), known(s.itlP50S), known(s.running), s.tokens, s.bad})
	}
	for i, course := range r.powers {
		var c GPUCourse
		for _, r := range course {
			if !r.at.After(to) {
				c.AtNS, c.PowerW = append(c.AtNS, ns(r.at)), append(c.PowerW, r.powerW)
			}
		}
		if i < len(r.counts) {
			for _, n := range r.counts[i] {
				c.EnergyAtNS, c.EnergyJ = append(c.EnergyAtNS, ns(n.at)), append(c.EnergyJ, n.energyJ)
			}
		}
		p.GPUs = append(p.GPUs, c)
	}
	for _, s := range r.samples.All {
		if at := ns(s.At); at >= 0 && !s.At.After(to) {
			p.ITL.AtNS, p.ITL.ITLNS, p.ITL.Tokens = append(p.ITL.AtNS, at), append(p.ITL.ITLNS, int64(s.ITL)), append(p.ITL.Tokens, s.Tokens)
		}
	}
	return p
}

func known(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// savePoint makes a point durable.
func savePoint(file string, p *Point) error {
	f, err := atomicfile.Create(file)
	if err != nil {
		return err
	}
	defer f.Abort()
	z := gzip.NewWriter(f)
	if err := json.NewEncoder(z).Encode(p); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return f.Commit()
}

// maxLength is more than a point ever takes.
const maxLength = 100 * 24 * time.Hour

// maxPointBytes is more than a point's file ever holds, unpacked.
const maxPointBytes = 1 << 30

// loadPoint reads a point; nil if there is none. Its errors wrap
// [datacenter.ErrInvalidInput].
func loadPoint(file string) (*Point, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // that there is none is no error
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", datacenter.ErrInvalidInput, err)
	}
	defer f.Close()
	p := new(Point)
	z, err := gzip.NewReader(f)
	if err == nil {
		err = json.NewDecoder(io.LimitReader(z, maxPointBytes)).Decode(p)
	}
	if err == nil {
		// The checksum comes at the end.
		_, err = io.Copy(io.Discard, io.LimitReader(z, maxPointBytes))
	}
	if err == nil {
		err = p.check()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w; without the file, the point is measured anew", datacenter.ErrInvalidInput, file, err)
	}
	return p, nil
}

// check returns what is wrong with a point that was read.
func (p *Point) check() error {
	switch l := &p.ITL; {
	case p.Format != pointFormat:
		return fmt.Errorf("its format is %.40q, want %q", p.Format, pointFormat)
	case len(l.AtNS) != len(l.ITLNS) || len(l.AtNS) != len(l.Tokens):
		return errors.New("itl: at_ns, itl_ns and tokens differ in length")
	case !(l.Share > 0 && l.Share <= 1):
		return fmt.Errorf("itl: share is %v, want a number above 0 and at most 1", l.Share)
	}
	for i, n := range p.ITL.Tokens {
		if n < 1 || n > 1<<20 || p.ITL.ITLNS[i] < 0 {
			return fmt.Errorf("itl: sample %d is of %d tokens and %d ns", i, n, p.ITL.ITLNS[i])
		}
	}
	for i, s := range p.Spans {
		if s.ToNS <= s.FromNS || s.FromNS < 0 || s.ToNS > int64(maxLength) || i > 0 && s.FromNS < p.Spans[i-1].ToNS {
			return fmt.Errorf("spans[%d] is from %d to %d ns", i, s.FromNS, s.ToNS)
		}
	}
	some := false
	for i, g := range p.GPUs {
		if len(g.AtNS) != len(g.PowerW) {
			return fmt.Errorf("gpus[%d]: at_ns and power_w differ in length", i)
		}
		if len(g.EnergyAtNS) != len(g.EnergyJ) {
			return fmt.Errorf("gpus[%d]: energy_at_ns and energy_j differ in length", i)
		}
		some = some || len(g.AtNS) > 0
	}
	if !some {
		return errors.New("gpus: there is no reading")
	}
	if len(p.intervals()) == 0 {
		return errors.New("spans: none counts")
	}
	return nil
}
