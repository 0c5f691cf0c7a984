package loadgen

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/completion"
)

// reader feeds a meter with the reads of one request.
type reader struct {
	meter    *meter
	shard    int
	limit    int // of its answers
	progress progress
}

func (r *reader) read(at time.Duration, chunks ...completion.Chunk) {
	r.meter.observe(r.shard, &r.progress, &completion.Read{At: at, Chunks: chunks})
}

// eventBytes is how long vLLM's events are at least.
const eventBytes = 200

// tokens is a chunk with usage and, but for the first, output.
func tokens(n int) completion.Chunk {
	return completion.Chunk{Tokens: n, Content: n > 0, Bytes: eventBytes}
}

// quiet is a chunk with usage and without output.
func quiet(n int) completion.Chunk { return completion.Chunk{Tokens: n, Bytes: eventBytes} }

// last is the usage at the end of an answer.
func last(n int) completion.Chunk {
	return completion.Chunk{Tokens: n, Last: true, Bytes: eventBytes}
}

func content() completion.Chunk {
	return completion.Chunk{Tokens: -1, Content: true, Bytes: eventBytes}
}

func empty() completion.Chunk { return completion.Chunk{Tokens: -1, Bytes: eventBytes} }

const ms = time.Millisecond

// near tells whether got is within a share of want.
func near(got, want, share float64) bool { return math.Abs(got-want) <= share*math.Abs(want) }

func TestWhatCountsAsASample(t *testing.T) {
	m := newMeter(time.Second)
	r := &reader{meter: m}
	r.progress = progress{}
	r.read(1000*ms, tokens(0)) // role
	r.read(1100*ms, tokens(1)) // first token
	r.read(1150*ms, tokens(2))
	r.read(1250*ms, tokens(6)) // four at once
	r.read(1260*ms, quiet(6))  // nothing new
	r.read(1270*ms, quiet(5))  // nor here
	r.read(1300*ms, tokens(7), quiet(7))
	w := m.itl(1300 * ms)
	if want := 0.2 / 6; !near(w.MeanS, want, 1e-12) || w.Tokens != 6 {
		t.Errorf("mean %v of %d tokens, want %v of 6", w.MeanS, w.Tokens, want)
	}
	if !near(w.P50S, 0.025, 0.01) || !near(w.P99S, 0.05, 0.016) {
		t.Errorf("p50 %v, p99 %v, want 0.025 and 0.05", w.P50S, w.P99S)
	}
	if w.Method != MethodUsage || w.MultiEventShare != 0 {
		t.Errorf("method %q, share of reads with several events %v", w.Method, w.MultiEventShare)
	}
	var s Stats
	m.sumUp(&s)
	if s.Chunks != 8 || s.Tokens != 7 || s.Reads != 4 || s.Bundles[1] != 3 || s.Bundles[4] != 1 {
		t.Errorf("%d chunks, %d tokens, %d reads, bundles %v", s.Chunks, s.Tokens, s.Reads, s.Bundles)
	}
	if s.TTFT.Count != 1 || !near(s.TTFT.MeanS, 1.1, 1e-9) || s.ITL.Count != 6 || !near(s.ITL.MeanS, 0.2/6, 1e-9) {
		t.Errorf("TTFT %+v, ITL %+v", s.TTFT, s.ITL)
	}
}

// A server without usage in its chunks, but in the last one: it knows of more
// tokens than there were chunks, which is no latency.
func TestOneTokenPerChunkWithoutUsage(t *testing.T) {
	m := newMeter(time.Second)
	r := &reader{meter: m}
	r.read(1000*ms, empty())
	r.read(1100*ms, content())
	r.read(1150*ms, content())
	r.read(1160*ms, empty())
	r.read(1200*ms, content())
	r.read(1201*ms, last(9))
	w := m.itl(1300 * ms)
	if !near(w.MeanS, 0.05, 1e-12) || w.Tokens != 2 || w.Method != MethodPerChunk {
		t.Errorf("mean %v of %d tokens by %q, want 0.05 of 2 by %q", w.MeanS, w.Tokens, w.Method, MethodPerChunk)
	}
}

