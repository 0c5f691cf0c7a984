package main

import (
	"slices"
	"syscall"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/config"
)

// otherFiles is about what a run has open beside connections: outputs, logs, power
// sources, health checks, the API's reserve for probes, and a margin.
const otherFiles = 128

// filesNeeded is how many files the run may have open at once.
func filesNeeded(c *config.Config, live bool) int {
	n := otherFiles
	if c.API.Listen != "" {
		n += c.API.MaxConnections
	}
	if !live {
		return n
	}
	for i := range c.Models {
		if m := &c.Models[i]; m.Live != nil {
			// A stream a request in flight: twice the largest batch size, for each server.
			n += 2 * slices.Max(m.FeasibleBatchSizes) * len(m.Live.AllServers())
		}
	}
	return n
}

// warnOfFileLimit says so if fewer files may be open than the run may need.
func warnOfFileLimit(log zerolog.Logger, needed int) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur >= uint64(needed) {
		return // what is not known is not warned of
	}
	log.Warn().Uint64("limit", limit.Cur).Int("needed", needed).
		Msg("fewer files may be open at once than this run may need: raise the limit (LimitNOFILE= of the unit, ulimit -n), or lower api.max_connections")
}
