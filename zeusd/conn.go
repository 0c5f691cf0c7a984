package zeusd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/internal/backoff"
)

// lateMargin is how much older than a question an event must be to count as
// older than its answer. It covers the error of the clock.
const lateMargin = 25 * time.Millisecond

// deviceKey names a device of a daemon.
type deviceKey struct {
	kind  Kind
	index int
}

// device is what is known of one device.
type device struct {
	reading     Reading
	known       bool
	confirmedAt time.Time
	eventAt     time.Time // when its last event arrived
	askedAt     time.Time // when the question was sent that brought the latest answer
	triedAt     time.Time // when it was last asked for, with or without success
	asking      bool      // a question for it is under way
	// streamPowerW is the power that the stream implies: that of its last event, or
	// of the snapshot at its start.
	streamPowerW float64
	failure      error      // why it could not be read when last asked or told of
	failedAt     time.Time  // when that was last so
	failureSaid  bool       // in the log, until it is over
	nonsense     bool       // the last that was told of it cannot be
	rangeW       powerRange // what it can draw
	rangeKnown   bool       // that was given, or told
	hasEnergy    bool       // its energy counter was read once
	mark         meterMark  // of that counter, since the power last changed
}

// conn keeps the connection to one daemon, and what came over it.
type conn struct {
	cfg    *Config
	target Target
	peer   *peer
	clock  *clock
	log    zerolog.Logger

	// Set before the connection runs.
	onReading func(Reading)
	onStatus  func(EndpointStatus)

	emit sync.Mutex // held while onReading is called, so that readings stay in order

	mu         sync.Mutex
	devices    map[deviceKey]*device
	status     EndpointStatus
	everUp     bool
	unknownErr error           // which GPUs do not exist
	lastEvent  [2]time.Time    // by kind: when the latest event arrived
	lastAnswer time.Time       // when the latest answer about power did
	logged     map[string]bool // what was logged since the connection was last stable
	downLogged bool
	steppedAt  time.Time // when the daemon's clock last did

	// patience is, by kind, how many questions in a row must show that the stream
	// misses changes before it is opened anew. It doubles each time that did not
	// help.
	patience [2]int

	// audiences tells, by kind, whether somebody else listens to a daemon that is
	// asked by opening its stream.
	audiences [2]audience
}

const (
	patienceLeast = 2
	patienceMost  = 64
)

func newConn(cfg *Config, target Target) *conn {
	address := target.Endpoint.Address()
	c := &conn{
		cfg:       cfg,
		target:    target,
		onReading: cfg.OnReading,
		onStatus:  cfg.OnStatus,
		peer:      newPeer(target.Endpoint, cfg.RequestTimeout, cfg.dial),
		clock:     newClock(time.Now()),
		log:       cfg.Log.With().Str("zeusd", address.String()).Logger(),
		devices:   make(map[deviceKey]*device),
		status:    EndpointStatus{Endpoint: address},
		logged:    make(map[string]bool),
		patience:  [2]int{patienceLeast, patienceLeast},
	}
	for _, gpu := range target.GPUs {
		d := &device{rangeW: defaultRange(GPU)}
		if given, ok := cfg.ranges[gpuKey{address.daemon(), gpu}]; ok {
			d.rangeW, d.rangeKnown = given, true
		}
		c.devices[deviceKey{GPU, gpu}] = d
	}
	return c
}

