package sim

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"syscall"
	"time"
)

// pollers read the devices of one kind while somebody listens.
type pollers struct {
	devices []device
	// sent is the snapshot that was sent last, by a daemon that sends snapshots.
	sent *snapshot
}

// device is one device and its poller.
type device struct {
	sensors [2]sensor // power, and DRAM power of a CPU
	// last is what the poller read last, known since it began: it forgets when
	// nobody listens any more.
	last  [2]int64
	known bool
	// sent is what was sent last, in an event of its own; it is never forgotten.
	sent *snapshot
}

// sensor is a true value, and noise of its own.
type sensor struct {
	rng    *rand.Rand
	powerW func() float64
}

// snapshot is the power of some devices at one time.
type snapshot struct {
	atMS int64
	ids  []int
	mw   [][2]int64
}

// listener is who keeps the pollers going: a stream, or a question to a daemon
// that answers it with the next snapshot.
type listener struct {
	cpu bool
	ids []int

	conn   *conn // of a stream
	sink   *sink
	gone   chan struct{} // closed when its connection was ended from here
	frozen bool          // nothing reaches it
	answer chan snapshot // of a question; takes one
}

func (p *pollers) add(s [2]sensor) { p.devices = append(p.devices, device{sensors: s}) }

// forget is what the death of a daemon does.
func (p *pollers) forget() {
	p.sent = nil
	for id := range p.devices {
		p.devices[id].sent, p.devices[id].known = nil, false
	}
}

// only is the part of a snapshot that some devices have.
func (s *snapshot) only(ids []int) *snapshot {
	part := &snapshot{atMS: s.atMS}
	for i, id := range s.ids {
		if slices.Contains(ids, id) {
			part.ids, part.mw = append(part.ids, id), append(part.mw, s.mw[i])
		}
	}
	return part
}

// json is the snapshot as one object, as in an answer.
func (s *snapshot) json(cpu bool) []byte {
	b := fmt.Appendf(nil, `{"timestamp_ms":%d,"power_mw":{`, s.atMS)
	for i, id := range s.ids {
		if i > 0 {
			b = append(b, ',')
		}
		if cpu {
			b = fmt.Appendf(b, `"%d":{"cpu_mw":%d,"dram_mw":%d}`, id, s.mw[i][0], s.mw[i][1])
		} else {
			b = fmt.Appendf(b, `"%d":%d`, id, s.mw[i][0])
		}
	}
	return append(b, "}}"...)
}

// event is a snapshot of one device as a daemon sends it that has one event for
// each.
func (s *snapshot) event(cpu bool) []byte {
	if cpu {
		return fmt.Appendf(nil, `{"timestamp_ms":%d,"cpu_id":%d,"cpu_mw":%d,"dram_mw":%d}`, s.atMS, s.ids[0], s.mw[0][0], s.mw[0][1])
	}
	return fmt.Appendf(nil, `{"timestamp_ms":%d,"gpu_id":%d,"power_mw":%d}`, s.atMS, s.ids[0], s.mw[0][0])
}

func (z *Zeusd) pollers(cpu bool) *pollers {
	if cpu {
		return &z.cpus
	}
	return &z.gpus
}

// read takes one reading of a device, in milliwatts.
func (z *Zeusd) read(cpu bool, id int) [2]int64 {
	d := &z.pollers(cpu).devices[id]
	var mw [2]int64
	if odd, ok := z.faults.OddMW[id]; ok && !cpu {
		mw[0] = odd
		return mw
	}
	for i, s := range d.sensors {
		if s.powerW == nil {
			continue
		}
		powerW := s.powerW()
		if z.cfg.NoiseFraction > 0 {
			powerW = max(powerW*(1+z.cfg.NoiseFraction*s.rng.NormFloat64()), 0)
		}
		mw[i] = int64(min(math.Round(powerW*1e3), math.MaxUint32)) // the daemon's are 32 bit
	}
	return mw
}