func TestSeveralEventsInAReadAreReported(t *testing.T) {
	m := newMeter(time.Second)
	r := &reader{meter: m}
	r.read(1000*ms, tokens(0), tokens(1))
	r.read(1050*ms, tokens(2))
	r.read(1150*ms, tokens(3), tokens(4))
	r.read(1200*ms, tokens(5), quiet(5)) // the second brings nothing
	w := m.itl(1300 * ms)
	if w.MultiEventShare != 0.25 || !near(w.MeanS, 0.05, 1e-12) {
		t.Errorf("share %v, mean %v, want 0.25 and 0.05", w.MultiEventShare, w.MeanS)
	}
}

func TestEmptyWindowIsNotANumber(t *testing.T) {
	m := newMeter(time.Second)
	check := func(now time.Duration) {
		t.Helper()
		w := m.itl(now)
		for _, v := range []float64{w.MeanS, w.P50S, w.P90S, w.P95S, w.P99S} {
			if !math.IsNaN(v) {
				t.Errorf("window at %v is %+v, want NaN", now, w)
				return
			}
		}
	}
	check(0)
	r := &reader{meter: m}
	r.read(500*ms, tokens(1))
	check(500 * ms)
	r.read(600*ms, tokens(2))
	check(3 * time.Second)
	check(time.Hour)
	var s Stats
	newMeter(time.Second).sumUp(&s)
	if !math.IsNaN(s.ITL.MeanS) || !math.IsNaN(s.TTFT.P50S) || !math.IsNaN(s.MultiEventShare) {
		t.Errorf("statistics of nothing are %+v", s)
	}
}

// windowSample is a gap in front of inc tokens.
type windowSample struct {
	at, gap time.Duration
	inc     int
}

// windowOf are the latencies, sorted, and their mean, of the samples in the last parts
// of the meter's window.
func windowOf(m *meter, samples []windowSample, now time.Duration, parts int) (each []float64, mean float64) {
	part := m.part(parts)
	from := (now/part - time.Duration(parts)) * part
	var sum time.Duration
	for _, s := range samples {
		if s.at < from {
			continue
		}
		sum += s.gap
		for range s.inc {
			each = append(each, (s.gap / time.Duration(s.inc)).Seconds())
		}
	}
	slices.Sort(each)
	return each, sum.Seconds() / float64(len(each))
}

// The window against a plain list of all samples.
func TestWindowAgainstAllSamples(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		m := newMeter(time.Duration(1+random.IntN(3000)) * ms)
		var samples []windowSample
		readers := make([]reader, 20)
		lasts := make([]time.Duration, len(readers))
		for i := range readers {
			readers[i] = reader{meter: m, shard: i}
		}
		now := time.Hour
		for range 3000 {
			now += time.Duration(random.ExpFloat64() * float64(5*ms))
			i := random.IntN(len(readers))
			inc := 1 + random.IntN(3)
			if now-lasts[i] <= bundleGap {
				continue // it would be of the same bundle
			}
			if last := lasts[i]; last > 0 {
				samples = append(samples, windowSample{now, now - last, inc})
			}
			readers[i].read(now, tokens(readers[i].progress.tokens+inc))
			lasts[i] = now
		}
		now += time.Duration(random.Int64N(int64(m.window)))
		w := m.itl(now)
		each, mean := windowOf(m, samples, now, meanSlots)
		if int(w.Tokens) != len(each) || (len(each) > 0 && !near(w.MeanS, mean, 1e-9)) {
			t.Errorf("window of %v: mean %v of %d tokens, want %v of %d", m.window, w.MeanS, w.Tokens, mean, len(each))
		}
		each, _ = windowOf(m, samples, now, histogramSlots)
		if len(each) == 0 {
			continue
		}
		for _, q := range []struct{ share, got float64 }{{0.5, w.P50S}, {0.9, w.P90S}, {0.95, w.P95S}, {0.99, w.P99S}} {
			want := each[max(int(math.Ceil(q.share*float64(len(each))))-1, 0)]
			// One value to either side, when there are few, and 1 % of bin width.
			if !near(q.got, want, 0.016) {
				t.Errorf("window of %v: quantile %v is %v, want %v of %d", m.window, q.share, q.got, want, len(each))
			}
		}
	}
}

func TestBinsAreNarrow(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 100_000 {
		d := time.Duration(math.Exp(random.Float64()*math.Log(200e9))) + 1
		bin := binOf(d)
		low, high := binStart(bin), binStart(bin+1)
		if d < 137*time.Second && (float64(d) < low || float64(d) >= high) {
			t.Fatalf("%v is in bin %d, which is from %v to %v ns", d, bin, low, high)
		}
		if bin > 0 && bin < numBins-1 && (high-low)/2 > 0.008*low {
			t.Fatalf("bin %d from %v to %v ns is too wide", bin, low, high)
		}
	}
	if binOf(0) != 0 || binOf(-1) != 0 || binOf(math.MaxInt64) != numBins-1 {
		t.Error("durations out of range are not in the outer bins")
	}
}

