package recording

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// site makes readings as real hosts have them: each GPU's power wanders by watts, with a
// millisecond of jitter in its times; latencies are spread over some 60 bins.
type site struct {
	random  *rand.Rand
	powerMW []int64
	models  int
	itl     ITL
}

func newSite(gpus, models int) *site {
	s := &site{random: rand.New(rand.NewPCG(1, 2)), powerMW: make([]int64, gpus), models: models}
	for i := range s.powerMW {
		s.powerMW[i] = 550_000 + s.random.Int64N(100_000)
	}
	return s
}

// step gives a step of a tenth of a second to a writer: two of each GPU, the tokens
// of each model, metrics twice a second, a state of 12 doubles that no one can compress.
func (s *site) step(w *Writer, seq int64, state *datacenter.State) {
	w.BeginStep(seq, startMs+100*seq, 20+s.random.Int64N(60))
	for gpu := range s.powerMW {
		for i := range int64(2) {
			s.powerMW[gpu] += int64(s.random.NormFloat64() * 2000)
			w.Power(gpu, PowerEntry{
				TMs: startMs + 100*seq + 50*i + s.random.Int64N(3) - 1, PowerMW: s.powerMW[gpu], Step: seq, OffsetNs: -1234567, Mark: MarkReading,
			})
		}
	}
	for m := range s.models {
		s.tokens(seq, w.header.Models[m])
		w.ITL(&s.itl)
		if seq%5 == 0 {
			w.Metrics(&Metrics{Step: seq, ModelLabel: w.header.Models[m], NumRequestsRunning: 128, NumRequestsWaiting: float64(s.random.IntN(4)), KVCacheUsagePerc: s.random.Float64()})
		}
	}
	w.State(state)
}

// tokens are 100 to 130 of a step.
func (s *site) tokens(seq int64, label string) {
	var counts [64]int64
	n := 100 + s.random.Int64N(31)
	for range n {
		counts[max(0, min(63, 32+int(s.random.NormFloat64()*12)))]++
	}
	l := &s.itl
	*l = ITL{Seq: seq, ModelLabel: label, OutputTokens: n, Count: n, SumNs: n*20_000_000 + s.random.Int64N(1e9), Method: MethodUsage, Bins: l.Bins[:0], Counts: l.Counts[:0]}
	for bin, count := range counts {
		if count > 0 {
			l.Bins, l.Counts = append(l.Bins, int64(1500+bin)), append(l.Counts, count)
		}
	}
}

func (s *site) state(dt datacenter.Seconds, seq int64) *datacenter.State {
	state := stateOfStep(dt, seq, s.models)
	for i := range state.Models {
		m := &state.Models[i]
		m.PowerW, m.ObservedITLS, m.Live.MeasuredPowerW = s.random.Float64(), s.random.Float64(), s.random.Float64()
		m.Live.Server = &datacenter.ServerLoad{NumRequestsRunning: 128, KVCacheUsagePerc: s.random.Float64()}
	}
	return state
}

// written waits until so many seconds are on the disk.
func written(b *testing.B, w *Writer, seconds uint64) {
	for stats := w.Stats(); stats.Seconds < seconds; stats = w.Stats() {
		if stats.Stopped || stats.DroppedSeconds > 0 {
			b.Fatalf("stats %+v", stats)
		}
		<-time.After(20 * time.Microsecond)
	}
}

// A day of 8 GPUs and three models at ten steps a second takes at most 350 MB.
func TestSizeOfADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		w, err := Open(Options{disk: d, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		w.Start(headerOf(t, 8, 3))
		s := newSite(8, 3)
		const seconds = 120
		for seq := range int64(10 * seconds) {
			s.step(w, seq, s.state(w.header.DT, seq))
			synctest.Wait()
		}
		if err := w.Close(t.Context(), "done"); err != nil {
			t.Fatal(err)
		}
		mb := float64(w.Stats().Bytes) / seconds * 86400 / 1e6
		if mb > 350 || mb < 100 {
			t.Errorf("%.0f MB a day", mb)
		}
		t.Logf("%.0f MB a day", mb)
	})
}

// BenchmarkSecond is a second of the run, of ten steps with 20 readings a GPU, from the
// steps to the disk. Its limit at 64 GPUs is 0.5 % of a core, 5 ms; syncing is waiting.
func BenchmarkSecond(b *testing.B) {
	for _, gpus := range []int{8, 64} {
		for _, where := range []string{"memory", "disk"} {
			b.Run(fmt.Sprintf("gpus=%d/%s", gpus, where), func(b *testing.B) { benchmarkSecond(b, gpus, where == "disk") })
		}
	}
}

func benchmarkSecond(b *testing.B, gpus int, onDisk bool) {
	o := Options{Dir: b.TempDir(), Log: zerolog.Nop()}
	d := newMemory()
	if !onDisk {
		o.disk = d
	}
	w, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	w.Start(headerOf(b, gpus, 3))
	s := newSite(gpus, 3)
	states := make([]*datacenter.State, 100)
	for i := range states {
		states[i] = s.state(w.header.DT, int64(i))
	}
	b.ReportAllocs()
	began := processorTime(b)
	var seq int64
	for second := uint64(1); b.Loop(); second++ {
		for range 10 {
			state := *states[seq%100]
			state.Seq = seq
			s.step(w, seq, &state)
			seq++
		}
		written(b, w, second)
	}
	b.ReportMetric((processorTime(b)-began).Seconds()*1e3/float64(seq/10), "cpu-ms/s")
	b.ReportMetric(float64(w.Stats().Bytes)/float64(seq/10)*86400/1e6, "MB/day")
	_ = w.Close(b.Context(), "done")
}

// processorTime is what this process has used so far.
func processorTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkStep is what a step pays, of 64 GPUs.
func BenchmarkStep(b *testing.B) {
	w, err := Open(Options{disk: newMemory(), Log: zerolog.Nop()})
	if err != nil {
		b.Fatal(err)
	}
	w.Start(headerOf(b, 64, 3))
	state := stateOfStep(w.header.DT, 0, 3)
	itl := ITL{ModelLabel: "model0", Bins: make([]int64, 50), Counts: make([]int64, 50)}
	b.ReportAllocs()
	var seq int64
	for b.Loop() {
		// The second never ends: handing it over would depend on the goroutine.
		w.BeginStep(seq%9, startMs, 0)
		for gpu := range 64 {
			w.Power(gpu, PowerEntry{TMs: startMs, PowerMW: 1, Mark: MarkReading})
			w.Power(gpu, PowerEntry{TMs: startMs, PowerMW: 1, Mark: MarkReading})
		}
		for range 3 {
			w.ITL(&itl)
		}
		w.State(state)
		if seq++; seq%9 == 0 {
			w.steps.filling.clear()
		}
	}
	_ = w.Close(b.Context(), "done")
}

func BenchmarkHash(b *testing.B) {
	s := newSite(1, 3).state(tenth(b), 1)
	b.ReportAllocs()
	for b.Loop() {
		HashOf(s)
	}
}

func BenchmarkParseLine(b *testing.B) {
	for _, c := range lineCases(b) {
		if c.name != "power" && c.name != "itl" && c.name != "state_hash" {
			continue
		}
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseLine([]byte(c.text)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
