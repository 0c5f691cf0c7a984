package rig

import (
	"testing"

	"github.com/g2g-agent/g2g-agent/power"
)

// namedSource is a power source that only has a name.
type namedSource struct {
	power.Source
	name string
}

func testGPU(host string, index int) GPU { return GPU{namedSource{name: host}, index} }

func TestFeedAveragesKnownGPUs(t *testing.T) {
	a, b, c := testGPU("n", 0), testGPU("n", 1), testGPU("m", 0)
	f := NewFeed([][]GPU{{a, b}, {b, c}}, 10)
	at := func(model int, timeS, want float64) {
		t.Helper()
		if got := f.History(model).At(timeS); got != want {
			t.Errorf("model %d has %v W at %v s, want %v", model, got, timeS, want)
		}
	}
	at(0, 5, 0)
	f.Read(a, 1, 100)
	at(0, 1, 100) // b is not known yet
	f.Read(b, 2, 300)
	at(0, 1.9, 100)
	at(0, 2, 200)
	at(1, 2, 300)
	f.Read(c, 3, 500)
	at(1, 3, 400)
	at(0, 3, 200) // c is not one of its GPUs

	f.Lose(a, 4)
	at(0, 3.9, 200)
	at(0, 4, 300)
	f.Lose(b, 5) // the last one known of model 0: held
	at(0, 5, 300)
	at(1, 5, 500)
	f.Lose(b, 6)
	at(1, 6, 500)
	f.Read(a, 7, 100)
	at(0, 7, 200)
	if f.Read(testGPU("n", 7), 8, 1000) {
		t.Error("a GPU of no model was taken for one")
	}
}

func TestFeedBoundsTheHistory(t *testing.T) {
	ids := make([]GPU, 64)
	for i := range ids {
		ids[i] = testGPU("n", i)
	}
	f := NewFeed([][]GPU{ids}, 10)
	history := f.History(0)
	for i := range 20 * 15 { // 15 s of 64 GPUs reporting 20 times a second, one after the other
		for j, id := range ids {
			f.Read(id, 0.05*float64(i)+0.0005*float64(j), float64(i))
		}
	}
	if s := history.Stats(); s.Disordered != 0 || s.Appended > 15/feedResolutionS {
		t.Errorf("the history took %+v", s)
	}
	if got := history.At(15 - 10); got < 98 || got > 101 {
		t.Errorf("10 s ago the mean was %v W, want about 100", got)
	}
	if got := history.At(0); got > 90 {
		t.Errorf("the history reaches back to %v W only", got)
	}
}
