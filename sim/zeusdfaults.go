package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// ZeusdFaults is what goes wrong at a daemon. The zero value is health. As JSON
// the names are in snake case and Delay is delay_s, in seconds.
type ZeusdFaults struct {
	// Freeze: connections are accepted, and nothing is ever sent again on any of
	// them, as by a host that is gone without a word.
	Freeze bool `json:"freeze"`
	// FreezeStream: streams fall silent, all else answers.
	FreezeStream bool `json:"freeze_stream"`
	// SilentGPUs: changes of these are not sent; get_power has them.
	SilentGPUs []int `json:"silent_gpus"`
	// FailedGPUs: these cannot be read; get_power fails with 500, and there are
	// no events.
	FailedGPUs []int `json:"failed_gpus"`
	// GarbageEvents is how many of the next events are replaced by garbage.
	GarbageEvents int `json:"garbage_events"`
	// TruncateEvent, once: the next event is cut in the middle and its
	// connection closed.
	TruncateEvent bool `json:"truncate_event"`
	// DropStreams, once: all streams end cleanly.
	DropStreams bool `json:"drop_streams"`
	// Status, unless 0, is the answer to every request.
	Status int `json:"status"`
	// Delay comes before every answer.
	Delay time.Duration `json:"-"`
}

// plainZeusdFaults has no methods, so that its JSON form is the default one.
type plainZeusdFaults ZeusdFaults

type zeusdFaultsJSON struct {
	plainZeusdFaults
	DelayS float64 `json:"delay_s"`
}

// MarshalJSON writes the delay in seconds.
func (f ZeusdFaults) MarshalJSON() ([]byte, error) {
	return json.Marshal(zeusdFaultsJSON{plainZeusdFaults(f), f.Delay.Seconds()})
}

// UnmarshalJSON refuses unknown names and values without meaning.
func (f *ZeusdFaults) UnmarshalJSON(b []byte) error {
	v, err := decodeStrict[zeusdFaultsJSON](b)
	if err != nil {
		return err
	}
	delay, err := checkFaults(v.DelayS, v.GarbageEvents, v.Status)
	if err != nil {
		return err
	}
	v.Delay = delay
	*f = ZeusdFaults(v.plainZeusdFaults)
	return nil
}

// checkFaults checks what faults of both servers share; the numbers are a delay,
// a count, and any number of statuses.
func checkFaults(delayS float64, count int, statuses ...int) (time.Duration, error) {
	if !(delayS >= 0 && delayS <= 3600) {
		return 0, fmt.Errorf("delay_s is %v: need 0 to 3600", delayS)
	}
	if count < 0 {
		return 0, fmt.Errorf("%d events: need 0 or more", count)
	}
	for _, status := range statuses {
		if status != 0 && (status < 200 || status > 599) {
			return 0, fmt.Errorf("status is %d: need 0 (none) or 200 to 599", status)
		}
	}
	return time.Duration(delayS * float64(time.Second)), nil
}

// SetFaults says what goes wrong from now on.
func (z *Zeusd) SetFaults(f ZeusdFaults) {
	z.mu.Lock()
	defer z.mu.Unlock()
	f.SilentGPUs, f.FailedGPUs = slices.Clone(f.SilentGPUs), slices.Clone(f.FailedGPUs)
	if f.DropStreams {
		f.DropStreams = false
		for s := range z.streams {
			_ = s.sink.write([]byte(lastChunk)) // the connection ends either way
			z.end(s)
		}
	}
	z.faults = f
	close(z.changed)
	z.changed = make(chan struct{})
}

// Faults returns what is wrong now; what happens once or n times is counted down.
func (z *Zeusd) Faults() ZeusdFaults {
	z.mu.Lock()
	defer z.mu.Unlock()
	f := z.faults
	f.SilentGPUs, f.FailedGPUs = slices.Clone(f.SilentGPUs), slices.Clone(f.FailedGPUs)
	return f
}

// await waits while the daemon is frozen, and then for as long as every answer
// takes; false if it died meanwhile.
func (z *Zeusd) await(ctx context.Context) (ZeusdFaults, bool) {
	for {
		z.mu.Lock()
		f, changed := z.faults, z.changed
		z.mu.Unlock()
		if !f.Freeze {
			return f, wait(ctx, f.Delay)
		}
		select {
		case <-ctx.Done():
			return f, false
		case <-changed:
		}
	}
}

// wait waits for d; false if ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// garbageEvent returns one of the ways in which an event can be wrong.
func garbageEvent(i int) []byte {
	kinds := []string{
		"data: {\"timestamp_ms\":1,\"gpu_id\"\n\n",
		"data: {\"timestamp_ms\":\"now\",\"gpu_id\":\"zero\",\"power_mw\":[1]}\n\n",
		"data: \x00\xff\xfe{{{\x80\n\n",
		"data: null\n\n",
		"data: {\"timestamp_ms\":1700000000000,\"gpu_id\":9999,\"power_mw\":75000}\n\n",
		"data: {\"timestamp_ms\":1700000000000,\"gpu_id\":0,\"power_mw\":-75000}\n\n",
		"data: {\"timestamp_ms\":1e400,\"gpu_id\":0,\"power_mw\":1e400}\n\n",
		"event: surprise\nid: 7\nbogus\n\n",
		"data:\n\n",
		"data: {\"timestamp_ms\":1700000000000,\"power_mw\":{\"x\":1,\"-1\":2}}\n\n",
	}
	return []byte(kinds[i%len(kinds)])
}
