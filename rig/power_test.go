package rig

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/internal/logtest"
	"github.com/g2g-agent/g2g-agent/power"
)

// quietSource is a power source that is out of reach.
type quietSource struct{ namedSource }

func (s quietSource) String() string { return s.name }
func (quietSource) Kind() string     { return "quiet" }
func (quietSource) Health() power.Health {
	return power.Health{Err: errors.New("node9 does not answer")}
}

// TestFirstReadings: a model of which no GPU is read ends the run after 10 s, and says
// why; one of which some are goes on without the others, with a warning; one that has
// none is not waited for.
func TestFirstReadings(t *testing.T) {
	for name, c := range map[string]struct {
		gpus, read int
		fails      bool
		warns      bool
	}{
		"none is read":   {2, 0, true, false},
		"one of two":     {2, 1, false, true},
		"both":           {2, 2, false, false},
		"it has no GPUs": {0, 0, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log logtest.Buffer
				var gpus []GPU
				for i := range c.gpus {
					gpus = append(gpus, GPU{quietSource{namedSource{name: "node9"}}, i})
				}
				r, err := New(Config{
					Models: []ModelConfig{{
						Label: "m", ModelID: "org/m", InitialBatchSize: testInitial, MaxBatchSize: 16,
						Servers: []ServerConfig{{VLLMBaseURL: "http://a:1", GPUs: gpus}},
					}},
					HistoryWindow: time.Second, StaleAfter: 2 * time.Second, Log: zerolog.New(&log),
				})
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				for i := range c.read {
					r.feed.Read(gpus[i], 0, 100)
				}
				began := time.Now()
				err = r.awaitPower(t.Context())
				took := time.Since(began)
				if c.fails != (err != nil) || c.fails && (!errors.Is(err, errNoReading) || !strings.Contains(err.Error(), "node9 does not answer")) {
					t.Errorf("%v, want an error: %v", err, c.fails)
				}
				if wants := c.fails || c.warns; wants && took != firstReadingTimeout || !wants && took > warmupPollInterval {
					t.Errorf("it took %v", took)
				}
				warned := false
				for _, line := range log.Lines(t) {
					warned = warned || line["level"] == "warn"
				}
				if warned != c.warns {
					t.Errorf("warned %v, want %v:\n%v", warned, c.warns, log.Lines(t))
				}
			})
		})
	}
}