// stream serves one listener until one of the two goes.
func (z *Zeusd) stream(ctx context.Context, c *conn, cpu bool, ids []int) {
	c.last = true
	l := &listener{cpu: cpu, ids: ids, conn: c, sink: newSink(c), gone: make(chan struct{})}
	// Who sees the response begin is listening: no reading comes between.
	z.mu.Lock()
	err := c.startStream("content-type: text/event-stream", "cache-control: no-cache", dateLine())
	if err == nil {
		z.listen(l)
		z.replay(l)
	}
	z.mu.Unlock()
	if err != nil {
		return
	}
	ctx, stop := c.untilReset(ctx)
	defer stop()
	select {
	case <-ctx.Done():
	case <-l.gone:
	}
	z.mu.Lock()
	delete(z.listeners, l)
	z.mu.Unlock()
}

// replay gives a new listener what was sent last, whenever that was.
func (z *Zeusd) replay(l *listener) {
	if z.faults.Freeze {
		return
	}
	p := z.pollers(l.cpu)
	if z.cfg.Version == Zeusd04 {
		if p.sent != nil {
			z.send(l, p.sent.only(l.ids).json(l.cpu))
		}
		return
	}
	for _, id := range l.ids {
		if sent := p.devices[id].sent; sent != nil {
			z.send(l, sent.event(l.cpu))
		}
	}
}

// next is the snapshot that a daemon without readings of its own for a question
// answers with; false if the client left before it came.
func (z *Zeusd) next(ctx context.Context, c *conn, cpu bool, ids []int) (snapshot, bool) {
	l := &listener{cpu: cpu, ids: ids, answer: make(chan snapshot, 1)}
	z.mu.Lock()
	z.listen(l)
	z.mu.Unlock()
	ctx, stop := c.untilReset(ctx)
	defer stop()
	defer func() {
		z.mu.Lock()
		delete(z.listeners, l)
		z.mu.Unlock()
	}()
	select {
	case s := <-l.answer:
		return s, true
	case <-ctx.Done():
		return snapshot{}, false
	}
}

func (z *Zeusd) listen(l *listener) {
	z.listeners[l] = struct{}{}
	select {
	case z.wake <- struct{}{}:
	default:
	}
}

// wanted tells of each device whether it is read: because somebody listens to it
// or, by a daemon with one loop for all, to any.
func (z *Zeusd) wanted(cpu bool) []bool {
	wanted := make([]bool, len(z.pollers(cpu).devices))
	for l := range z.listeners {
		if l.cpu != cpu {
			continue
		}
		for id := range wanted {
			wanted[id] = wanted[id] || z.cfg.Version == Zeusd04 || slices.Contains(l.ids, id)
		}
	}
	return wanted
}

// poll reads the devices while somebody listens.
func (z *Zeusd) poll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-z.wake:
		}
		ticker := time.NewTicker(z.cfg.PollInterval)
		for z.pollOnce() {
			select {
			case <-ctx.Done():
				ticker.Stop()
				return
			case <-ticker.C:
			}
		}
		ticker.Stop()
	}
}

// pollOnce sends what has changed; false if nobody listens.
func (z *Zeusd) pollOnce() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, cpu := range []bool{false, true} {
		// A poller that finds nobody listening forgets: the next listener gets a
		// reading at once.
		for id, wanted := range z.wanted(cpu) {
			d := &z.pollers(cpu).devices[id]
			d.known = d.known && wanted
		}
	}
	if len(z.listeners) == 0 {
		return false
	}
	if z.faults.Freeze {
		return true
	}
	z.truth.Polls++
	for _, cpu := range []bool{false, true} {
		if z.cfg.Version == Zeusd04 {
			z.pollTogether(cpu)
		} else {
			z.pollEach(cpu)
		}
	}
	return true
}

