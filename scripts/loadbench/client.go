//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/completion"
	"github.com/g2g-agent/g2g-agent/internal/backoff"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/scripts/internal/measuring"
)

// sample is an inter-token latency as the client saw it.
type sample struct {
	request uint64
	token   int
	atNs    int64
	gapNs   int64
}

// SampleReport is how exact our samples are. The script reads it.
type SampleReport struct {
	Samples  int     `json:"samples"`
	P50US    float64 `json:"p50_us"` // of |client − server|
	P99US    float64 `json:"p99_us"`
	P999US   float64 `json:"p999_us"`
	MaxUS    float64 `json:"max_us"`
	MeanBias float64 `json:"mean_bias"` // of these samples
	Unknown  int     `json:"unknown"`   // samples of which the server knows nothing
	CPUUS    float64 `json:"cpu_us_per_chunk"`
}

// measureSamples runs streams as the load generator does, but keeps every sample
// and compares it with what the server says of the same token.
func measureSamples(ctx context.Context, o options) (*SampleReport, error) {
	client, err := completion.NewClient(completion.Config{BaseURL: o.url})
	if err != nil {
		return nil, err
	}
	runCtx, stop := context.WithCancel(ctx)
	defer stop()
	var (
		workers  sync.WaitGroup
		requests atomic.Uint64
		failures = make(chan error, o.streams)
		kept     = make([][]sample, o.streams)
	)
	most := int((o.warmUp+o.measure)/o.interval) + 100
	for i := range kept {
		kept[i] = make([]sample, 0, most)
		workers.Go(func() {
			failures <- keepSamples(runCtx, client.NewStream(), &requests, o.tokens, &kept[i])
		})
	}
	if err := backoff.Sleep(ctx, o.warmUp); err != nil {
		return nil, err
	}
	from := int64(time.Since(client.Epoch()))
	cpuFrom, err := cpuTime()
	if err != nil {
		return nil, err
	}
	if err := backoff.Sleep(ctx, o.measure); err != nil {
		return nil, err
	}
	cpuTo, err := cpuTime()
	if err != nil {
		return nil, err
	}
	to := int64(time.Since(client.Epoch()))
	stop()
	workers.Wait()
	close(failures)
	for err := range failures {
		if err != nil {
			return nil, err
		}
	}
	truth, err := fetchGaps(ctx, o.url)
	if err != nil {
		return nil, err
	}
	report := compare(slices.Concat(kept...), truth, from, to)
	report.CPUUS = float64(cpuTo-cpuFrom) / 1e3 / float64(report.Samples)
	return report, nil
}

