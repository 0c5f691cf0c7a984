package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/backoff"
)

// VLLMFaults is what goes wrong at a server. The zero value is health. As JSON
// the names are in snake case and Delay is delay_s, in seconds.
type VLLMFaults struct {
	// Freeze: connections are accepted, and nothing is ever sent again on any of
	// them.
	Freeze bool `json:"freeze"`
	// FreezeStreams: the engine stands still, all else answers.
	FreezeStreams bool `json:"freeze_streams"`
	// SlowDown, unless 0, multiplies the time of each iteration.
	SlowDown float64 `json:"slow_down"`
	// Status, unless 0, is the answer to every request.
	Status int `json:"status"`
	// MetricsStatus, unless 0, is the answer to GET /metrics.
	MetricsStatus int `json:"metrics_status"`
	// MetricsGone: the metrics page has none of vLLM's own.
	MetricsGone bool `json:"metrics_gone"`
	// MalformedEvents is how many of the next content chunks are replaced by
	// garbage; the tokens count in the usage of the chunk after.
	MalformedEvents int `json:"malformed_events"`
	// ErrorEvents is how many of the next streams get an error event instead of
	// their first tokens, after a status of 200: one after the other in the shapes
	// that servers use, the first being vLLM's.
	ErrorEvents int `json:"error_events"`
	// Aborts is how many of the next streams with tokens the engine gives up: they
	// end as complete ones do, but for the finish reason, abort.
	Aborts int `json:"aborts"`
	// MissingUsage is the part of content chunks that have no usage, if they should.
	MissingUsage float64 `json:"missing_usage"`
	// DropStreams, once: with the next tokens all streams are cut in the middle
	// of an event, and their connections closed.
	DropStreams bool `json:"drop_streams"`
	// NoDone is how many of the next streams to finish end cleanly, but without
	// "[DONE]".
	NoDone int `json:"no_done"`
	// Delay comes before every answer.
	Delay time.Duration `json:"-"`
}

// plainVLLMFaults has no methods, so that its JSON form is the default one.
type plainVLLMFaults VLLMFaults

type vllmFaultsJSON struct {
	plainVLLMFaults
	DelayS float64 `json:"delay_s"`
}

// MarshalJSON writes the delay in seconds.
func (f VLLMFaults) MarshalJSON() ([]byte, error) {
	return json.Marshal(vllmFaultsJSON{plainVLLMFaults(f), f.Delay.Seconds()})
}

// UnmarshalJSON refuses unknown names and values without meaning.
func (f *VLLMFaults) UnmarshalJSON(b []byte) error {
	v, err := decodeStrict[vllmFaultsJSON](b)
	if err != nil {
		return err
	}
	count := min(v.MalformedEvents, v.ErrorEvents, v.Aborts, v.NoDone)
	if v.Delay, err = checkFaults(v.DelayS, count, v.Status, v.MetricsStatus); err != nil {
		return err
	}
	if !(v.SlowDown >= 0 && v.SlowDown <= 1e6) {
		return fmt.Errorf("slow_down is %v: need 0 (none) to 1e6", v.SlowDown)
	}
	if !(v.MissingUsage >= 0 && v.MissingUsage <= 1) {
		return fmt.Errorf("missing_usage is %v: need 0 (none) to 1 (all)", v.MissingUsage)
	}
	*f = VLLMFaults(v.plainVLLMFaults)
	return nil
}

// SetFaults says what goes wrong from now on.
func (v *VLLM) SetFaults(f VLLMFaults) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.faults = f
	close(v.changed)
	v.changed = make(chan struct{})
}

// Faults returns what is wrong now; what happens once or n times is counted down.
func (v *VLLM) Faults() VLLMFaults {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.faults
}

// take lets f count a fault down; f says whether it happens.
func (v *VLLM) take(f func(*VLLMFaults) bool) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return f(&v.faults)
}

func takeOne(n *int) bool {
	if *n <= 0 {
		return false
	}
	*n--
	return true
}

func takeOnce(b *bool) bool {
	was := *b
	*b = false
	return was
}

func (v *VLLM) slowDown() float64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.faults.SlowDown
}

// await waits while frozen says so; false if ctx ended.
func (v *VLLM) await(ctx context.Context, frozen func(*VLLMFaults) bool) (VLLMFaults, bool) {
	for {
		v.mu.Lock()
		f, changed := v.faults, v.changed
		v.mu.Unlock()
		if !frozen(&f) {
			return f, true
		}
		select {
		case <-ctx.Done():
			return f, false
		case <-changed:
		}
	}
}

// awaitEngine waits while the engine stands still.
func (v *VLLM) awaitEngine(ctx context.Context) (VLLMFaults, bool) {
	return v.await(ctx, func(f *VLLMFaults) bool { return f.Freeze || f.FreezeStreams })
}

// awaitAnswer waits while nothing is answered, and then for as long as every
// answer takes.
func (v *VLLM) awaitAnswer(ctx context.Context) (VLLMFaults, bool) {
	f, ok := v.await(ctx, func(f *VLLMFaults) bool { return f.Freeze })
	return f, ok && backoff.Sleep(ctx, f.Delay) == nil
}
