package zeusd

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/g2g-agent/g2g-agent/power"
)

// kindName is zeusd's name among the kinds of power sources.
const kindName = "zeusd"

// SourceKind is zeusd as a kind of power source.
func SourceKind() power.Kind {
	return power.Kind{
		Check: func(e power.Endpoint) []power.Problem {
			problems := e.CheckAddress()
			if e.File != "" {
				problems = append(problems, power.Problem{Key: "file", Text: "source zeusd has none; leave it out, or set source: file"})
			}
			return problems
		},
		Identity: func(e power.Endpoint) string { return e.Identity(defaultPort) },
		Open:     open,
		Counts:   counts(&EndpointStatus{}),
	}
}

func open(endpoints []power.Endpoint, o power.Options) ([]power.Source, error) {
	targets := make([]Target, len(endpoints))
	for i, e := range endpoints {
		targets[i] = Target{
			Endpoint: Endpoint{Host: e.Host, Port: e.Port, Socket: e.Socket, Token: e.Token},
			GPUs:     e.GPUIndices, PowerRangeW: e.RangeW,
		}
	}
	conns, err := newConns(Config{
		Targets: targets, Log: o.Log,
		// Power is not to become stale because one answer was lost.
		AskAfter: o.StaleAfter / 4, RequestTimeout: o.StaleAfter / 4,
	})
	if err != nil {
		return nil, err
	}
	byDaemon := map[Endpoint]power.Source{}
	for _, conn := range conns {
		byDaemon[conn.target.Endpoint.daemon()] = &Source{conn: conn}
	}
	sources := make([]power.Source, len(endpoints))
	for i, t := range targets {
		sources[i] = byDaemon[t.Endpoint.daemon()]
	}
	return sources, nil
}

// Source is one daemon as a source of its GPUs' power.
type Source struct {
	conn    *conn
	running atomic.Bool
}

// String returns the daemon's address.
func (s *Source) String() string { return s.conn.target.Endpoint.Address().String() }

// Kind implements [power.Source].
func (s *Source) Kind() string { return kindName }

// Target is what the source reads.
func (s *Source) Target() Target { return s.conn.target }

// Run implements [power.Source]. It fails while another run is under way.
func (s *Source) Run(ctx context.Context, to power.Sink) error {
	if s.running.Swap(true) {
		return fmt.Errorf("%s is being read already: a source runs once at a time", s)
	}
	defer s.running.Store(false)
	s.conn.onReading = func(r Reading) {
		if r.Kind == GPU {
			to.Read(power.Reading{Index: r.Index, PowerW: r.PowerW, At: r.At, StampMs: r.StampMS, Confirmation: r.Asked})
		}
	}
	s.conn.onStatus = func(status EndpointStatus) {
		for _, index := range status.UnknownGPUs {
			to.Lose(index, time.Now())
		}
	}
	s.conn.run(ctx)
	return nil
}

// Probe implements [power.Source].
func (s *Source) Probe(ctx context.Context) power.Report {
	r := s.conn.probe(ctx)
	report := power.Report{PowerW: map[int]float64{}, Unread: r.Unread, Err: r.Err}
	add := func(format string, args ...any) {
		report.Findings = append(report.Findings, fmt.Sprintf(format, args...))
	}
	if len(r.Discovery.GPUs) > 0 {
		add("%d GPUs, %d of them used", len(r.Discovery.GPUs), len(r.Target.GPUs))
	}
	if r.Identity != nil {
		add("token accepted")
	}
	if r.RoundTrip > 0 {
		add("clock %+.3f s from ours, round trip %.1f ms", -r.ClockOffset.Seconds(), 1e3*r.RoundTrip.Seconds())
	}
	for i, powerW := range r.PowerW {
		if index := r.Target.GPUs[i]; r.Unread[index] == nil {
			report.PowerW[index] = powerW
		}
	}
	return report
}

// Health implements [power.Source].
func (s *Source) Health() power.Health {
	e := s.conn.currentStatus()
	return power.Health{
		Connected: e.Connected, Err: cmp.Or(e.Err, e.CPUErr), UnknownGPUs: e.UnknownGPUs, FailedGPUs: e.FailedGPUs,
		Reconnects: e.Reconnects, ClockOffset: e.ClockOffset, RoundTrip: e.RoundTrip,
		Counts: counts(&e),
	}
}

// counts are what is counted of a daemon beside what is counted of every source.
func counts(e *EndpointStatus) []power.Count {
	return []power.Count{
		{Name: "events", Help: "Events of the daemon's streams.", N: e.Events},
		{Name: "bad_events", Help: "Events and answers skipped: malformed, too long, cut off.", N: e.BadEvents},
		{Name: "late_events", Help: "Events skipped because a surely newer answer had overtaken them.", N: e.LateEvents},
		{
			Name: "replayed_events", N: e.ReplayedEvents,
			Help: "Events skipped because they were sent before their stream was asked for: a daemon begins each stream with what it sent last.",
		},
		{Name: "implausible_times", Help: "Events from the future by the daemon's clock, which were skipped.", N: e.ImplausibleTimes},
		{Name: "implausible_readings", Help: "Readings that no such device can draw; they are treated as missing.", N: e.ImplausibleReadings},
		{Name: "unwanted_readings", Help: "Values of devices that nobody asked for.", N: e.UnwantedReadings},
		{Name: "answers", Help: "Answers to requests for the power now.", N: e.Answers},
		{Name: "failed_asks", Help: "Requests for the power now without an answer.", N: e.FailedAsks},
		{Name: "reopened_streams", Help: "Streams opened anew to ask a daemon that cannot be asked otherwise (zeusd 0.4).", N: e.Reopenings},
		{Name: "clock_steps", Help: "How often the daemon's clock was found to have moved.", N: e.ClockSteps},
	}
}
