package buffer

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// list is the buffer as one would write it down: everything in a list, looked up
// from the end.
type list struct {
	timeS, powerW []float64
	capacity      int
}

func (l *list) append(timeS, powerW float64) {
	n := len(l.timeS)
	if math.IsNaN(timeS) || math.IsInf(timeS, 0) || n > 0 && timeS < l.timeS[n-1] {
		if n == 0 {
			return
		}
		timeS = l.timeS[n-1]
	}
	l.timeS, l.powerW = append(l.timeS, timeS), append(l.powerW, powerW)
	if n++; n > l.capacity {
		l.timeS, l.powerW = l.timeS[n-l.capacity:], l.powerW[n-l.capacity:]
	}
}

func (l *list) at(timeS float64) float64 {
	for i := len(l.timeS) - 1; i >= 0; i-- {
		if l.timeS[i] <= timeS {
			return l.powerW[i]
		}
	}
	if len(l.powerW) > 0 {
		return l.powerW[0]
	}
	return 0
}

func wantBits(t interface{ Fatalf(string, ...any) }, what string, got, want float64) {
	if math.Float64bits(got) != math.Float64bits(want) {
		t.Fatalf("%s is %v, want %v", what, got, want)
	}
}

// Times are few, so that they coincide, and written so that now minus an offset
// often is a time, or just misses it by a rounding.
func drawTime() *rapid.Generator[float64] {
	return rapid.OneOf(
		rapid.Map(rapid.IntRange(-3, 60), func(n int) float64 { return float64(n) / 10 }),
		rapid.Map(rapid.IntRange(0, 60), func(n int) float64 { return 1000.1 + float64(n)*0.1 }),
		rapid.SampledFrom([]float64{math.Inf(1), math.Inf(-1), math.NaN(), math.Copysign(0, -1), math.MaxFloat64, -math.MaxFloat64}),
		rapid.Float64(),
	)
}

// It is long because its actions share what they act on.
func TestLookupsAreThoseOfAList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := New(rapid.IntRange(-1, 40).Draw(t, "capacity"))
		want := &list{capacity: len(r.slots)}
		times := drawTime()
		if rapid.Bool().Draw(t, "ordered") {
			next := 0
			times = rapid.Custom(func(t *rapid.T) float64 {
				next += rapid.IntRange(0, 2).Draw(t, "steps")
				return float64(next) * 0.1
			})
		}
		offsets, lags := NewOffsets(nil), []float64(nil)
		power := 0.0
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				power++
				timeS := times.Draw(t, "time")
				r.Append(timeS, power)
				want.append(timeS, power)
			},
			"amend": func(*rapid.T) {
				power++
				r.Amend(power)
				if n := len(want.powerW); n > 0 {
					want.powerW[n-1] = power
				}
			},
			"at": func(t *rapid.T) {
				timeS := drawTime().Draw(t, "at")
				wantBits(t, "the power", r.At(timeS), want.at(timeS))
			},
			"offsets": func(t *rapid.T) {
				all := rapid.SliceOfN(rapid.OneOf(drawTime(), rapid.Just(math.NaN())), 0, 30).Draw(t, "offsets")
				if rapid.Bool().Draw(t, "all") {
					offsets, lags = NewOffsets(all), all
					return
				}
				servers := []int32{}
				lags = nil
				for _, server := range rapid.Permutation(indices(len(all))).Draw(t, "order") {
					if rapid.Bool().Draw(t, "selected") {
						servers = append(servers, server)
						lags = append(lags, all[server])
					}
				}
				offsets.Select(NewOffsets(all), servers)
			},
			"sample": func(t *rapid.T) {
				nowS := rapid.OneOf(rapid.Float64Range(-10, 1010), rapid.Map(rapid.IntRange(0, 80), func(n int) float64 { return float64(n) / 10 })).Draw(t, "now")
				got := make([]float64, len(offsets.sorted))
				r.Sample(nowS, offsets, got)
				for i, lag := range lags {
					wantBits(t, "the sample at offset "+strconv.FormatFloat(lag, 'g', -1, 64), got[i], want.at(nowS-lag))
					wantBits(t, "the same by itself", r.At(nowS-lag), got[i])
				}
			},
			"": func(t *rapid.T) {
				if r.Len() != len(want.timeS) {
					t.Fatalf("%d entries, want %d", r.Len(), len(want.timeS))
				}
				timeS, powerW, ok := r.Last()
				if n := len(want.timeS); ok != (n > 0) {
					t.Fatalf("a last entry: %v, of %d", ok, n)
				} else if ok {
					wantBits(t, "the last time", timeS, want.timeS[n-1])
					wantBits(t, "the last power", powerW, want.powerW[n-1])
				}
			},
		})
	})
}

