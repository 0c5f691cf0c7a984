package zeusd

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// tripAt is a question sent at a time, with the daemon's clock ahead of ours.
func tripAt(sent time.Time, out, back, ahead time.Duration) roundTrip {
	return roundTrip{sent: sent, received: sent.Add(out + back), timestampMS: sent.Add(out + ahead).UnixMilli()}
}

func TestClockIsMedianOfRoundTrips(t *testing.T) {
	anchor := time.Now()
	const ms = time.Millisecond
	var trips []roundTrip
	for i, way := range []struct{ out, back, ahead time.Duration }{
		{2 * ms, 2 * ms, 3 * time.Second},
		{200 * ms, 2 * ms, 3 * time.Second}, // held up on the way there
		{2 * ms, 3 * ms, 3 * time.Second},
		{2 * ms, 300 * ms, 3 * time.Second}, // on the way back
		{2 * ms, 2 * ms, 3 * time.Hour},     // the clock was being set
	} {
		trips = append(trips, tripAt(anchor.Add(time.Duration(i)*time.Second), way.out, way.back, way.ahead))
	}
	c := newClock(anchor)
	c.set(trips, anchor.Add(10*time.Second))
	event := anchor.Add(20 * time.Second)
	got := c.at(event.Add(3 * time.Second).UnixMilli())
	if d := got.Sub(event); d.Abs() > 2*ms {
		t.Errorf("an event is placed %v off", d)
	}
	e := c.estimate.Load()
	if e.roundTrip != 5*ms || (e.wallOffset+3*time.Second).Abs() > 2*ms {
		t.Errorf("round trip %v, offset %v", e.roundTrip, e.wallOffset)
	}
}

// Whatever two of the five trips do, the error is bounded by the worst of the
// other three: half its round trip and a millisecond.
func TestClockWithstandsTwoBadTrips(t *testing.T) {
	anchor := time.Now()
	rapid.Check(t, func(t *rapid.T) {
		ahead := time.Duration(rapid.Int64Range(-1e18, 1e18).Draw(t, "ahead"))
		way := rapid.Custom(func(t *rapid.T) time.Duration { return time.Duration(rapid.Int64Range(0, 5e6).Draw(t, "way")) })
		var trips []roundTrip
		var bound time.Duration
		for i := range 3 {
			trips = append(trips, tripAt(anchor.Add(time.Duration(i)), way.Draw(t, "out"), way.Draw(t, "back"), ahead))
			bound = max(bound, trips[i].received.Sub(trips[i].sent)/2)
		}
		for range 2 {
			trips = append(trips, roundTrip{sent: anchor, received: anchor.Add(way.Draw(t, "trip")), timestampMS: rapid.Int64Range(1, maxTimestampMS).Draw(t, "time")})
		}
		trips = rapid.Permutation(trips).Draw(t, "order")
		c := newClock(anchor)
		c.set(trips, anchor)
		event := anchor.Add(time.Minute)
		if d := c.at(event.Add(ahead).UnixMilli()).Sub(event); d.Abs() > bound+time.Millisecond {
			t.Fatalf("off by %v, bound %v", d, bound)
		}
	})
}

// An estimate from busy hosts does not replace a good one, unless they disagree.
func TestClockKeepsTheBetterEstimate(t *testing.T) {
	anchor := time.Now()
	const ms = time.Millisecond
	measure := func(out, back, ahead time.Duration) []roundTrip {
		return slices.Repeat([]roundTrip{tripAt(anchor, out, back, ahead)}, roundTrips)
	}
	c := newClock(anchor)
	c.set(measure(ms, ms, 0), anchor)
	if moved := c.set(measure(80*ms, ms, 0), anchor); moved != 0 {
		t.Errorf("moved by %v", moved)
	}
	if moved := c.set(measure(80*ms, ms, time.Second), anchor); (moved + time.Second).Abs() > 50*ms {
		t.Errorf("a step of 1 s moved it by %v", moved)
	}
}

func TestClockContains(t *testing.T) {
	anchor := time.Now()
	const ms = time.Millisecond
	c := newClock(anchor)
	c.set([]roundTrip{tripAt(anchor, ms, ms, 0)}, anchor)
	for ahead, want := range map[time.Duration]bool{0: true, 8 * ms: true, -8 * ms: true, 15 * ms: false, -15 * ms: false, time.Hour: false} {
		if got := c.contains(tripAt(anchor.Add(time.Second), ms, ms, ahead), 10*ms); got != want {
			t.Errorf("%v ahead: %v", ahead, got)
		}
	}
}

func TestBackoffDelay(t *testing.T) {
	for failures, ceiling := range []time.Duration{50, 100, 200, 400, 800, 1000, 1000} {
		if got := backoffDelay(failures, 0.5); got != ceiling*time.Millisecond/2 {
			t.Errorf("after %d failures half of %v, want of %dms", failures, 2*got, ceiling)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		failures, u := rapid.Int().Draw(t, "failures"), rapid.Float64Range(0, 0.999).Draw(t, "u")
		if d := backoffDelay(failures, u); d < 0 || d >= backoffMost {
			t.Fatal(d)
		}
	})
}
