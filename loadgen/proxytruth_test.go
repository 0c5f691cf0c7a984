package loadgen

import (
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/internal/logtest"
	"github.com/g2g-agent/g2g-agent/sim"
)

// What lies between a server and its client must not change what is measured, or
// the measurement must say that it cannot tell.
func TestITLIsTheTruthBehindProxiesAndWithGaps(t *testing.T) {
	const streams = 32
	stalls := sim.Profile{
		Levels:   []sim.Level{{BatchSize: 1, PowerWPerGPU: 1, ITLS: 0.015}, {BatchSize: streams, PowerWPerGPU: 1, ITLS: 0.02}},
		PrefillS: 0.0005, PrefillsPerIteration: 4, ITLSigma: 0.1,
	}
	type told struct {
		method  string
		bundles bool // percentiles are said to be those of bundles
		exact   bool // they are said to be exact, unless the machine is busy
	}
	for _, test := range []struct {
		name           string
		through        func(to io.Writer, from net.Conn) // nil: no proxy
		secure         bool
		tokensPerChunk []float64
		missingUsage   float64
		want           told
	}{
		{"collected for 50 ms", collects(50 * ms), false, nil, 0, told{MethodUsage, true, false}},
		{"collected for 50 ms, over TLS", collects(50 * ms), true, nil, 0, told{MethodUsage, true, false}},
		{"collected for 80 ms, several tokens a chunk", collects(80 * ms), false, []float64{5, 3, 1}, 0, told{MethodUsage, true, false}},
		{"cut into small pieces", cuts(1), false, nil, 0, told{MethodUsage, false, true}},
		{"usage missing in 30 %", nil, false, nil, 0.3, told{MethodUsage, false, true}},
		{"usage missing in 80 %, cut into small pieces", cuts(2), false, nil, 0.8, told{MethodUsage, false, true}},
		{"usage missing in 30 %, several tokens a chunk", nil, false, []float64{5, 3, 1}, 0.3, told{MethodPerChunk, false, false}},
		{"usage missing in 50 %, collected for 50 ms", collects(50 * ms), false, nil, 0.5, told{MethodUsage, true, false}},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := startServer(t, sim.VLLMConfig{Profile: stalls, MaxNumSeqs: streams, Seed: 1, Spread: true, TokensPerChunk: test.tokensPerChunk})
			server.SetFaults(sim.VLLMFaults{MissingUsage: test.missingUsage})
			var log logtest.Buffer
			cfg := Config{BaseURL: server.URL(), Concurrency: streams + streams/4, MaxOutputTokens: 36, Log: zerolog.New(&log)}
			if test.through != nil {
				proxy := startRelay(t, server.URL(), test.secure, test.through)
				cfg.BaseURL, cfg.tls = proxy.url, proxy.tls
			}
			g := startLoad(t, cfg)
			eventually(t, 20*time.Second, "the batch is full, and each worker knows what the server does", func() bool {
				return server.Truth().Running >= streams*3/4 && g.Stats().Completed >= 3*streams
			})
			exact := checkWindows(t, g, server, test.want.method, test.want.bundles)
			if s := g.Stats(); s.Failed() != 0 || s.OddUsages != 0 {
				t.Errorf("failures by kind %v, odd usages %d", s.FailedByKind, s.OddUsages)
			}
			warned := false
			for _, line := range log.Lines(t) {
				message, _ := line["message"].(string)
				warned = warned || strings.Contains(message, "a proxy that collects events")
			}
			if test.want.bundles && !warned { // a busy machine may cause the warning, too
				t.Error("that tokens come in bundles is not logged")
			}
			if test.want.exact && exact == 0 {
				t.Skip("percentiles are not compared: in each window, several tokens of a request were read together; the machine is busy")
			}
		})
	}
}

// checkWindows compares some windows with the truth, and the mean over all of their
// time. It returns how many of them say that their percentiles are exact.
func checkWindows(t *testing.T, g *Generator, server *sim.VLLM, method string, bundles bool) (exact int) {
	t.Helper()
	const windows = 4
	server.ResetTruth()
	before := g.Stats().ITL
	// A moment in which the machine had no time shows in one window, what is wrong
	// with the measurement in all.
	var p50Errors, p99Errors []float64
	for range windows {
		wait(t, 600*ms)
		w, truth := windowAndTruth(t, g, server)
		if w.Tokens == 0 || w.Method != method || bundles && w.MultiEventShare <= bundlingBegins {
			t.Errorf("the window is %+v, want the method %s, bundles %v", w, method, bundles)
		}
		if w.Method != MethodUsage || w.MultiEventShare > 0.001 {
			continue
		}
		exact++
		p50Errors, p99Errors = append(p50Errors, math.Abs(w.P50S/truth.P50S-1)), append(p99Errors, math.Abs(w.P99S/truth.P99S-1))
	}
	slices.Sort(p50Errors)
	slices.Sort(p99Errors)
	if exact > 0 && (p50Errors[(exact-1)/2] > 0.05 || p99Errors[(exact-1)/2] > 0.05) {
		t.Errorf("p50 and p99 are wrong by %.3v and %.3v of the true ones", p50Errors, p99Errors)
	}
	after, truth := g.Stats().ITL, server.Truth().ITL
	mean := (after.SumS - before.SumS) / float64(after.Count-before.Count)
	t.Logf("the mean is %.4f ms, the true one %.4f (%+.2f %%); %d of %d windows are exact", mean*1e3, truth.MeanS*1e3, 100*(mean/truth.MeanS-1), exact, windows)
	// The gaps of the first and last bundles, which are left out, are not quite as
	// the others.
	tolerance := 0.01
	if bundles {
		tolerance = 0.015
	}
	if !near(mean, truth.MeanS, tolerance) {
		t.Errorf("the mean is %.4f ms, the true one %.4f", mean*1e3, truth.MeanS*1e3)
	}
	return exact
}

// windowAndTruth are the latest window, and what it should say.
func windowAndTruth(t *testing.T, g *Generator, server *sim.VLLM) (ITLWindow, sim.ITL) {
	t.Helper()
	now := time.Now()
	w := g.ITL(now)
	part := g.meter.part(meanSlots)
	from := now.Add(-(now.Sub(g.client.Epoch()) % part)).Add(-meanSlots * part)
	wait(t, 400*ms) // the server writes down an iteration at its end
	return w, server.ITLBetween(from, now)
}
