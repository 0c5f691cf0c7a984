package backoff

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestDelay(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		policy   Policy
		failures int
		u        float64
		want     time.Duration
	}{
		{Policy{50 * ms, time.Second, 2, 1}, 0, 0.5, 25 * ms},
		{Policy{50 * ms, time.Second, 2, 1}, 4, 0.5, 400 * ms},
		{Policy{50 * ms, time.Second, 2, 1}, 5, 0.5, 500 * ms},
		{Policy{50 * ms, time.Second, 2, 0.5}, 1, 0, 50 * ms},
		{Policy{50 * ms, time.Second, 2, 0.5}, 1, 0.5, 75 * ms},
		{Policy{time.Second, 10 * time.Second, 1.5, 0}, 2, 0.9, 2250 * ms},
		{Policy{time.Second, 10 * time.Second, 1.5, 0}, -1, 0.9, time.Second},
		{Policy{time.Second, 10 * time.Second, 1.5, 0}, 1 << 62, 0.9, 10 * time.Second},
	} {
		if got := c.policy.Delay(c.failures, c.u); got != c.want {
			t.Errorf("%+v after %d failures, u %v: %v, want %v", c.policy, c.failures, c.u, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{time.Millisecond, time.Second, rapid.Float64Range(1, 3).Draw(t, "factor"), rapid.Float64Range(0, 1).Draw(t, "jitter")}
		failures, u := rapid.Int().Draw(t, "failures"), rapid.Float64Range(0, 0.999).Draw(t, "u")
		if d := p.Delay(failures, u); d < 0 || d > time.Second {
			t.Fatal(d)
		}
	})
}

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		for _, d := range []time.Duration{time.Second, 0, -time.Second} {
			if err := Sleep(t.Context(), d); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("slept for %v, want 1s", took)
		}
		why := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { cancel(why) })
		for range 2 {
			if err := Sleep(ctx, time.Hour); !errors.Is(err, why) {
				t.Errorf("%v, want the cause of the end", err)
			}
		}
		if err := Sleep(ctx, 0); !errors.Is(err, why) {
			t.Errorf("%v, want the cause of the end", err)
		}
		if took := time.Since(began); took != time.Minute+time.Second {
			t.Errorf("it ended after %v", took)
		}
	})
}