// run keeps the connection until ctx ends.
func (c *conn) run(ctx context.Context) {
	failures, refusals := 0, 0
	for {
		from := time.Now()
		err := c.session(ctx)
		now := time.Now()
		lived := c.down(ctx, err, now)
		if ctx.Err() != nil {
			return
		}
		if lived >= stableAfter {
			failures, refusals = 0, 0
		}
		var delay time.Duration
		if errors.Is(err, ErrRefused) {
			// What refuses may be a proxy that stumbles, or the token is being changed.
			if c.renewToken() {
				refusals = 0
			}
			delay = refusedDelay(refusals, c.cfg.random())
			refusals++
		} else {
			delay = backoffDelay(failures, c.cfg.random())
			failures++
		}
		if lived > 0 {
			// A connection that came about costs the daemon something.
			delay = max(delay, connectEvery-lived)
		} else {
			// An attempt that took long has waited already: a peer that comes back is
			// met soon, even if the attempts before it hung.
			delay -= now.Sub(from)
		}
		if backoff.Sleep(ctx, delay) != nil {
			return
		}
	}
}

// renewToken looks for a new token after one was refused, and reports whether there
// is one. That it cannot be read is logged once.
func (c *conn) renewToken() bool {
	renewed, err := c.target.Endpoint.Token.Renew(c.peer.token)
	c.mu.Lock()
	log := err != nil && !c.logged["token"]
	c.logged["token"] = c.logged["token"] || log
	c.mu.Unlock()
	if log {
		c.log.Error().Err(err).Msg("the token was to be read again")
	}
	return renewed
}

// up records that the connection stands.
func (c *conn) up() {
	c.mu.Lock()
	if c.status.Connected {
		c.mu.Unlock()
		return
	}
	if c.everUp {
		c.status.Reconnects++
	}
	c.everUp = true
	c.status.Connected, c.status.Since, c.status.Err = true, time.Now(), nil
	log := c.downLogged || !c.logged["up"]
	c.logged["up"] = true
	c.downLogged = false
	c.mu.Unlock()
	if log {
		c.log.Info().Msg("zeusd connected")
	}
	c.onStatus(c.currentStatus())
}

// down records why the connection is gone, or did not come about, and returns how
// long it stood.
func (c *conn) down(ctx context.Context, err error, now time.Time) (lived time.Duration) {
	c.mu.Lock()
	changed := c.status.Connected
	if changed {
		lived = now.Sub(c.status.Since)
	}
	if lived >= stableAfter {
		clear(c.logged)
	}
	if changed || c.status.Since.IsZero() {
		c.status.Since = now
	}
	c.status.Connected, c.status.Err = false, err
	// Each reason once, not once per attempt; and only so many.
	why := reason(err)
	log := ctx.Err() == nil && !c.logged[why] && len(c.logged) < 16
	if log {
		c.logged[why], c.downLogged = true, true
	}
	c.mu.Unlock()
	switch {
	case log && errors.Is(err, ErrRefused):
		c.log.Error().Err(err).Msg("zeusd refuses us; trying again, with the token read anew if it stands in a file")
	case log:
		c.log.Warn().Err(err).Msg("zeusd not connected; trying again")
	}
	if changed {
		c.onStatus(c.currentStatus())
	}
	return lived
}

// reason is an error's text without what differs from attempt to attempt, such as
// our port.
func reason(err error) string {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}

func (c *conn) currentStatus() EndpointStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status
	s.UnknownGPUs = slices.Clone(s.UnknownGPUs)
	for _, gpu := range c.target.GPUs {
		if failure := c.devices[deviceKey{GPU, gpu}].failure; failure != nil {
			s.FailedGPUs = append(s.FailedGPUs, gpu)
			if s.Connected && s.Err == nil && c.unknownErr == nil {
				s.Err = failure
			}
		}
	}
	if s.Connected && c.unknownErr != nil {
		s.Err = c.unknownErr
	}
	for key, d := range c.devices {
		if key.kind == CPU && s.CPUErr == nil {
			s.CPUErr = d.failure
		}
	}
	e := c.clock.estimate.Load()
	s.ClockOffset, s.RoundTrip = e.wallOffset, e.roundTrip
	return s
}

// count changes the counts of the status.
func (c *conn) count(change func(*EndpointStatus)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.status)
}

