package stream

import (
	"encoding/json"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func eventOf(label string) datacenter.Event {
	return datacenter.NewEvent(1.5, datacenter.DataFresh{ModelLabel: label})
}

func TestHistory(t *testing.T) {
	h := NewHub(3)
	if h.Latest() != nil || len(h.History(5)) != 0 || len(h.Events(5)) != 0 {
		t.Error("a hub begins with something")
	}
	for seq := range int64(200) {
		h.Publish(stateOf(seq, 1))
		if h.Latest().Seq != seq {
			t.Fatalf("the latest is %d, want %d", h.Latest().Seq, seq)
		}
	}
	for n, want := range map[int][]int64{-1: {}, 0: {}, 1: {199}, 2: {198, 199}, 3: {197, 198, 199}, 4: {197, 198, 199}} {
		states := h.History(n)
		if len(states) != len(want) {
			t.Errorf("of the latest %d there are %d", n, len(states))
			continue
		}
		for i, s := range states {
			if s.Seq != want[i] {
				t.Errorf("the latest %d: at %d is %d, want %d", n, i, s.Seq, want[i])
			}
		}
	}
	h.Publish(nil)
	if got := h.Stats(); got.States != 200 || got.DroppedSteps != 0 {
		t.Errorf("stats %+v", got)
	}
	if n := len(NewHub(0).History(1)); n != 0 {
		t.Errorf("%d states in a new hub", n)
	}
}

func TestDroppedSteps(t *testing.T) {
	h := NewHub(10)
	for _, c := range []struct {
		seq  int64
		want uint64
	}{{5, 0}, {6, 0}, {8, 1}, {8, 1}, {0, 1}, {1, 1}, {11, 10}, {3, 10}, {4, 10}} {
		h.Publish(stateOf(c.seq, 1))
		if got := h.Stats().DroppedSteps; got != c.want {
			t.Errorf("after %d: %d dropped, want %d", c.seq, got, c.want)
		}
	}
}

func TestEvents(t *testing.T) {
	h := NewHub(1)
	began := time.Now()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 300 {
				h.PublishEvent(eventOf("m"))
			}
		})
	}
	wg.Wait()
	events := h.Events(2000)
	if len(events) != maxEvents {
		t.Fatalf("%d events are kept, want %d", len(events), maxEvents)
	}
	for i, e := range events {
		if e.ID != int64(200+i) || e.WallTime.Before(began) {
			t.Fatalf("event %d is %+v", i, e)
		}
	}
	events[999].WallTime = time.Unix(0, 0).UTC()
	got, err := json.Marshal(events[999])
	want := `{"id":1199,"wall_time":"1970-01-01T00:00:00Z","time_s":1.5,"topic":"datacenter.power.fresh","data":{"model_label":"m"}}`
	if err != nil || string(got) != want {
		t.Errorf("got %s (%v), want %s", got, err, want)
	}
}

// TestEventWithoutJSON: one bad event does not spoil the list for everyone.
func TestEventWithoutJSON(t *testing.T) {
	h := NewHub(1)
	h.PublishEvent(datacenter.NewEvent(0, datacenter.DataStale{ModelLabel: "m", AgeS: math.NaN()}))
	h.PublishEvent(eventOf("m"))
	if got := h.Stats(); got.BadEvents != 1 || got.Events != 1 || len(h.Events(9)) != 1 {
		t.Errorf("stats %+v", got)
	}
}

// TestPublishAllocates only what the message takes.
func TestPublishAllocates(t *testing.T) {
	h := NewHub(10)
	s := stateOf(0, 1)
	if n := testing.AllocsPerRun(1000, func() { h.Publish(s) }); n > 1 {
		t.Errorf("Publish allocates %v times, want once", n)
	}
}
