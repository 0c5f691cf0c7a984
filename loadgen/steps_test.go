package loadgen

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/completion"
)

// takeStepITL is what came to a meter since the last step.
func (m *meter) takeStepITL(now time.Duration, whole bool) StepITL {
	var sum windowSum
	m.takeStep(now, whole, &sum)
	s := StepITL{Count: sum.tokens, SumNs: int64(sum.sum), PerChunk: sum.perChunkTokens, Output: sum.output}
	for bin, n := range sum.bins {
		if n > 0 {
			s.Bins, s.Counts = append(s.Bins, int64(bin)), append(s.Counts, int64(n))
		}
	}
	return s
}

func samplesOf(s *StepITL) (n int64) {
	for _, count := range s.Counts {
		n += count
	}
	return n
}

// A step has what came since the step before, to the nanosecond; the first has what is in
// the meter's window.
func TestStepsHaveWhatCameBetween(t *testing.T) {
	m := newMeter(time.Second)
	r := &reader{meter: m}
	r.read(1000*ms, tokens(0))
	r.read(1100*ms, tokens(1))
	r.read(1150*ms, tokens(2))
	if first := m.takeStepITL(1200*ms, true); first.Count != 1 || first.SumNs != int64(50*ms) || first.Output != 2 || samplesOf(&first) != 1 {
		t.Errorf("the first step has %+v", first)
	}
	r.read(1250*ms, tokens(6)) // four at once
	r.read(1300*ms+7, tokens(7))
	second := m.takeStepITL(1300*ms+8, false)
	if second.Count != 5 || second.SumNs != int64(150*ms+7) || second.Output != 5 || samplesOf(&second) != 5 || second.Method() != MethodUsage {
		t.Errorf("the second step has %+v", second)
	}
	if want := []int64{int64(binOf(25 * ms)), int64(binOf(50*ms + 7))}; !slices.Equal(second.Bins, want) || !slices.Equal(second.Counts, []int64{4, 1}) {
		t.Errorf("its bins are %v with %v, want %v with 4 and 1", second.Bins, second.Counts, want)
	}
	if third := m.takeStepITL(1400*ms, false); third.Count != 0 || third.Output != 0 || third.Bins != nil {
		t.Errorf("the third step has %+v", third)
	}
}

// The first steps of a load that is younger than the window have its rate.
func TestThroughputOfAYoungLoad(t *testing.T) {
	const dt = 100 * ms
	m := newMeter(60 * time.Second)
	m.begin(10 * time.Second)
	r := &reader{meter: m}
	at, sent := 10*time.Second, 0
	until := func(end time.Duration) {
		for ; at < end; at += 10 * ms {
			r.read(at, tokens(sent))
			sent++
		}
	}
	w := NewStepWindow(600)
	for seq := range int64(1500) {
		now := 20*time.Second + time.Duration(seq)*dt
		until(now)
		s := m.takeStepITL(now, seq == 0)
		w.Add(seq, &s)
		if got := w.ITL(seq, dt.Seconds()).TokensPerS; !near(got, 100, 0.06) {
			t.Fatalf("step %d has %v tokens/s, want 100", seq, got)
		}
	}
}

// Tokens that join a bundle are counted anew with it as long as no step has it, and from
// then on for themselves: each counts once.
func TestABundleAcrossSteps(t *testing.T) {
	m := newMeter(time.Second)
	r := &reader{meter: m}
	r.read(1000*ms, tokens(0))
	r.read(1100*ms, tokens(1))
	r.read(1200*ms, tokens(2))
	r.read(1200*ms+100*time.Microsecond, tokens(4)) // joins: three share 100.1 ms
	one := m.takeStepITL(1201*ms, false)
	if one.Count != 3 || samplesOf(&one) != 3 || !slices.Equal(one.Bins, []int64{int64(binOf((100*ms + 100*time.Microsecond) / 3))}) {
		t.Errorf("before the step: %+v", one)
	}
	r.read(1200*ms+200*time.Microsecond, tokens(5))
	r.read(1200*ms+300*time.Microsecond, tokens(6))
	two := m.takeStepITL(1202*ms, false)
	if two.Count != 2 || two.SumNs != int64(200*time.Microsecond) || samplesOf(&two) != 2 || !slices.Equal(two.Bins, []int64{int64(binOf((100*ms + 300*time.Microsecond) / 5))}) {
		t.Errorf("after it: %+v", two)
	}
}

// However reads and steps fall, the steps have all tokens, and their bins as many.
func TestStepsLoseNothing(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		m := newMeter(time.Second)
		readers := make([]*reader, 20)
		sent := make([]int, len(readers))
		for i := range readers {
			readers[i] = &reader{meter: m, shard: i}
			readers[i].read(0, tokens(0))
		}
		var all StepITL
		at := time.Duration(0)
		for range 2000 {
			at += time.Duration(random.IntN(200)) * time.Microsecond
			i := random.IntN(len(readers))
			sent[i] += random.IntN(3)
			readers[i].read(at, tokens(sent[i]))
			if random.IntN(20) == 0 {
				s := m.takeStepITL(at, false)
				all.Count, all.SumNs, all.Output = all.Count+s.Count, all.SumNs+s.SumNs, all.Output+s.Output
				if samplesOf(&s) != s.Count {
					t.Fatalf("a step has %d tokens and %d in its bins", s.Count, samplesOf(&s))
				}
			}
		}
		s := m.takeStepITL(at, false)
		var stats Stats
		m.sumUp(&stats)
		if n := all.Count + s.Count; n != int64(stats.ITL.Count) || all.Output+s.Output != int64(stats.Tokens) || n == 0 {
			t.Fatalf("%d latencies and %d tokens, want %d and %d", n, all.Output+s.Output, stats.ITL.Count, stats.Tokens)
		}
		if sum := time.Duration(all.SumNs + s.SumNs).Seconds(); !near(sum, stats.ITL.SumS, 1e-6) {
			t.Fatalf("they sum up to %v s, want %v", sum, stats.ITL.SumS)
		}
	}
}

