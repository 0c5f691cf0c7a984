package characterize

import (
	"cmp"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/internal/npmath"
	"github.com/g2g-agent/g2g-agent/internal/nprand"
	"github.com/g2g-agent/g2g-agent/power"
	"github.com/g2g-agent/g2g-agent/power/kinds"
	"github.com/g2g-agent/g2g-agent/rig"
	"github.com/g2g-agent/g2g-agent/sim"
	"github.com/g2g-agent/g2g-agent/workload"
)

// simProfile is a model with latencies that a busy machine can keep.
func simProfile() sim.Profile {
	return sim.Profile{
		Levels: []sim.Level{
			{BatchSize: 4, PowerWPerGPU: 320, ITLS: 0.020}, {BatchSize: 8, PowerWPerGPU: 430, ITLS: 0.025}, {BatchSize: 16, PowerWPerGPU: 560, ITLS: 0.040},
		},
		IdleWPerGPU: 100, PrefillS: 0.005, PrefillsPerIteration: 16, ITLSigma: 0.1,
	}
}

// simSite is two models on a simulated host: the first one's batch size can be set, the
// second one runs on stock vLLM. Each has two GPUs.
type simSite struct {
	zeusd *sim.Zeusd
	vllms []*sim.VLLM
	cfg   Config
}

func newSimSite(t *testing.T) *simSite {
	t.Helper()
	return newSimSiteOf(t, sim.SetMaxNumSeqs, sim.StockVLLM)
}