// pollEach gives each device that has changed an event of its own.
func (z *Zeusd) pollEach(cpu bool) {
	for id, wanted := range z.wanted(cpu) {
		silent := !cpu && (slices.Contains(z.faults.SilentGPUs, id) || slices.Contains(z.faults.FailedGPUs, id) || slices.Contains(z.faults.HungGPUs, id))
		if !wanted || silent {
			continue
		}
		d := &z.pollers(cpu).devices[id]
		mw := z.read(cpu, id)
		if d.known && d.last == mw {
			continue
		}
		d.last, d.known = mw, true
		d.sent = &snapshot{z.nowMS(), []int{id}, [][2]int64{mw}}
		for l := range z.listeners {
			if l.cpu == cpu && slices.Contains(l.ids, id) {
				z.send(l, d.sent.event(cpu))
			}
		}
	}
}

// pollTogether reads all devices of a kind, one after the other, and sends all if
// any has changed or nothing was read before. A device that hangs holds up all
// others; one that cannot be read keeps its last power, if it has one.
func (z *Zeusd) pollTogether(cpu bool) {
	p := z.pollers(cpu)
	wanted := slices.Contains(z.wanted(cpu), true)
	if !wanted || !cpu && len(z.faults.HungGPUs) > 0 {
		return
	}
	now := &snapshot{atMS: z.nowMS()}
	changed, first := false, true
	for id := range p.devices {
		d := &p.devices[id]
		first = first && !d.known
		if cpu || !slices.Contains(z.faults.FailedGPUs, id) && !(d.known && slices.Contains(z.faults.SilentGPUs, id)) {
			mw := z.read(cpu, id)
			changed = changed || !d.known || d.last != mw
			d.last, d.known = mw, true
		}
		if d.known {
			now.ids, now.mw = append(now.ids, id), append(now.mw, d.last)
		}
	}
	if !changed && !first {
		return
	}
	p.sent = now
	for l := range z.listeners {
		switch {
		case l.cpu != cpu:
		case l.answer == nil:
			z.send(l, now.only(l.ids).json(cpu))
		case len(l.answer) == 0:
			l.answer <- *now.only(l.ids)
		}
	}
}

// send writes one event to a stream, or what a fault makes of it.
func (z *Zeusd) send(l *listener, payload []byte) {
	if l.frozen {
		return
	}
	event := slices.Concat([]byte("data: "), payload, []byte("\n\n"))
	if z.faults.GarbageEvents > 0 {
		z.faults.GarbageEvents--
		event = garbageEvent(z.garbage)
		z.garbage++
	}
	z.truth.Events++
	chunk := appendChunk(nil, event)
	if z.faults.TruncateEvent {
		z.faults.TruncateEvent = false
		_ = l.sink.write(chunk[:len(chunk)/2]) // the connection ends either way
		z.end(l)
		return
	}
	if err := l.sink.write(chunk); err != nil {
		if errors.Is(err, errBacklog) {
			l.conn.reset()
		}
		z.end(l)
	}
}

// end closes a stream's connection, which ends its goroutine too.
func (z *Zeusd) end(l *listener) {
	if _, there := z.listeners[l]; !there {
		return
	}
	delete(z.listeners, l)
	_ = l.conn.Close()
	close(l.gone)
}

// untilReset returns a context that ends when the client resets the connection.
// A client that closes it in order is not noticed, as by a server that has nothing
// to read from him. stop must be called before the connection is read again.
func (c *conn) untilReset(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		c.limit.N = maxHeadBytes
		for {
			_, err := c.r.Peek(1)
			if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) {
				cancel()
			}
			if err != nil || !c.last { // what else he has to say is of no interest in a stream
				return
			}
			_, _ = c.r.Discard(c.r.Buffered())
			c.limit.N = maxHeadBytes
		}
	}()
	return ctx, func() {
		_ = c.SetReadDeadline(time.Unix(1, 0)) // ends the waiting for more
		<-stopped
		_ = c.SetReadDeadline(time.Time{})
		cancel()
	}
}