func randomStep(random *rand.Rand) *StepITL {
	s := &StepITL{Output: int64(random.IntN(100))}
	for bin := int64(random.IntN(100)); bin < numBins && len(s.Bins) < 30; bin += int64(random.IntN(60) + 1) {
		n := int64(random.IntN(20) + 1)
		s.Bins, s.Counts = append(s.Bins, bin), append(s.Counts, n)
		s.Count, s.SumNs = s.Count+n, s.SumNs+n*int64(random.IntN(1e8))
	}
	return s
}

// The window is, at every step, the sum of the latest steps.
func TestAWindowOfWholeSteps(t *testing.T) {
	const dtS = 0.1
	for _, steps := range []int64{1, 2, 7, 10} {
		random := rand.New(rand.NewPCG(3, uint64(steps)))
		w := NewStepWindow(steps)
		var all []*StepITL
		for seq := range int64(60) {
			s := randomStep(random)
			if random.IntN(6) == 0 {
				s = nil
			}
			all = append(all, s)
			w.Add(seq, s)
			want := newestSteps(all, steps)
			got := w.ITL(seq, dtS)
			if math.Float64bits(got.MeanS) != math.Float64bits(want.MeanS) || got.Tokens != want.Tokens || got.P99S != want.P99S || got.P50S != want.P50S {
				if !(math.IsNaN(got.MeanS) && math.IsNaN(want.MeanS)) {
					t.Fatalf("%d steps: at step %d %+v, want %+v", steps, seq, got, want)
				}
			}
			covered := float64(steps)
			if seq < steps {
				covered = float64(seq + steps) // step 0 brings a whole window
			}
			if !near(got.TokensPerS, want.TokensPerS/(covered*dtS), 1e-12) && want.TokensPerS > 0 {
				t.Fatalf("%d steps: at step %d %v tokens/s, want %v", steps, seq, got.TokensPerS, want.TokensPerS/(covered*dtS))
			}
		}
	}
}

// newestSteps is the window of the newest steps, in the plainest way, with all output as
// its tokens per second.
func newestSteps(all []*StepITL, steps int64) ITLWindow {
	var bins [numBins]uint64
	w := ITLWindow{}
	var sum time.Duration
	var samples uint64
	for i := max(len(all)-int(steps), 0); i < len(all); i++ {
		s := all[i]
		if s == nil {
			continue
		}
		w.Tokens += s.Count
		w.TokensPerS += float64(s.Output)
		sum += time.Duration(s.SumNs)
		for j, bin := range s.Bins {
			bins[bin] += uint64(s.Counts[j])
			samples += uint64(s.Counts[j])
		}
	}
	w.MeanS = sum.Seconds() / float64(w.Tokens)
	q := quantiles(bins[:], samples)
	w.P50S, w.P99S = q[0], q[3]
	return w
}

// A window of very many steps takes bounded memory, and is at most a part too long.
func TestAVeryLongWindow(t *testing.T) {
	const steps = 100_000
	w := NewStepWindow(steps)
	one := &StepITL{Count: 1, SumNs: 1e6, Output: 1, Bins: []int64{500}, Counts: []int64{1}}
	for seq := range int64(250_000) {
		w.Add(seq, one)
		if n := w.ITL(seq, 0.1).Tokens; seq == 249_999 && (n < steps-w.perPart || n > steps+w.perPart) || n > seq+1 {
			t.Fatalf("at step %d there are %d tokens", seq, n)
		}
	}
	if len(w.parts) > maxStepParts {
		t.Errorf("it has %d parts", len(w.parts))
	}
}

func TestStepsAllocateNothing(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	m := newMeter(time.Second)
	r := &reader{meter: m}
	taker := &StepTaker{began: true}
	w := NewStepWindow(10)
	var s StepITL
	n := 0
	at, seq := time.Second, int64(0)
	chunk := []completion.Chunk{tokens(0)}
	step := func() {
		for range 50 {
			n++
			at += time.Duration(n%17) * ms
			chunk[0] = tokens(n)
			r.read(at, chunk...)
		}
		taker.sum = windowSum{}
		m.takeStep(at, false, &taker.sum)
		taker.set(&s)
		w.Add(seq, &s)
		_ = w.ITL(seq, 0.1)
		seq++
	}
	for range 100 {
		step()
	}
	if allocs := testing.AllocsPerRun(200, step); allocs > 0 {
		t.Errorf("a step allocates %v times", allocs)
	}
}