func newSimSiteOf(t *testing.T, actuators ...sim.VLLMActuator) *simSite {
	t.Helper()
	s := &simSite{}
	var gpus []*sim.GPU
	for range 4 {
		gpus = append(gpus, sim.NewGPU("simulated", 70))
	}
	var err error
	if s.zeusd, err = sim.StartZeusd(sim.ZeusdConfig{Listen: "127.0.0.1:0", GPUs: gpus, NoiseFraction: 0.01}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.zeusd.Close() })
	host, port, _ := net.SplitHostPort(s.zeusd.Addr())
	number, _ := strconv.Atoi(port)
	endpoint := power.Endpoint{Host: host, Port: number, GPUIndices: []int{0, 1, 2, 3}}
	sources, err := kinds.Table()[kinds.Default].Open([]power.Endpoint{endpoint}, power.Options{StaleAfter: time.Second, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	s.cfg = Config{
		Dir: filepath.Join(t.TempDir(), "data"), Layout: workload.Layout02, Repeats: 1, stepEvery: 250 * time.Millisecond,
		Measure: 5 * time.Second, Steady: 2 * time.Second, SettleTimeout: 60 * time.Second, Log: zerolog.Nop(),
		Rig: rig.Config{
			PrometheusPollInterval: 100 * time.Millisecond, ITLWindow: time.Second, MaxOutputTokens: 300,
			WarmupTimeout: 60 * time.Second, SaturationThreshold: 0.95, StaleAfter: time.Second, Log: zerolog.Nop(),
		},
	}
	for m, actuator := range actuators {
		label := []string{"patched", "stock"}[m]
		v, err := sim.StartVLLM(sim.VLLMConfig{
			Listen: "127.0.0.1:0", ModelID: "org/" + label, Profile: simProfile(), GPUs: gpus[2*m : 2*m+2], Actuator: actuator, EarlyStop: true, Seed: uint64(m),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { v.Close() })
		s.vllms = append(s.vllms, v)
		s.cfg.Models = append(s.cfg.Models, workload.DataSpec{
			ModelLabel: label, ModelID: "org/" + label, GPUModel: "simulated", Task: "chat", Precision: "bfloat16",
			GPUsPerReplica: 2, TensorParallel: 2, ExpertParallel: 1, BatchSizes: []int{4, 8, 16}, FitExcludeBatchSizes: []int{}, FeasibleBatchSizes: []int{4, 8, 16},
		})
		s.cfg.Rig.Models = append(s.cfg.Rig.Models, rig.ModelConfig{
			Label: label, ModelID: "org/" + label, InitialBatchSize: 8, MaxBatchSize: 16,
			Servers: []rig.ServerConfig{{VLLMBaseURL: v.URL(), GPUs: []rig.GPU{{Source: sources[0], Index: 2 * m}, {Source: sources[0], Index: 2*m + 1}}}},
		})
	}
	return s
}

// checkTruth compares what was measured with what the servers really did: the power with
// the profile's, all latencies of the longest stretch that counts with those that the
// server had in it, and roughly, since a few hundred iterations tell no more, those of
// all stretches with the profile's.
func (s *simSite) checkTruth(t *testing.T, measured *Measured) {
	t.Helper()
	profile := simProfile()
	for _, p := range measured.Points {
		r := p.report()
		v := s.vllms[map[string]int{"patched": 0, "stock": 1}[p.ModelLabel]]
		within := func(what string, got, want, share float64) {
			t.Helper()
			if !(math.Abs(got-want) <= share*want) {
				t.Errorf("%s at %d: %s is %v, want %v to within %v %%: off by %.2f %%", p.ModelLabel, p.BatchSize, what, got, want, 100*share, 100*(got/want-1))
			}
		}
		longest := slices.MaxFunc(p.intervals(), func(a, b interval) int { return cmp.Compare(a.to-a.from, b.to-b.from) })
		truth := v.ITLBetween(p.BeganUTC.Add(time.Duration(longest.from)), p.BeganUTC.Add(time.Duration(longest.to)))
		only := *p
		only.Spans = []Span{{FromNS: longest.from, ToNS: longest.to}}
		got := only.LatenciesS()
		slices.Sort(got)
		itlS := map[int]float64{4: 0.020, 8: 0.025, 16: 0.040}[p.BatchSize]
		// A simulated server that a busy machine holds up makes up for it with tokens at
		// once, which no client can tell apart.
		heldUp := truth.P90S > 1.2*itlS || truth.P99S > 1.6*itlS
		near := 0.03
		if heldUp {
			t.Logf("%s at %d: the machine was busy, only the middle is compared, and roughly: %+v", p.ModelLabel, p.BatchSize, truth)
			near = 0.3
		}
		within("power", r.PowerW, 2*profile.PowerWPerGPU(p.BatchSize), 0.01)
		within("p50", npmath.Quantile(got, 0.5), truth.P50S, near)
		within("mean", npmath.Mean(got), truth.MeanS, near)
		within("number of tokens", float64(len(got)), float64(truth.Tokens), near)
		within("p50 of all", *r.ITLP50S, itlS, max(0.1, near))
		if a := r.AchievedShare; a == nil || *a < 0.9 || *a > 1.05 {
			t.Errorf("%s at %d: achieved share %v", p.ModelLabel, p.BatchSize, a)
		}
		if r.MeasuredS < s.cfg.Measure.Seconds() || p.NumGPUs != 2 {
			t.Errorf("%s at %d: measured for %v s on %d GPUs", p.ModelLabel, p.BatchSize, r.MeasuredS, p.NumGPUs)
		}
		if heldUp {
			continue
		}
		within("p90", npmath.Quantile(got, 0.9), truth.P90S, 0.03)
		// Of a few hundred iterations, the tail is one or two that may have been written
		// while the machine was busy.
		within("p95", npmath.Quantile(got, 0.95), truth.P95S, 0.06)
		if p99 := npmath.Quantile(got, 0.99); p99 < 0.97*truth.P95S || p99 > 1.1*truth.P999S {
			t.Errorf("%s at %d: p99 is %v, want it between %v and %v", p.ModelLabel, p.BatchSize, p99, truth.P95S, truth.P999S)
		}
	}
}

// checkLeftAsFound: the servers run what they did before.
func (s *simSite) checkLeftAsFound(t *testing.T) {
	t.Helper()
	if n := s.vllms[0].Truth().MaxNumSeqs; n != 8 {
		t.Errorf("the batch size left behind is %d, want 8", n)
	}
}

// TestRecoversTheSimulatorsTruth also reads the data back as a replay does, in both
// layouts, of which the second is written when no server is left to ask.
func TestRecoversTheSimulatorsTruth(t *testing.T) {
	t.Parallel()
	s := newSimSite(t)
	plotted := 0
	s.cfg.OnData = func(d *Data) error {
		if len(d.Models) == 2 && len(d.Models[0].Observed.Points) == 3 {
			plotted++
		}
		return nil
	}
	var most Progress
	s.cfg.OnProgress = func(p Progress) {
		if p.Left > most.Left {
			most = p
		}
	}
	measured, err := Run(t.Context(), s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(measured.Points) != 6 || !measured.Written || plotted != 1 {
		t.Fatalf("%d points, written: %v, hook called %d times", len(measured.Points), measured.Written, plotted)
	}
	if most.Wanted != 6 || most.Left < 3*s.cfg.Measure || most.Left > 10*time.Minute {
		t.Errorf("at first it takes %+v", most)
	}
	s.checkTruth(t, measured)
	s.checkLeftAsFound(t)
	metered := 0
	for _, r := range measured.Report().Points {
		if r.PowerBy == "energy_counters" { // unless answers come too late
			metered++
		}
		if math.Abs(r.PowerW/r.ReadingsPowerW-1) > 0.015 {
			t.Errorf("%s at %d: %v W by %s, %v by the readings", r.ModelLabel, r.BatchSize, r.PowerW, r.PowerBy, r.ReadingsPowerW)
		}
	}
	if metered == 0 {
		t.Error("no power is by the energy counters")
	}
	s.checkData(t, measured)
	for _, v := range s.vllms {
		v.Close()
	}
	for i := range s.cfg.Models {
		if err := os.RemoveAll(filepath.Join(s.cfg.Dir, s.cfg.Models[i].Hash())); err != nil {
			t.Fatal(err)
		}
	}
	s.cfg.Layout = workload.Layout01
	if measured, err = Run(t.Context(), s.cfg); err != nil {
		t.Fatal(err)
	}
	s.checkData(t, measured)
}

// checkData reads the data directory.
func (s *simSite) checkData(t *testing.T, measured *Measured) {
	t.Helper()
	var queries []workload.DataQuery
	for _, m := range s.cfg.Models {
		queries = append(queries, workload.DataQuery{ModelLabel: m.ModelLabel, ModelID: m.ModelID, GPUsPerReplica: 2, FeasibleBatchSizes: m.FeasibleBatchSizes})
	}
	data, err := workload.LoadInferenceData(s.cfg.Dir, queries, true)
	if err != nil {
		t.Fatal(err)
	}
	if len(data.Warnings) != 0 {
		t.Errorf("warnings: %q", data.Warnings)
	}
	for i, model := range data.Models {
		for _, batchSize := range []int{4, 8, 16} {
			trace := model.Traces[batchSize]
			if trace == nil || len(trace.TS) < 45 || trace.TS[3] != 0.3 {
				t.Fatalf("model %d at %d: the trace is %+v", i, batchSize, trace)
			}
			want := measured.of(s.cfg.Models[i].ModelLabel, batchSize)[0]
			if got := npmath.Mean(trace.PowerW); math.Abs(got/want.PowerW()-1) > 0.005 {
				t.Errorf("model %d at %d: the trace's mean is %v W, want %v", i, batchSize, got, want.PowerW())
			}
			// A mixture need not meet every quantile, least of all on a busy machine.
			rng := nprand.New(1)
			sampler := workload.NewITLSampler(model.ITL[batchSize])
			draws := make([]float64, 20000)
			for k := range draws {
				draws[k] = sampler.Avg(rng, 1)
			}
			slices.Sort(draws)
			latencies := want.LatenciesS()
			slices.Sort(latencies)
			for _, q := range []float64{0.5, 0.9} {
				if got, want := npmath.Quantile(draws, q), npmath.Quantile(latencies, q); math.Abs(got/want-1) > 0.1 {
					t.Errorf("model %d at %d: the fit's quantile %v is %v, measured was %v", i, batchSize, q, got, want)
				}
			}
		}
	}
}
