// Package power is what a site's GPUs draw and how they are held to less, whoever
// measures: a [Source] reads the GPUs of one host, a [Capper] limits them. Package
// kinds has the table of the sources that there are.
package power

import (
	"context"
	"fmt"
	"time"

	"github.com/rs/zerolog"
)

// Reading is the power of one GPU at one moment.
type Reading struct {
	// Index is the GPU's on its host.
	Index int
	// PowerW is its power in watts.
	PowerW float64
	// At is when it was measured, on this host's monotonic clock, not after now. A
	// power that still holds is a new reading with a later time.
	At time.Time
	// StampMs is the source's own time stamp, in Unix milliseconds, 0 for none.
	StampMs int64
	// Confirmation says that the source was asked, and did not tell of its own accord.
	Confirmation bool
}

// Sink takes what a source reads. Its methods do not wait, and are called from
// any goroutine; the times of one GPU do not decrease.
type Sink interface {
	Read(Reading)
	// Lose tells that the source turned out to have no such GPU. One that it has and
	// cannot read is not lost: it keeps the power it had.
	Lose(index int, at time.Time)
}

// Source reads the power of some GPUs of one host. Its values are pointers: two
// are equal if they are the same source.
type Source interface {
	// String is the address, such as node1:4938, for logs and metrics.
	fmt.Stringer
	// Kind is the kind's name, such as zeusd.
	Kind() string
	// Probe asks for all that Run will need, changing nothing.
	Probe(context.Context) Report
	// Run hands readings to the sink until ctx is done, once at a time. Outages are no
	// errors: they stand in Health.
	Run(context.Context, Sink) error
	// Health may be called from any goroutine.
	Health() Health
}

// Report is what a probe found.
type Report struct {
	// Findings are short statements, in the order they were found.
	Findings []string
	// PowerW is what the GPUs that could be read draw, in watts, by index.
	PowerW map[int]float64
	// Unread says of the others why.
	Unread map[int]error
	// Err is what is wrong with the source as a whole, nil if nothing is.
	Err error
}

// Health is how well a source reads, now and since its start.
type Health struct {
	// Connected says that readings can come.
	Connected bool
	// Err is what is wrong: why there is no connection, or which GPUs fail while
	// there is one; nil when all is well.
	Err error
	// UnknownGPUs are the wanted GPUs that the source does not have, FailedGPUs those
	// that it could not read when it last tried.
	UnknownGPUs, FailedGPUs []int
	// Reconnects counts the connections after the first one.
	Reconnects uint64
	// ClockOffset is this host's clock less the source's, RoundTrip how long the
	// source takes to answer; both 0 where that is not known.
	ClockOffset, RoundTrip time.Duration
	// Counts are what else is counted, in an order that does not change.
	Counts []Count
}

// Count is a number of things that only sources of one kind know, such as late
// events.
type Count struct {
	// Name is in snake case, such as late_events.
	Name string
	// Help says what is counted, in a sentence.
	Help string
	N    uint64
}

// Capper limits what GPUs draw.
type Capper interface {
	// CapRangeW is the least and the most that the GPU can be limited to, in watts.
	CapRangeW(ctx context.Context, index int) (leastW, mostW float64, err error)
	// SetCapW limits the GPU to so many watts.
	SetCapW(ctx context.Context, index int, capW float64) error
}

// EnergyMeter reads the energy counters of GPUs. A source that can is one, beside.
type EnergyMeter interface {
	// EnergyJ is what the counters show, in joules since some start, by index. GPUs
	// without a counter are missing.
	EnergyJ(ctx context.Context, indices []int) (map[int]float64, error)
}

// Kind is one kind of source.
type Kind struct {
	// Check returns what is wrong with an endpoint of this kind.
	Check func(Endpoint) []Problem
	// Identity is the one form that names the endpoint's source: two endpoints with
	// the same one read the same GPUs, however they are spelled.
	Identity func(Endpoint) string
	// Open makes the sources of endpoints: one for each identity, which stands at the
	// place of every endpoint that has it. It contacts nothing.
	Open func([]Endpoint, Options) ([]Source, error)
	// Counts are those of every source of this kind, in the order of [Health], all 0.
	Counts []Count
}

// Options are for all sources of a run.
type Options struct {
	// StaleAfter is for how long a power may be held without news before it counts as
	// stale. A source sees to it that one lost message does not make it so.
	StaleAfter time.Duration
	Log        zerolog.Logger
}

// Problem is what is wrong with one key of an endpoint.
type Problem struct {
	// Key is as in the config, empty for the endpoint as a whole.
	Key, Text string
}
