package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/backoff"
)

// ZeusdFaults is what goes wrong at a daemon. The zero value is health. As JSON
// the names are in snake case and Delay is delay_s, in seconds.
type ZeusdFaults struct {
	// Freeze: connections are accepted, and nothing is ever sent again on any of
	// them, as by a host that is gone without a word.
	Freeze bool `json:"freeze"`
	// FreezeStream: the streams that are open fall silent, as when a firewall forgot
	// them; all else answers, and so do new ones. After it they get what was sent
	// last meanwhile.
	FreezeStream bool `json:"freeze_stream"`
	// SilentGPUs: changes of these are not sent; get_power has them.
	SilentGPUs []int `json:"silent_gpus"`
	// FailedGPUs: these cannot be read, as after they fell off the bus. Questions
	// for them fail with 500, and there are no events, or those of [Zeusd04] with
	// their last power.
	FailedGPUs []int `json:"failed_gpus"`
	// HungGPUs: the driver does not return from questions about these. Theirs are
	// answered when the fault is over, and so are all that ask for others beside
	// them; the one loop of a [Zeusd04] stands still.
	HungGPUs []int `json:"hung_gpus"`
	// OddMW, if there is any, is what the sensor of a GPU gives in place of its
	// power, in milliwatts, by id: such as 4294967295 for no value.
	OddMW map[int]int64 `json:"odd_mw"`
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
	f = f.clone()
	if f.DropStreams {
		f.DropStreams = false
		for l := range z.listeners {
			if l.answer == nil {
				_ = l.sink.write([]byte(lastChunk)) // the connection ends either way
				z.end(l)
			}
		}
	}
	froze := f.FreezeStream && !z.faults.FreezeStream
	z.faults = f
	for l := range z.listeners {
		switch {
		case l.answer != nil:
		case froze:
			l.frozen = true
		case l.frozen && !f.FreezeStream && !f.Freeze:
			l.frozen = false
			z.replay(l)
		}
	}
	close(z.changed)
	z.changed = make(chan struct{})
}

// Faults returns what is wrong now; what happens once or n times is counted down.
func (z *Zeusd) Faults() ZeusdFaults {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.faults.clone()
}

func (f *ZeusdFaults) clone() ZeusdFaults {
	c := *f
	c.SilentGPUs = slices.Clone(f.SilentGPUs)
	c.FailedGPUs = slices.Clone(f.FailedGPUs)
	c.HungGPUs = slices.Clone(f.HungGPUs)
	c.OddMW = maps.Clone(f.OddMW)
	return c
}

// await waits while the daemon is frozen, and then for as long as every answer
// takes; false if it died meanwhile.
func (z *Zeusd) await(ctx context.Context) (ZeusdFaults, bool) {
	f, ok := z.awaitFaults(ctx, func(f *ZeusdFaults) bool { return !f.Freeze })
	return f, ok && backoff.Sleep(ctx, f.Delay) == nil
}

// awaitGPUs waits while the driver hangs at any of the GPUs; false if the client
// left meanwhile.
func (z *Zeusd) awaitGPUs(ctx context.Context, c *conn, gpus []int) (ZeusdFaults, bool) {
	ctx, stop := c.untilReset(ctx)
	defer stop()
	return z.awaitFaults(ctx, func(f *ZeusdFaults) bool {
		return !slices.ContainsFunc(gpus, func(id int) bool { return slices.Contains(f.HungGPUs, id) })
	})
}

// awaitFaults waits until the faults are as wanted; false if ctx ended first.
func (z *Zeusd) awaitFaults(ctx context.Context, ok func(*ZeusdFaults) bool) (ZeusdFaults, bool) {
	for {
		z.mu.Lock()
		f, changed := z.faults, z.changed
		z.mu.Unlock()
		if ok(&f) {
			return f, true
		}
		select {
		case <-ctx.Done():
			return f, false
		case <-changed:
		}
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