func TestMeasuringDoesNotAllocate(t *testing.T) {
	m := newMeter(time.Second)
	var p progress
	now := time.Second
	r := completion.Read{Chunks: make([]completion.Chunk, 1)}
	n := 0
	if allocs := testing.AllocsPerRun(1000, func() {
		now += 10 * ms
		n++
		r.At, r.Chunks[0] = now, tokens(n)
		m.observe(3, &p, &r)
		if n%10 == 0 {
			m.itl(now)
		}
	}); allocs != 0 {
		t.Errorf("%v allocations per read, want 0", allocs)
	}
}

func BenchmarkObserve(b *testing.B) {
	m := newMeter(time.Second)
	var p progress
	now := time.Second
	r := completion.Read{Chunks: make([]completion.Chunk, 1)}
	b.ReportAllocs()
	for b.Loop() {
		now += 50 * time.Microsecond
		r.At, r.Chunks[0] = now, tokens(p.tokens+1)
		p.last = now - 50*ms
		m.observe(3, &p, &r)
	}
}

func BenchmarkWindow(b *testing.B) {
	m := newMeter(time.Second)
	random := rand.New(rand.NewPCG(5, 6))
	now := time.Second
	readers := make([]reader, 2048)
	for i := range readers {
		readers[i] = reader{meter: m, shard: i}
	}
	for range 40_000 {
		now += 25 * time.Microsecond
		r := &readers[random.IntN(len(readers))]
		r.read(now, tokens(r.progress.tokens+1))
	}
	b.ReportAllocs()
	for b.Loop() {
		m.itl(now)
	}
}

// TestLateReadsLeaveTheWindow: a read that was held up for longer than the window
// must not take the place of those that came meanwhile.
func TestLateReadsLeaveTheWindow(t *testing.T) {
	m := newMeter(time.Second)
	inTime, late := &reader{meter: m}, &reader{meter: m}
	late.read(500*ms, tokens(1))
	for i := range 100 {
		inTime.read(1600*ms+time.Duration(i)*10*ms, tokens(i+1))
	}
	now := 2600 * ms
	before := m.itl(now)
	part := m.part(meanSlots)
	late.read(2590*ms-part*time.Duration(meanSlots+1), tokens(2))
	late.read(2591*ms-part*time.Duration(meanSlots+1), tokens(3))
	if after := m.itl(now); before.Tokens == 0 || after.Tokens != before.Tokens || after.MeanS != before.MeanS {
		t.Errorf("the window was %+v and is %+v", before, after)
	}
	var s Stats
	m.sumUp(&s)
	if s.Tokens != 103 {
		t.Errorf("%d tokens over all time, want 103", s.Tokens)
	}
}

// TestSeveralGeneratorsAreOne: what two servers of a model bring is one window and
// one sum.
func TestSeveralGeneratorsAreOne(t *testing.T) {
	both := new(windowSum)
	var stats Stats
	var sum measured
	now := 500 * time.Millisecond
	one := newMeter(time.Second)
	for i, gap := range []time.Duration{10 * time.Millisecond, 30 * time.Millisecond} {
		m := newMeter(time.Second)
		for _, to := range []*meter{m, one} {
			r := reader{meter: to, shard: i}
			for at, n := time.Duration(0), 1; at < now; at, n = at+gap, n+1 {
				r.read(at, tokens(n))
			}
		}
		w := new(windowSum)
		m.addWindow(now, w)
		both.merge(w)
		m.addTo(&stats, &sum)
	}
	sum.finish(&stats)
	if got, want := both.window(), one.itl(now); got != want || want.Tokens == 0 || want.P50S > 0.011 || want.P99S < 0.029 {
		t.Errorf("the window of both is %+v, want %+v", got, want)
	}
	var want Stats
	one.sumUp(&want)
	if diff := cmp.Diff(want, stats); diff != "" || want.Tokens == 0 {
		t.Errorf("the sums of both (-want +got):\n%s", diff)
	}
}

// itl is the window that ends at now.
func (m *meter) itl(now time.Duration) ITLWindow {
	var sum windowSum
	m.addWindow(now, &sum)
	return sum.window()
}
