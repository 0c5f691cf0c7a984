package loadgen

import (
	"math"
	"testing"
	"time"
)

// A token every 10 ms and stream, in requests of 20: the first of each is no latency,
// but it is a token.
func TestTokensPerSecondCountAllTokens(t *testing.T) {
	m := newMeter(time.Second)
	readers := []*reader{{meter: m}, {meter: m, shard: 1}, {meter: m, shard: 2}}
	for i := range 500 {
		for _, r := range readers {
			if i%20 == 0 {
				r.progress = progress{}
			}
			r.read(time.Duration(i)*10*ms+time.Duration(r.shard)*ms, tokens(i%20+1))
		}
		if i < 150 || i%73 != 0 {
			continue
		}
		now := time.Duration(i)*10*ms + 3*ms
		w := m.itl(now)
		if !near(w.TokensPerS, 300, 0.011) { // a token of each stream may be beyond the edge
			t.Errorf("at %v there are %v tokens/s, want 300", now, w.TokensPerS)
		}
		if share := float64(w.Tokens) / w.TokensPerS; share > 0.97 {
			t.Errorf("at %v there are %d latencies to %v tokens/s: the first tokens are not counted", now, w.Tokens, w.TokensPerS)
		}
	}
	if w := m.itl(5500 * ms); !near(w.TokensPerS, 150, 0.03) {
		t.Errorf("half a second after the end there are %v tokens/s, want 150", w.TokensPerS)
	}
	if w := m.itl(10 * time.Second); w.TokensPerS != 0 || !math.IsNaN(w.MeanS) {
		t.Errorf("long after the end there are %v tokens/s and a latency of %v, want 0 and none", w.TokensPerS, w.MeanS)
	}
}

// Tokens of a part of the window that is not over say nothing about a rate yet.
func TestTokensPerSecondLeaveOutThePartThatIsNotOver(t *testing.T) {
	m := newMeter(time.Second)
	r := reader{meter: m}
	part := m.part(meanSlots)
	r.read(200*part+1, tokens(1), tokens(40))
	if w := m.itl(200*part + 2); w.TokensPerS != 0 {
		t.Errorf("%v tokens/s in a part that has just begun, want 0", w.TokensPerS)
	}
	if w := m.itl(201 * part); !near(w.TokensPerS, 40/(float64(meanSlots)*part.Seconds()), 1e-12) {
		t.Errorf("%v tokens/s once it is over, want 40 in the window", w.TokensPerS)
	}
	if w := m.itl((200+meanSlots)*part + 1); w.TokensPerS == 0 {
		t.Error("no tokens/s, although their part is still in the window")
	}
	if w := m.itl((201+meanSlots)*part + 1); w.TokensPerS != 0 {
		t.Errorf("%v tokens/s of a part that has left the window", w.TokensPerS)
	}
}

// A load that is younger than the window has its rate since it began.
func TestTokensPerSecondOfAYoungLoad(t *testing.T) {
	m := newMeter(4 * time.Second)
	m.begin(10 * time.Second)
	m.begin(20 * time.Second) // only the first begins
	r := reader{meter: m}
	for i := range 100 {
		r.read(10*time.Second+time.Duration(i+1)*10*ms, tokens(i+1))
	}
	if w := m.itl(11*time.Second + m.part(meanSlots)); !near(w.TokensPerS, 100, 0.05) {
		t.Errorf("%v tokens/s after a second, want 100", w.TokensPerS)
	}
	if w := m.itl(10 * time.Second); !math.IsNaN(w.TokensPerS) {
		t.Errorf("%v tokens/s before there was any time, want NaN", w.TokensPerS)
	}
}
