package loadgen

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/completion"
)

// newTapped is a generator that is not run, whose meter is fed by hand.
func newTapped(t *testing.T) (*Generator, *reader) {
	t.Helper()
	g, err := New(Config{BaseURL: "http://127.0.0.1:1", ModelID: "m"})
	if err != nil {
		t.Fatal(err)
	}
	return g, &reader{meter: g.meter}
}

// TestTapKeepsWhatTheMeterCounts: also when tokens come in bundles, of which the tap
// has the whole once, and only while it is on.
func TestTapKeepsWhatTheMeterCounts(t *testing.T) {
	g, r := newTapped(t)
	r.read(1000*ms, tokens(1))
	r.read(1050*ms, tokens(2)) // before the tap
	tap := g.Tap(1000)
	r.read(1090*ms, tokens(3))
	r.read(1190*ms, tokens(7))                      // four at once
	r.read(1190*ms+100*time.Microsecond, tokens(8)) // and one more that joins them
	r.read(1220*ms+100*time.Microsecond, tokens(9))
	got := tap.Take()
	r.read(1300*ms, tokens(10)) // after it
	epoch := g.client.Epoch()
	joined := (100*ms + 100*time.Microsecond) / 5
	want := []Sample{
		{epoch.Add(1090 * ms), 40 * ms, 1},
		{epoch.Add(1190*ms + 100*time.Microsecond), joined, 5},
		{epoch.Add(1220*ms + 100*time.Microsecond), 30 * ms, 1},
	}
	if diff := cmp.Diff(want, got.All); diff != "" || got.Share != 1 {
		t.Errorf("share %v, samples (-want +got):\n%s", got.Share, diff)
	}
	var s Stats
	g.meter.sumUp(&s)
	sum := 50*ms + 80*ms - 100*time.Microsecond // what the tap did not see
	for _, k := range got.All {
		sum += k.ITL * time.Duration(k.Tokens)
	}
	if math.Abs(s.ITL.SumS-sum.Seconds()) > 1e-6 {
		t.Errorf("the meter has %v s, the tap and the rest %v", s.ITL.SumS, sum)
	}
}

// TestTapIsBounded: of more latencies than it keeps, a share is drawn, as likely from
// all of the time.
func TestTapIsBounded(t *testing.T) {
	g, _ := newTapped(t)
	const most, each = 800, 2000
	tap := g.Tap(most)
	for stream := range numShards {
		r := &reader{meter: g.meter, shard: stream}
		for i := range each {
			r.read(time.Duration(1000+10*i)*ms, completion.Chunk{Tokens: i + 1, Content: true, Bytes: eventBytes})
		}
	}
	got := tap.Take()
	n := len(got.All)
	if n > most || n < most/5 || math.Abs(float64(n)/(numShards*(each-1))/got.Share-1) > 0.5 {
		t.Errorf("%d samples, share %v", n, got.Share)
	}
	if !slices.IsSortedFunc(got.All, func(a, b Sample) int { return a.At.Compare(b.At) }) {
		t.Error("they are not in order of time")
	}
	middle := g.client.Epoch().Add((1000 + 10*each/2) * ms)
	early, _ := slices.BinarySearchFunc(got.All, middle, func(s Sample, at time.Time) int { return s.At.Compare(at) })
	if early < n/3 || early > 2*n/3 {
		t.Errorf("%d of %d are of the first half", early, n)
	}
}

// TestNewTapTakesTheOldOnesPlace: each keeps what came in its time.
func TestNewTapTakesTheOldOnesPlace(t *testing.T) {
	g, r := newTapped(t)
	r.read(1000*ms, tokens(1))
	old := g.Tap(100)
	r.read(1050*ms, tokens(2))
	young := g.Tap(100)
	r.read(1100*ms, tokens(3))
	if n := len(old.Take().All); n != 1 {
		t.Errorf("the old one has %d samples", n)
	}
	r.read(1150*ms, tokens(4)) // the old one's end is not the new one's
	if n := len(young.Take().All); n != 2 {
		t.Errorf("the new one has %d samples", n)
	}
}