// bad counts an event that was skipped. The first one is logged.
func (c *conn) bad(err error) {
	c.mu.Lock()
	c.status.BadEvents++
	log := !c.logged["bad event"]
	c.logged["bad event"] = true
	c.mu.Unlock()
	if log {
		c.log.Warn().Err(err).Msg("zeusd sent a bad event; it is skipped and, like the next ones, counted")
	}
}

// event takes over the readings of an event of a stream. If not all of it was
// read for it, a power that has not changed says nothing.
func (c *conn) event(kind Kind, e *powerEvent, at, arrived time.Time, all bool) {
	c.emit.Lock()
	defer c.emit.Unlock()
	c.mu.Lock()
	c.status.Events++
	c.lastEvent[kind] = arrived
	c.patience[kind] = patienceLeast
	c.mu.Unlock()
	for _, p := range e.devices {
		key := deviceKey{kind, p.index}
		c.mu.Lock()
		d := c.devices[key]
		switch {
		case d == nil:
			c.status.UnwantedReadings++
		case at.Before(d.askedAt.Add(-lateMargin)):
			c.status.LateEvents++
			d = nil
		case !all && d.known && d.streamPowerW == p.powerMW/1e3:
			if errors.Is(d.failure, errSilent) { // it is asked for again, now that the daemon speaks
				d.failure = nil
			}
			d = nil
		default:
			d.eventAt = arrived
			d.streamPowerW = p.powerMW / 1e3
		}
		c.takeAndReport(key, d, p, origin{at: at, stampMS: e.timestampMS})
	}
}

// confirmed takes the power of a device for true as of at.
func (c *conn) confirmed(kind Kind, p devicePower, at time.Time) {
	c.emit.Lock()
	defer c.emit.Unlock()
	key := deviceKey{kind, p.index}
	c.mu.Lock()
	c.takeAndReport(key, c.devices[key], p, origin{at: at, asked: true})
}

// answer takes over the readings of an answer to get_power. The value of a device
// that had an event since the question is left alone: which of the two is newer
// cannot be known, and the stream will tell of any change after it. first is set
// for the snapshot at the start of a stream. missed tells that a device's power
// differs from what the stream implies. at is when it was measured.
func (c *conn) answer(kind Kind, asked []int, answer *powerEvent, at time.Time, trip roundTrip, first bool) (missed bool) {
	c.emit.Lock()
	defer c.emit.Unlock()
	c.mu.Lock()
	c.status.Answers++
	c.lastAnswer = trip.received
	c.mu.Unlock()
	for _, p := range answer.devices {
		key := deviceKey{kind, p.index}
		c.mu.Lock()
		d := c.devices[key]
		switch {
		case d == nil || !slices.Contains(asked, p.index):
			c.status.UnwantedReadings++
			d = nil
		case !d.eventAt.Before(trip.sent):
			d = nil
		default:
			d.askedAt = trip.sent
			powerW := p.powerMW / 1e3
			plausible := d.rangeW.contains(powerW)
			if plausible && (first || d.failure != nil) {
				d.streamPowerW = powerW
			}
			missed = missed || plausible && d.streamPowerW != powerW
		}
		c.takeAndReport(key, d, p, origin{at, trip.timestampMS, true})
	}
	return missed
}

// origin is where a reading comes from.
type origin struct {
	at      time.Time // when it was measured, on this host's clock
	stampMS int64     // and on the daemon's, 0 if it did not say
	asked   bool      // the daemon was asked
}

