package stream

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func encodeInt(i int) ([]byte, error) { return strconv.AppendInt(nil, int64(i), 10), nil }

// taken is a follower of a feed whose n-th message is n.
type taken struct {
	cursor, received, skipped int64
}

func (k *taken) take(t rapid.TB, f *feed[int]) bool {
	m, skipped, _ := f.next(k.cursor)
	if m == nil {
		return false
	}
	if int64(m.value) != m.index || m.index != k.cursor+skipped {
		t.Fatalf("at %d: message %d with the value %d, after %d skipped", k.cursor, m.index, m.value, skipped)
	}
	k.cursor = m.index + 1
	k.received++
	k.skipped += skipped
	return true
}

// TestFeedLosesNothingUnsaid: whoever follows, at whatever speed, receives a
// message or is told of it; who is never further behind than the backlog receives
// all.
func TestFeedLosesNothingUnsaid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := backlog{
			most: rapid.IntRange(1, 40).Draw(t, "most"), age: rapid.SampledFrom([]time.Duration{0, 1, time.Hour}).Draw(t, "age"),
			toNewest: rapid.Bool().Draw(t, "to newest"),
		}
		b.least = rapid.IntRange(1, b.most).Draw(t, "least")
		f := newFeed(b, encodeInt)
		followers := make([]taken, rapid.IntRange(1, 4).Draw(t, "followers"))
		healthy := &followers[0]
		published := 0
		for range rapid.IntRange(1, 60).Draw(t, "rounds") {
			for range rapid.IntRange(0, 2*b.most).Draw(t, "published") {
				f.add(published, nil)
				published++
				if published-int(healthy.cursor) >= b.least {
					healthy.take(t, f)
				}
			}
			for i := range followers {
				for range rapid.IntRange(0, 2*b.most).Draw(t, "taken") {
					followers[i].take(t, f)
				}
			}
		}
		for i := range followers {
			k := &followers[i]
			for k.take(t, f) {
			}
			if k.received+k.skipped != int64(published) {
				t.Fatalf("%d received and %d skipped, of %d published", k.received, k.skipped, published)
			}
		}
		if healthy.skipped != 0 {
			t.Fatalf("a follower who was never late missed %d", healthy.skipped)
		}
	})
}

// TestBacklogInTime: a burst waits, but not for long; the last few wait however
// long.
func TestBacklogInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFeed(backlog{most: maxWaiting, least: leastWaiting, age: maxWait, toNewest: true}, encodeInt)
		for i := range maxWaiting {
			f.add(i, nil)
		}
		<-time.After(maxWait)
		f.add(maxWaiting, nil)
		if m, skipped, _ := f.next(1); m.index != 1 || skipped != 0 {
			t.Errorf("after 5 s: message %d, %d skipped, want message 1", m.index, skipped)
		}
		if m, skipped, _ := f.next(0); m.index != maxWaiting || skipped != maxWaiting {
			t.Errorf("more than can wait: message %d, %d skipped, want the newest", m.index, skipped)
		}
		<-time.After(time.Millisecond)
		f.add(maxWaiting+1, nil)
		oldest := int64(maxWaiting + 2 - leastWaiting)
		if m, skipped, _ := f.next(oldest); m.index != oldest || skipped != 0 {
			t.Errorf("after 5.001 s: message %d, %d skipped, want message %d", m.index, skipped, oldest)
		}
		if m, _, _ := f.next(oldest - 1); m.index != maxWaiting+1 {
			t.Errorf("after 5.001 s: message %d, want the newest", m.index)
		}
		kept := 0
		for i := range f.messages.slots {
			if f.messages.slots[i].Load() != nil {
				kept++
			}
		}
		if kept != leastWaiting {
			t.Errorf("%d messages are kept, want %d", kept, leastWaiting)
		}
	})
}

// TestEncodedOnce: a message is encoded by the first who sends it, and never if
// nobody does.
func TestEncodedOnce(t *testing.T) {
	var encoded atomic.Int64
	f := newFeed(backlog{most: 10, least: 10}, func(i int) ([]byte, error) {
		encoded.Add(1)
		return encodeInt(i)
	})
	f.add(0, nil)
	f.add(1, nil)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			m, _, _ := f.next(1)
			if frame, err := f.frameOf(m); err != nil || frame == nil {
				t.Errorf("frame %v, error %v", frame, err)
			}
		})
	}
	wg.Wait()
	if encoded.Load() != 1 {
		t.Errorf("encoded %d times, want once", encoded.Load())
	}
}

// TestFeedConcurrently: followers that race with the publisher miss nothing
// unsaid, and none sleeps through a message.
func TestFeedConcurrently(t *testing.T) {
	const published = 20_000
	for _, toNewest := range []bool{false, true} {
		f := newFeed(backlog{most: 16, least: 4, age: time.Nanosecond, toNewest: toNewest}, encodeInt)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				var k taken
				for k.cursor < published {
					_, _, more := f.next(k.cursor)
					select {
					case <-more.first:
						close(more.all)
					case <-more.all:
						k.take(t, f)
					case <-t.Context().Done():
						t.Error("a follower was not woken")
						return
					}
				}
				if k.received+k.skipped != published {
					t.Errorf("%d received and %d skipped, of %d published", k.received, k.skipped, published)
				}
			})
		}
		for i := range published {
			f.add(i, nil)
		}
		wg.Wait()
	}
}

// TestRingConcurrently: what is read while values are added is in order, and
// complete unless a reader was overtaken.
func TestRingConcurrently(t *testing.T) {
	const keep, added = 100, 50_000
	r := newRing[int](keep)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for r.end.Load() < added {
				values := r.latest(keep, 0)
				for i, v := range values {
					if v == nil || *v != *values[0]+i {
						t.Errorf("value %d of those from %d on is wrong", i, *values[0])
						return
					}
				}
			}
		})
	}
	for i := range added {
		r.add(&i)
	}
	wg.Wait()
	if values := r.latest(1000, 0); len(values) != keep || *values[0] != added-keep {
		t.Errorf("%d values are kept, want %d", len(values), keep)
	}
	if n := len(r.latest(-1, 0)); n != 0 {
		t.Errorf("the latest -1 values are %d", n)
	}
}
