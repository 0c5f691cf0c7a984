package characterize

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/rig"
)

// bench is the servers of one model, as they are measured.
type bench interface {
	// setBatchSize tells all servers. If it is of use to tell them again, it says so.
	setBatchSize(ctx context.Context, batchSize int) (again bool, err error)
	// look is how they are; its mean power is since a time.
	look(since time.Time) look
	// record begins to keep latencies and to read energy counters.
	record(ctx context.Context)
	// take ends that, and returns what was kept, and the power since a time.
	take(since time.Time) recording
	// forget drops what was read before a time.
	forget(before time.Time)
	// end drops what is read of power from now on: nothing more is measured.
	end()
	// actuator is how batch sizes are set.
	actuator() string
}

// recording is what was measured, as it came: latencies, and by GPU the power and what
// its energy counter showed.
type recording struct {
	samples loadgen.Samples
	powers  [][]reading
	counts  [][]count
}

// mostSamples bounds the latencies kept of one server at one point: more of them tell
// nothing more.
const mostSamples = 1 << 18

// hardware is a bench of real servers.
type hardware struct {
	cfg     *Config
	rig     *rig.Rig
	index   int
	gpus    []rig.GPU
	courses *courses
	tap     *rig.Tap
	meters  *meters
}

func (h *hardware) model() *rig.Model { return h.rig.Model(h.index) }

func (h *hardware) setBatchSize(ctx context.Context, batchSize int) (again bool, err error) {
	err = h.model().SetBatchSize(ctx, batchSize, 0, nil).Err
	return err != nil && !rig.Refused(err), err
}

func (h *hardware) look(since time.Time) look {
	m := h.model()
	stats := m.Load()
	l := look{
		at: time.Now(), powerAge: time.Duration(m.PowerAgeS() * float64(time.Second)),
		tokens: stats.Tokens, itls: stats.ITL.Count, itlSumS: stats.ITL.SumS, failed: stats.Failed(),
	}
	window := m.ITL()
	l.itlP50S, l.method = window.P50S, window.Method
	l.powerW = h.courses.meanW(since, l.at)
	for _, s := range m.Servers() {
		l.running = append(l.running, s.AchievedBatchSize)
		switch {
		case !s.Answers:
			l.silent = s.URL
		case s.NoTokenS > 0:
			l.silent = s.URL + " makes no token"
		}
	}
	if l.powerAge > time.Second {
		l.powerErr = m.PowerErrors()
	}
	return l
}

func (h *hardware) record(ctx context.Context) {
	h.tap, h.meters = h.model().Tap(mostSamples), startMeters(ctx, h.cfg, h.gpus)
}

func (h *hardware) take(since time.Time) recording {
	return recording{h.tap.Take(), h.courses.since(since), h.meters.end()}
}

func (h *hardware) forget(before time.Time) { h.courses.forget(before) }

func (h *hardware) end() { h.courses.end() }

func (h *hardware) actuator() string { return rig.ActuatorOf(h.model().Servers()) }

// stepEvery is the length of the stretches of time that count or do not.
const stepEvery = time.Second

// keptBefore is how much power is kept of the time before a point is measured.
const keptBefore = 10 * time.Second

// errNotMeasured is the kind of error of a point that could not be measured, while
// others may.
var errNotMeasured = errors.New("not measured")

// measuring is the measurement of one point.
type measuring struct {
	bench     bench
	batchSize int
	cfg       *Config
	log       zerolog.Logger
	// onPhase, if set, is told what is being done, and how many seconds of what is to be
	// measured are.
	onPhase func(phase Phase, measuredS float64)

	judge  judge
	lookAt time.Time
	said   time.Time // when it was said last what is waited for
}

// Phase is what is being done for a point.
type Phase string

// The phases.
const (
	// PhaseSettling waits until the batch size is achieved, and power and latency are
	// steady.
	PhaseSettling Phase = "settling"
	// PhaseMeasuring measures.
	PhaseMeasuring Phase = "measuring"
)

// measure sets the batch size, waits until it is achieved and steady, and measures.
// Errors that wrap errNotMeasured are of this point alone.
func (m *measuring) measure(ctx context.Context) (*Point, error) {
	began := time.Now()
	if err := m.set(ctx, began); err != nil {
		return nil, err
	}
	for {
		p, again, err := m.attempt(ctx, began)
		if err != nil || !again {
			return p, err
		}
	}
}