// takeAndReport sets a device's reading, if there is a device, and reports it. A
// reading that cannot be is treated as one that did not come. c.mu is held, and
// released.
func (c *conn) takeAndReport(key deviceKey, d *device, p devicePower, from origin) {
	if d == nil {
		c.mu.Unlock()
		return
	}
	powerW := p.powerMW / 1e3
	if !d.rangeW.contains(powerW) {
		c.status.ImplausibleReadings++
		d.nonsense = true
		err := fmt.Errorf("%s: %s %d: power is %v W, want %v", c.peer.endpoint, key.kind, key.index, powerW, d.rangeW)
		c.mu.Unlock()
		c.fail(key, err)
		return
	}
	at := from.at
	if d.known && at.Before(d.reading.At) {
		at = d.reading.At // the clock's estimate moved a little
	}
	if powerW != d.reading.PowerW {
		d.mark = meterMark{}
	}
	dramW := p.dramMW / 1e3
	if key.kind == CPU && !p.hasDRAM {
		dramW = math.NaN()
	}
	d.reading = Reading{Endpoint: c.status.Endpoint, Kind: key.kind, Index: p.index, PowerW: powerW, DRAMW: dramW, At: at, StampMS: from.stampMS, Asked: from.asked}
	d.known, d.nonsense = true, false
	d.confirmedAt = at
	r, say := d.reading, c.setFailure(d, nil)
	c.mu.Unlock()
	if say {
		c.logFailure(key, nil)
	}
	c.onReading(r)
}

// fail records why a device could not be read.
func (c *conn) fail(key deviceKey, failure error) {
	c.failUnlessNews(key, time.Time{}, failure)
}

// failUnlessNews is fail unless there was news of the device since, if that is not
// zero.
func (c *conn) failUnlessNews(key deviceKey, since time.Time, failure error) {
	c.mu.Lock()
	d := c.devices[key]
	say := d != nil && (since.IsZero() || d.confirmedAt.Before(since)) && c.setFailure(d, failure)
	c.mu.Unlock()
	if say {
		c.logFailure(key, failure)
	}
}

// failureQuiet is for how long a device that failed must be read without failure for
// that to be over, as far as the log is concerned.
const failureQuiet = 5 * time.Second

// setFailure records whether a device could be read, and tells whether that is to
// be logged: a failure once until it is over. c.mu is held.
func (c *conn) setFailure(d *device, failure error) (say bool) {
	now := time.Now()
	d.failure = failure
	switch {
	case failure != nil:
		say = !d.failureSaid
		d.failureSaid, d.failedAt = true, now
	case d.failureSaid && now.Sub(d.failedAt) >= failureQuiet:
		say = true
		d.failureSaid = false
	}
	return say
}

func (c *conn) logFailure(key deviceKey, failure error) {
	name := fmt.Sprintf("%s %d", key.kind, key.index)
	if failure != nil {
		c.log.Warn().Err(failure).Str("device", name).Msg("zeusd cannot read a device; its last value is kept")
	} else {
		c.log.Info().Str("device", name).Msg("zeusd reads the device again")
	}
}

// unconfirmed returns those of the devices without news since AskAfter, and apart
// from them those that could not be read.
func (c *conn) unconfirmed(r *read, now time.Time) (quiet, failed []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range r.indices {
		switch d := c.devices[deviceKey{r.kind, i}]; {
		case now.Sub(d.confirmedAt) < c.cfg.AskAfter:
		case d.failure != nil:
			failed = append(failed, i)
		default:
			quiet = append(quiet, i)
		}
	}
	return quiet, failed
}

// toAsk is those of the devices that no question is under way for, nor was since
// AskAfter, and notes that there is one now, until [conn.asked].
func (c *conn) toAsk(r *read, indices []int, now time.Time) []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	var due []int
	for _, i := range indices {
		d := c.devices[deviceKey{r.kind, i}]
		if d.asking || now.Sub(d.triedAt) < c.cfg.AskAfter {
			continue
		}
		d.asking, d.triedAt = true, now
		due = append(due, i)
	}
	return due
}

// asked notes that no question for the devices is under way any more.
func (c *conn) asked(r *read, indices []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range indices {
		c.devices[deviceKey{r.kind, i}].asking = false
	}
}

// heardSince tells whether the daemon told of any power after the time.
func (c *conn) heardSince(t time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastEvent[GPU].After(t) || c.lastEvent[CPU].After(t) || c.lastAnswer.After(t)
}
