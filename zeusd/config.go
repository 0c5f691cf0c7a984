package zeusd

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/rs/zerolog"
)

// Config is what connections are made from.
type Config struct {
	// Targets may name an endpoint several times; it gets one connection.
	Targets []Target
	// AskAfter is how long a device may be silent before the daemon is asked for
	// it; 0 is 1 s.
	AskAfter time.Duration
	// RequestTimeout bounds each request but the streams; 0 is 1 s. A peer that is
	// dead without a word is noticed when it does not tell its time, which it is
	// asked for every second, within RequestTimeout.
	RequestTimeout time.Duration
	// OnReading, if not nil, gets each value as it comes. Calls for one endpoint
	// come one after the other, the times of a device do not decrease; calls for
	// different endpoints come at the same time. It must not block.
	OnReading func(Reading)
	// OnStatus, if not nil, gets an endpoint's status after it connected or lost its
	// connection. It must not block.
	OnStatus func(EndpointStatus)
	Log      zerolog.Logger

	ranges map[gpuKey]powerRange // given by the targets

	// For tests.
	dial   dialer
	random func() float64
}

// Reading is the power of one device at one moment.
type Reading struct {
	// Endpoint is the daemon's address, without token.
	Endpoint Endpoint
	Kind     Kind
	Index    int
	// PowerW is the power of the GPU, or of the CPU package.
	PowerW float64
	// DRAMW is the power of a CPU's memory, NaN where it is not measured; 0 for a
	// GPU.
	DRAMW float64
	// At is when the daemon measured it, on this host's monotonic clock. It is
	// never after the value's arrival.
	At time.Time
	// StampMS is the daemon's own time stamp, in Unix milliseconds, 0 if it gave none.
	StampMS int64
	// Asked says that the daemon was asked, and did not tell of its own accord.
	Asked bool
}

// EndpointStatus is the state of the connection to one daemon, and counts since
// the start.
type EndpointStatus struct {
	// Endpoint is the daemon's address, without token.
	Endpoint Endpoint
	// Connected: the stream of the GPUs (for CPU-only targets, of the CPUs) is open.
	Connected bool
	// Since is when Connected last changed.
	Since time.Time
	// Err is what is wrong: why there is no connection, or which GPUs fail or do
	// not exist while there is one; nil when all is well.
	Err error
	// CPUErr is why the CPUs, wanted beside GPUs, are not read, or one of the CPUs
	// is not.
	CPUErr error
	// UnknownGPUs are the wanted GPUs that the daemon does not have.
	UnknownGPUs []int
	// FailedGPUs are those that could not be read when the daemon was last asked, or
	// whose power could not be.
	FailedGPUs []int

	// Reconnects counts the connections after the first one.
	Reconnects uint64
	// Events counts the events of the streams, BadEvents those among the events and
	// answers that were skipped: malformed, too long, cut off.
	Events, BadEvents uint64
	// Answers counts the answers to get_power, FailedAsks the requests without one.
	Answers, FailedAsks uint64
	// Reopenings counts how often a stream was opened anew to ask a daemon that
	// cannot be asked otherwise (before zeusd 0.5).
	Reopenings uint64
	// LateEvents counts the events overtaken by an answer that is surely newer, and
	// ReplayedEvents those that were sent before their stream was asked for; both
	// are skipped. UnwantedReadings counts values of devices nobody asked for.
	LateEvents, ReplayedEvents, UnwantedReadings uint64
	// ImplausibleReadings counts the readings outside the range of what a device
	// can draw, which were treated as missing.
	ImplausibleReadings uint64
	// ClockSteps counts how often the daemon's clock was found to have moved;
	// ImplausibleTimes the events from the future, which are skipped.
	ClockSteps, ImplausibleTimes uint64

	// ClockOffset is this host's wall clock less the daemon's when last measured.
	ClockOffset time.Duration
	// RoundTrip is how long the daemon took to tell its time, the median of five.
	RoundTrip time.Duration
}

// newConns returns a connection to each daemon of the config, in the order in which
// they are first named. All that is wrong with the config is reported together. It
// connects to nothing yet.
func newConns(cfg Config) ([]*conn, error) {
	targets, err := mergeTargets(cfg.Targets)
	var rangeErr error
	cfg.ranges, rangeErr = givenRanges(cfg.Targets)
	err = errors.Join(err, rangeErr)
	if cfg.AskAfter < 0 {
		err = errors.Join(err, fmt.Errorf("AskAfter is %v, want more than 0", cfg.AskAfter))
	}
	if cfg.RequestTimeout < 0 {
		err = errors.Join(err, fmt.Errorf("RequestTimeout is %v, want more than 0", cfg.RequestTimeout))
	}
	if err != nil {
		return nil, err
	}
	if cfg.AskAfter == 0 {
		cfg.AskAfter = time.Second
	}
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = time.Second
	}
	if cfg.OnReading == nil {
		cfg.OnReading = func(Reading) {}
	}
	if cfg.OnStatus == nil {
		cfg.OnStatus = func(EndpointStatus) {}
	}
	if cfg.random == nil {
		cfg.random = rand.Float64
	}
	conns := make([]*conn, len(targets))
	for i, t := range targets {
		conns[i] = newConn(&cfg, t)
	}
	return conns, nil
}