// set tells the servers the batch size; those that cannot be asked just now are told
// again.
func (m *measuring) set(ctx context.Context, began time.Time) error {
	ticker := time.NewTicker(m.cfg.stepEvery)
	defer ticker.Stop()
	for {
		m.tell(PhaseSettling, 0)
		m.bench.forget(time.Now().Add(-keptBefore))
		again, err := m.bench.setBatchSize(ctx, m.batchSize)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !again || time.Since(began) >= m.cfg.SettleTimeout:
			return fmt.Errorf("%w: the batch size was not set: %w", errNotMeasured, err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// attempt waits until it is steady and measures; it is to be made again if that did not
// last.
func (m *measuring) attempt(ctx context.Context, began time.Time) (p *Point, again bool, err error) {
	ticker := time.NewTicker(m.cfg.stepEvery)
	defer ticker.Stop()
	m.judge = judge{batchSize: m.batchSize, staleAfter: m.cfg.Rig.StaleAfter, watched: m.cfg.Rig.PrometheusPollInterval > 0}
	m.lookAt = time.Now()
	steady, err := m.settle(ctx, ticker, began)
	if err != nil {
		return nil, false, err
	}
	settledAt := m.lookAt
	settling := m.judge.settled()
	m.judge = judge{
		batchSize: m.batchSize, staleAfter: m.judge.staleAfter, watched: m.judge.watched, last: m.judge.last,
		referenceS: medianP50(settling),
	}
	m.bench.forget(settledAt.Add(-keptBefore))
	m.bench.record(ctx)
	again, err = m.gather(ctx, ticker, began)
	recorded := m.bench.take(settledAt)
	if err != nil || again {
		return nil, again, err
	}
	p = newPoint(&m.judge, settledAt, &recorded)
	p.SettleS, p.Settled = settledAt.Sub(began).Seconds(), steady
	p.ITLMethod, p.BatchSizeActuator = m.judge.last.method, m.bench.actuator()
	return p, false, nil
}

// settle waits until the batch size is achieved and all is steady, and reports whether
// it is; if the time is up, and at least the batch size is achieved, it is not.
func (m *measuring) settle(ctx context.Context, ticker *time.Ticker, began time.Time) (steady bool, err error) {
	window := m.cfg.window()
	for {
		m.tell(PhaseSettling, 0)
		if err := m.step(ctx, ticker); err != nil {
			return false, err
		}
		m.bench.forget(m.lookAt.Add(-keptBefore))
		s := seriesOf(m.judge.settled())
		if s.steady(window) {
			return true, nil
		}
		if time.Since(began) < m.cfg.SettleTimeout {
			m.say(began, s)
			continue
		}
		if bad, why := m.judge.badInARow(); len(s.powerW) < window || bad > 0 {
			return false, fmt.Errorf("%w: it did not run for %v as it should within %v; the last thing amiss: %s", errNotMeasured,
				m.cfg.Steady, m.cfg.SettleTimeout, orNone(why, m.judge.spans))
		}
		return false, nil
	}
}

// sayEvery is the time between two lines of the log about what is waited for.
const sayEvery = 30 * time.Second

// say says now and then what is waited for.
func (m *measuring) say(began time.Time, s series) {
	if time.Since(began) < sayEvery || time.Since(m.said) < sayEvery {
		return
	}
	m.said = time.Now()
	line := m.log.Info().Float64("settling_s", time.Since(began).Seconds())
	if _, why := m.judge.badInARow(); why != "" {
		line.Str("amiss", why).Msg("not as it should be yet")
		return
	}
	power, itl := s.drifts(min(m.cfg.window(), len(s.powerW)))
	line.Float64("power_drift", power.Share).Float64("power_drift_standard_error", power.StandardError).
		Float64("itl_drift", itl.Share).Float64("itl_drift_standard_error", itl.StandardError).Msg("not steady yet")
}

// orNone is why, or the last reason there was.
func orNone(why string, spans []span) string {
	for i := len(spans) - 1; i >= 0 && why == ""; i-- {
		why = spans[i].bad
	}
	if why == "" {
		return "nothing"
	}
	return why
}

// gather waits until there is as much time that counts as is to be measured. It is to
// settle again if nothing has been as when it was steady for long.
func (m *measuring) gather(ctx context.Context, ticker *time.Ticker, began time.Time) (again bool, err error) {
	limit := m.cfg.SettleTimeout + 2*m.cfg.Measure
	from := time.Now()
	for {
		good := m.judge.good()
		m.tell(PhaseMeasuring, min(good, m.cfg.Measure.Seconds()))
		if good >= m.cfg.Measure.Seconds() {
			return false, nil
		}
		bad, why := m.judge.badInARow()
		switch {
		case time.Since(from) >= limit:
			return false, fmt.Errorf("%w: only %.1f s of %v could be measured within %v; the last thing amiss: %s", errNotMeasured,
				good, m.cfg.Measure, limit, orNone(why, m.judge.spans))
		case bad >= 2*m.cfg.Steady.Seconds() && time.Since(began) < m.cfg.SettleTimeout+limit:
			return true, nil
		}
		if err := m.step(ctx, ticker); err != nil {
			return false, err
		}
	}
}

// step waits for the next look.
func (m *measuring) step(ctx context.Context, ticker *time.Ticker) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-ticker.C:
	}
	l := m.bench.look(m.lookAt)
	m.lookAt = l.at
	m.judge.add(l)
	return nil
}

func (m *measuring) tell(phase Phase, measuredS float64) {
	if m.onPhase != nil {
		m.onPhase(phase, measuredS)
	}
}