// The entries of the ring in [TestReadersSeeWhatStoodThere], and the time between them.
const (
	ringEntries = 64
	ringPeriodS = 0.5
)

// couldBe judges the answer powerW for timeS, asked for when entry from was the last
// or later ones were, up to entry to.
func couldBe(powerW, timeS float64, from, to int) bool {
	k := int(powerW)
	if frac := powerW - float64(k); frac != 0 && frac != 0.25 {
		return false
	}
	asked := int(math.Floor(timeS / ringPeriodS))
	switch {
	case k == asked:
		return true
	case k < asked: // to come when asked: the last one then
		return from <= k && k <= to
	default: // gone, or before the first: the oldest one at some moment
		oldest, atMost := max(from+1-ringEntries, 0), max(to+2-ringEntries, 0)
		return oldest <= k && k <= atMost
	}
}

// look takes a sample at the lags, and a power for the one-th alone, and checks both.
// It returns how many readings came meanwhile. r has one by now.
func look(r *Rolling, lags []float64, offsets *Offsets, one int) (more int, err error) {
	before, _, _ := r.Last()
	nowS, got := before+3*ringPeriodS, make([]float64, len(lags))
	r.Sample(nowS, offsets, got)
	oneS := nowS - lags[one]
	oneW := r.At(oneS)
	after, _, _ := r.Last()
	from, to := int(before/ringPeriodS), int(after/ringPeriodS)
	for i, lag := range lags {
		if !couldBe(got[i], nowS-lag, from, to) {
			return 0, fmt.Errorf("%v W at %v s, while entries %d to %d were the last", got[i], nowS-lag, from, to)
		}
	}
	if !couldBe(oneW, oneS, from, to) {
		return 0, fmt.Errorf("%v W at %v s alone, while entries %d to %d were the last", oneW, oneS, from, to)
	}
	for i := 1; i < len(offsets.sorted); i++ {
		a, b := offsets.sorted[i-1].server, offsets.sorted[i].server
		if int(got[a]) < int(got[b]) || int(got[a]) == int(got[b]) && got[a] != got[b] {
			return 0, fmt.Errorf("in one sample, %v W at %v s and %v W at %v s", got[a], nowS-lags[a], got[b], nowS-lags[b])
		}
	}
	return to - from, nil
}

// The writer writes as fast as it can into a small ring, so that readers are
// overtaken all the time. Reading k holds from k/2 s on and is k watts, later
// amended to k + 1/4; so each sample tells what it is and when it stood there.
func TestReadersSeeWhatStoodThere(t *testing.T) {
	const entries, readers = 200_000, 3
	r := New(ringEntries)
	lags := make([]float64, 200)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range lags {
		lags[i] = rng.Float64() * ringEntries * ringPeriodS * 1.5
	}
	lags[0], lags[1] = 0, ringEntries*ringPeriodS*2
	offsets := NewOffsets(lags)

	var all sync.WaitGroup
	var ended atomic.Bool
	all.Go(func() {
		defer ended.Store(true)
		for k := range entries {
			r.Append(float64(k)*ringPeriodS, float64(k))
			r.Amend(float64(k) + 0.25)
		}
	})
	var samples, wrapped atomic.Int64
	for range readers {
		all.Go(func() {
			for !ended.Load() {
				if r.Len() == 0 {
					continue
				}
				more, err := look(r, lags, offsets, int(samples.Load()%int64(len(lags))))
				if err != nil {
					t.Error(err)
					return
				}
				samples.Add(1)
				if more > ringEntries {
					wrapped.Add(1)
				}
			}
		})
	}
	all.Wait()
	stats := r.Stats()
	t.Logf("%d samples, %d of them while the ring wrapped, %+v", samples.Load(), wrapped.Load(), stats)
	if stats.Appended != entries || stats.Disordered != 0 || samples.Load() > 0 && stats.BeyondOldest == 0 {
		t.Errorf("the counts are %+v", stats)
	}
}

// A reader that is halted in the middle is simulated by writing between its
// reads.
func TestOvertakenReaderIsToldSo(t *testing.T) {
	r := New(4)
	for k := range 4 {
		r.Append(float64(k), float64(k))
	}
	if _, _, ok := r.read(0); !ok {
		t.Error("entry 0 is held and was not read")
	}
	r.begun.Store(5) // entry 4 is being written over entry 0
	if _, _, ok := r.read(0); ok {
		t.Error("entry 0 was read while it was being overwritten")
	}
	if got := r.At(0); got != 1 {
		t.Errorf("the oldest held is %v W, want 1", got)
	}
	got := []float64{-1, -1, -1}
	r.Sample(3, NewOffsets([]float64{3, 2, 0}), got)
	if want := [3]float64{1, 1, 3}; [3]float64(got) != want {
		t.Errorf("the sample is %v, want %v", got, want)
	}
	if n := r.Stats().BeyondOldest; n != 2 {
		t.Errorf("%d lookups reached beyond the oldest entry, want 2", n)
	}
}