// keepSamples makes one completion after the other until ctx ends.
func keepSamples(ctx context.Context, stream *completion.Stream, requests *atomic.Uint64, tokens int, kept *[]sample) error {
	defer stream.Close()
	for {
		number := requests.Add(1)
		body := fmt.Appendf(nil, `{"model":"bench","messages":[{"role":"user","content":"Hello"}],"stream":true,`+
			`"stream_options":{"include_usage":true,"continuous_usage_stats":true},"max_completion_tokens":%d,"user":"%d"}`, tokens, number)
		sofar, last := 0, time.Duration(0)
		err := stream.Complete(ctx, body, func(r *completion.Read) {
			for _, chunk := range r.Chunks {
				if chunk.Tokens <= sofar {
					continue
				}
				if sofar > 0 {
					*kept = append(*kept, sample{number, chunk.Tokens, int64(r.At), int64(r.At - last)})
				}
				sofar, last = chunk.Tokens, r.At
			}
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
	}
}

// compare sums up the samples from one time to another.
func compare(samples []sample, truth map[uint64][]int64, from, to int64) *SampleReport {
	report := &SampleReport{}
	var errsUS []float64
	var ours, theirs float64
	for _, s := range samples {
		if s.atNs < from || s.atNs >= to {
			continue
		}
		gaps := truth[s.request]
		if s.token >= len(gaps) || gaps[s.token] == 0 {
			report.Unknown++
			continue
		}
		errsUS = append(errsUS, math.Abs(float64(s.gapNs-gaps[s.token]))/1e3)
		ours += float64(s.gapNs)
		theirs += float64(gaps[s.token])
	}
	report.Samples = len(errsUS)
	q := measuring.Quantiles(errsUS, 0.5, 0.99, 0.999, 1)
	report.P50US, report.P99US, report.P999US, report.MaxUS = q[0], q[1], q[2], q[3]
	report.MeanBias = ours/theirs - 1
	return report
}

// GeneratorReport is what our load generator costs and says of itself. The
// script reads it.
type GeneratorReport struct {
	Seconds        float64 `json:"seconds"`
	Chunks         uint64  `json:"chunks"`
	Requests       uint64  `json:"requests"`
	CPUUS          float64 `json:"cpu_us_per_chunk"`
	CPUShare       float64 `json:"cpu_share"` // of one core
	MeanBias       float64 `json:"mean_bias"` // of the generator's mean
	Allocations    float64 `json:"allocations_per_chunk"`
	BytesPerSample float64 `json:"bytes_kept_per_sample"`
	// What it says of itself:
	LagP50US        float64 `json:"lag_p50_us"`
	LagP99US        float64 `json:"lag_p99_us"`
	MultiEventShare float64 `json:"multi_event_share"`
	Missing         uint64  `json:"missing_stamps"`
	Discarded       uint64  `json:"discarded_stamps"`
	Failed          uint64  `json:"failed"`
	InFlight        int     `json:"in_flight"`
	// The server's:
	ServerChunks   int64   `json:"server_chunks"`
	ServerSlips    int64   `json:"server_slips"`
	ServerCPUShare float64 `json:"server_cpu_share"`
}

// moment is everything that is read at the start and at the end of the measured
// time.
type moment struct {
	at     time.Time
	cpu    time.Duration
	memory runtime.MemStats
	stats  loadgen.Stats
	truth  truth
}

// begin looks before the measured time, end after it: what costs something comes
// outside it.
func begin(ctx context.Context, url string, g *loadgen.Generator) (*moment, error) {
	m := &moment{}
	var err error
	if m.truth, err = fetchTruth(ctx, url); err != nil {
		return nil, err
	}
	runtime.GC() // so that the heap is what is kept
	runtime.ReadMemStats(&m.memory)
	m.stats = g.Stats()
	m.at = time.Now()
	m.cpu, err = cpuTime()
	return m, err
}

func end(ctx context.Context, url string, g *loadgen.Generator) (*moment, error) {
	m := &moment{}
	var err error
	if m.cpu, err = cpuTime(); err != nil {
		return nil, err
	}
	m.at = time.Now()
	m.stats = g.Stats()
	runtime.ReadMemStats(&m.memory)
	m.truth, err = fetchTruth(ctx, url)
	return m, err
}

// measureGenerator runs the load generator as the agent does, which asks for the
// latency ten times a second.
func measureGenerator(ctx context.Context, o options) (*GeneratorReport, error) {
	g, err := loadgen.New(loadgen.Config{
		BaseURL: o.url, ModelID: "bench", ModelLabel: "bench", Concurrency: o.streams,
		MaxOutputTokens: o.tokens, Log: zerolog.Nop(),
	})
	if err != nil {
		return nil, err
	}
	runCtx, stop := context.WithCancel(ctx)
	defer stop()
	var owned sync.WaitGroup
	failure := make(chan error, 1)
	owned.Go(func() { failure <- g.Run(runCtx) })
	owned.Go(func() {
		ticks := time.NewTicker(100 * time.Millisecond)
		defer ticks.Stop()
		for {
			select {
			case <-runCtx.Done():
				return
			case now := <-ticks.C:
				_ = g.ITL(now)
			}
		}
	})
	if err := backoff.Sleep(ctx, o.warmUp); err != nil {
		return nil, err
	}
	before, err := begin(ctx, o.url, g)
	if err != nil {
		return nil, err
	}
	if err := backoff.Sleep(ctx, o.measure); err != nil {
		return nil, err
	}
	after, err := end(ctx, o.url, g)
	if err != nil {
		return nil, err
	}
	runtime.GC()
	var kept runtime.MemStats
	runtime.ReadMemStats(&kept)
	stop()
	owned.Wait()
	if err := <-failure; err != nil {
		return nil, err
	}
	return report(before, after, &kept), nil
}

func report(before, after *moment, kept *runtime.MemStats) *GeneratorReport {
	seconds := after.at.Sub(before.at).Seconds()
	chunks := after.stats.Chunks - before.stats.Chunks
	cpu := (after.cpu - before.cpu).Seconds()
	samples := after.stats.ITL.Count - before.stats.ITL.Count
	mean := (after.stats.ITL.MeanS*float64(after.stats.ITL.Count) - before.stats.ITL.MeanS*float64(before.stats.ITL.Count)) / float64(samples)
	// The share is since the start; what came in between is the difference.
	multi := func(s *loadgen.Stats) float64 { return s.MultiEventShare * float64(s.Reads) }
	trueSamples := after.truth.Samples - before.truth.Samples
	trueMean := float64(after.truth.SumNs-before.truth.SumNs) / float64(trueSamples) / 1e9
	return &GeneratorReport{
		Seconds:        seconds,
		Chunks:         chunks,
		Requests:       after.stats.Completed - before.stats.Completed,
		CPUUS:          cpu / float64(chunks) * 1e6,
		CPUShare:       cpu / seconds,
		MeanBias:       mean/trueMean - 1,
		Allocations:    float64(after.memory.Mallocs-before.memory.Mallocs) / float64(chunks),
		BytesPerSample: (float64(kept.HeapAlloc) - float64(before.memory.HeapAlloc)) / float64(samples),

		LagP50US:        after.stats.Lag.P50S * 1e6,
		LagP99US:        after.stats.Lag.P99S * 1e6,
		MultiEventShare: (multi(&after.stats) - multi(&before.stats)) / float64(after.stats.Reads-before.stats.Reads),
		Missing:         after.stats.MissingStamps,
		Discarded:       after.stats.DiscardedStamps,
		Failed:          after.stats.Failed(),
		InFlight:        after.stats.InFlight,

		ServerChunks:   trueSamples,
		ServerSlips:    after.truth.Slips - before.truth.Slips,
		ServerCPUShare: float64(after.truth.CPUNs-before.truth.CPUNs) / float64(after.truth.AtNs-before.truth.AtNs),
	}
}

func fetchTruth(ctx context.Context, url string) (t truth, err error) {
	body, err := fetch(ctx, url+"/truth")
	if err != nil {
		return truth{}, err
	}
	return t, json.Unmarshal(body, &t)
}

func fetchGaps(ctx context.Context, url string) (map[uint64][]int64, error) {
	body, err := fetch(ctx, url+"/gaps")
	if err != nil {
		return nil, err
	}
	next := func() uint64 {
		v := binary.LittleEndian.Uint64(body)
		body = body[8:]
		return v
	}
	all := make(map[uint64][]int64)
	for len(body) >= 16 {
		number, count := next(), next()
		if uint64(len(body)) < 8*count {
			return nil, errors.New("the server's gaps end too soon")
		}
		gaps := make([]int64, count)
		for i := range gaps {
			gaps[i] = int64(next())
		}
		all[number] = gaps
	}
	return all, nil
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}