func TestCapacityIsRoundedUp(t *testing.T) {
	for capacity, want := range map[int]int{math.MinInt: 2, 0: 2, 1: 2, 2: 2, 3: 4, 1000: 1024, 1024: 1024, 1025: 2048} {
		if got := len(New(capacity).slots); got != want {
			t.Errorf("a capacity of %d gives %d, want %d", capacity, got, want)
		}
	}
}

func TestOddOnesAreCounted(t *testing.T) {
	r := New(8)
	r.Append(math.NaN(), 1) // no time and none before: dropped
	if _, _, ok := r.Last(); ok || r.At(3) != 0 {
		t.Error("a reading without a time is there")
	}
	r.Amend(2) // nothing to amend
	for i, timeS := range []float64{5, 4, math.Inf(1), 6} {
		r.Append(timeS, float64(10+i))
	}
	if s := r.Stats(); s != (Stats{Appended: 4, Disordered: 3}) {
		t.Errorf("the counts are %+v", s)
	}
	if a, b, c := r.At(0), r.At(5), r.At(6); a != 10 || b != 12 || c != 13 {
		t.Errorf("%v W, %v W, %v W, want 10, 12 and 13", a, b, c)
	}
	if n := r.Stats().BeyondOldest; n != 0 {
		t.Errorf("a time before the first reading counted as lost: %d", n)
	}
}

func TestSampleFitsWhatItIsGiven(t *testing.T) {
	r, offsets := New(8), NewOffsets([]float64{2, 1, 0})
	long := []float64{-1, -1, -1, -1}
	r.Sample(10, offsets, long)
	if [4]float64(long) != [4]float64{0, 0, 0, -1} {
		t.Errorf("the sample of an empty buffer is %v", long)
	}
	r.Append(8, 80)
	r.Append(10, 100)
	r.Sample(10, offsets, long)
	if [4]float64(long) != [4]float64{80, 80, 100, -1} {
		t.Errorf("the sample is %v", long)
	}
	short := []float64{-1}
	r.Sample(10, offsets, short)
	if short[0] != 80 {
		t.Errorf("the sample is %v", short)
	}
	r.Sample(10, NewOffsets(nil), nil)
}

func TestNothingAllocates(t *testing.T) {
	r, lags, got := full(1000, 500)
	all, offsets, servers := NewOffsets(lags), &Offsets{}, indices(400)
	offsets.Select(all, servers)
	next := 1e6
	if n := testing.AllocsPerRun(100, func() {
		next++
		r.Append(next, 1)
		r.Amend(2)
		r.At(next - 100)
		r.Sample(next, offsets, got)
		offsets.Select(all, servers)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// indices are 0 to n-1.
func indices(n int) []int32 {
	all := make([]int32, n)
	for i := range all {
		all[i] = int32(i)
	}
	return all
}

// full returns a buffer with the given number of entries, of 10 s, and lags of so
// many servers within.
func full(entries, servers int) (*Rolling, []float64, []float64) {
	rng := rand.New(rand.NewPCG(1, 2))
	r := New(entries)
	for i := range entries {
		r.Append(10*float64(i)/float64(entries), 400+100*rng.Float64())
	}
	lags := make([]float64, servers)
	for i := range lags {
		lags[i] = 10 * rng.Float64()
	}
	return r, lags, make([]float64, servers)
}

func BenchmarkSample(b *testing.B) {
	for _, servers := range []int{10_000, 125_000} {
		r, lags, got := full(1000, servers)
		offsets := NewOffsets(lags)
		b.Run(strconv.Itoa(servers), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.Sample(10, offsets, got)
			}
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	b.ReportAllocs()
	r := New(1000)
	timeS := 0.0
	for b.Loop() {
		timeS++
		r.Append(timeS, 500)
	}
}

func BenchmarkAt(b *testing.B) {
	b.ReportAllocs()
	r, lags, _ := full(1000, 1024)
	i, sum := 0, 0.0
	for b.Loop() {
		sum += r.At(lags[i&1023])
		i++
	}
	if sum == 0 {
		b.Error("no power")
	}
}

func BenchmarkSelect(b *testing.B) {
	for _, servers := range []int{10_000, 125_000} {
		_, lags, _ := full(1000, servers)
		all, offsets, half := NewOffsets(lags), &Offsets{}, indices(servers/2)
		b.Run(strconv.Itoa(servers), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				offsets.Select(all, half)
			}
		})
	}
}
