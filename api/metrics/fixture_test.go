package metrics

import (
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api/guard"
	"github.com/g2g-agent/g2g-agent/api/stream"
	"github.com/g2g-agent/g2g-agent/buffer"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/power"
	"github.com/g2g-agent/g2g-agent/power/kinds"
	"github.com/g2g-agent/g2g-agent/recording"
	"github.com/g2g-agent/g2g-agent/rig"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run is a run as it is told of by its parts; asked counts how often each is
// asked.
type run struct {
	status agent.Status
	state  *datacenter.State
	stream stream.Stats
	guard  guard.Stats
	live   *rig.Stats

	asked struct{ status, latest, stream, guard, live atomic.Int64 }
}

type (
	site   struct{ *run }
	hub    struct{ *run }
	sentry struct{ *run }
)

func (s site) Status() agent.Status {
	s.asked.status.Add(1)
	return s.status
}

func (h hub) Latest() *datacenter.State {
	h.asked.latest.Add(1)
	return h.state
}

func (h hub) Stats() stream.Stats {
	h.asked.stream.Add(1)
	return h.stream
}

func (s sentry) Stats() guard.Stats {
	s.asked.guard.Add(1)
	return s.guard
}

func (r *run) metrics(t *testing.T) *Metrics {
	t.Helper()
	cfg := Config{Version: "1.2.3", Site: site{r}, Hub: hub{r}, Guard: sentry{r}}
	if r.live != nil {
		cfg.LiveStats = func() rig.Stats {
			r.asked.live.Add(1)
			return *r.live
		}
		cfg.OutputLeftOut = func() uint64 { return 4 }
		cfg.Recording = func() recording.Stats {
			return recording.Stats{
				Seconds: 5, Bytes: 6, DirectoryBytes: 7, DroppedSeconds: 8, LostCommands: 9, LostEvents: 1, DeletedSegments: 11, SlowestSync: 12 * time.Millisecond,
			}
		}
	}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// The label of the run's model.
const llama = "Llama-3.1-8B"

// liveLoad is the load of the model in [liveRun].
func liveLoad() loadgen.Stats {
	load := loadgen.Stats{
		InFlight: 60, Workers: 61, Concurrency: 62, Started: 1000, Completed: 900, Cancelled: 7, Connects: 130, Reconnects: 8,
		Chunks: 20_000, Tokens: 19_000, Reads: 18_000, MultiEventShare: 0.0005, MissingStamps: 3, DiscardedStamps: 2, OddUsages: 6,
		ITL:  distributionOf(0.004, 0.005, 0.030, 0.0301, 0.080, 0.090, 2.4, 7),
		TTFT: distributionOf(0.03, 0.2, 6, 90),
		Lag:  distributionOf(0.001),
	}
	for kind := range load.FailedByKind {
		load.FailedByKind[kind] = uint64(10 + kind)
	}
	return load
}

// liveRun is a live run of one model in which every value is known and differs
// from the others.
func liveRun(t *testing.T) *run {
	t.Helper()
	dt, err := datacenter.SecondsOf(0.1)
	if err != nil {
		t.Fatal(err)
	}
	return &run{
		status: agent.Status{
			Phase: agent.PhaseStepping, TimeS: 12.3, Steps: 123, LastStepAt: time.UnixMilli(1_700_000_000_250), DT: dt,
			Facility: datacenter.Facility{Name: "dc", GPUsPerServer: 8, BaseKWPerPhase: 500, PowerFactor: 0.95, TotalGPUCapacity: 720}, FreeGPUs: 40, AvailableGPUCapacity: 50,
			Models: []agent.ModelStatus{{
				Spec: datacenter.ModelSpec{
					ModelLabel: llama, ModelID: "meta-llama/Llama-3.1-8B-Instruct", GPUsPerReplica: 2, ITLDeadlineS: 0.08,
					InitialBatchSize: 128, FailsafeBatchSize: 8,
				},
				BatchSize: 64, AchievedBatchSize: 63, Actuator: "runtime_config", Replicas: 340, ReplicaShift: -20, FreeReplicas: 19,
				BatchSizeLeaseS: 7.5, ReplicaLeaseS: 9.25,
			}},
		},
		state: &datacenter.State{
			Seq: 122, TimeS: 12.2, Source: datacenter.SourceLive,
			PowerW:         datacenter.ThreePhase{A: 600_001, B: 600_002, C: 600_003},
			MeasuredPowerW: datacenter.ThreePhase{A: 500_101, B: 500_102, C: 500_103},
			Models: []datacenter.ModelState{{
				ModelLabel: llama, PowerW: 300_006, ActiveReplicas: 339, BatchSize: 64, ObservedITLS: 0.031, PhaseShare: datacenter.ThreePhase{A: 0.25, B: 0.35, C: 0.4},
				Throughput: datacenter.ThroughputOf(21_000.5),
				Live: datacenter.LiveModelState{
					MeasuredTokensPerS: 116.5, MeasuredPowerW: 306, AugmentationFactor: 180, Server: &datacenter.ServerLoad{NumRequestsRunning: 63, NumRequestsWaiting: 5, KVCacheUsagePerc: 0.75, NumPreemptionsTotal: 11},
					ITLPercentilesS: datacenter.ITLPercentiles{P50: 0.030, P90: 0.040, P95: 0.045, P99: 0.055}, Stale: true, StaleAgeS: 2.5,
				},
			}},
		},
		stream: stream.Stats{
			States: 123, Events: 9, DroppedSteps: 1, BadEvents: 2, SkippedStates: 30, SkippedEvents: 4, StateClients: 5, EventClients: 6, Conversations: 7, ClientsTotal: 70,
			SlowClientsClosed: 3, SilentClientsClosed: 2, UnrulyClientsClosed: 1, RefusedRequests: 8,
		},
		guard: guard.Stats{Unauthorized: 1, Forbidden: 2, Rate: 3, Connections: 4, Origin: 5, Host: 6, TooLarge: 7, OpenConnections: 12, EvictedConnections: 13, AcceptErrors: 14},
		live: &rig.Stats{
			Models: []rig.ModelStats{{
				ModelLabel: llama, ITLMethod: loadgen.MethodUsage, Load: liveLoad(),
				Servers: []rig.ServerStatus{{URL: "http://node1:8000", Answers: true}, {URL: "http://node2:8000"}},
				History: buffer.Stats{Appended: 500, Disordered: 6, BeyondOldest: 4},
			}},
			Sources: []rig.SourceStats{
				{Kind: "zeusd", Address: "node1:4938", Health: power.Health{
					Connected: true, UnknownGPUs: []int{9}, FailedGPUs: []int{1, 2}, Reconnects: 3,
					Counts:      countsOf(4000, 5, 8, 12, 11, 13, 9, 6, 7, 14, 10),
					ClockOffset: -250 * time.Millisecond, RoundTrip: 2 * time.Millisecond,
				}},
				{Kind: "zeusd", Address: "/run/zeusd.sock", Health: power.Health{Counts: countsOf()}},
			},
		},
	}
}

// countsOf are the counts that zeusd has beside those of every source, in its order.
func countsOf(numbers ...uint64) []power.Count {
	counts := slices.Clone(kinds.Table()["zeusd"].Counts)
	for i, n := range numbers {
		counts[i].N = n
	}
	return counts
}

// replayRun is the same run as a replay has it.
func replayRun(t *testing.T) *run {
	t.Helper()
	r := liveRun(t)
	r.live = nil
	r.state.Source = datacenter.SourceReplay
	r.state.MeasuredPowerW = datacenter.ThreePhase{}
	r.state.Models[0].Live = datacenter.LiveModelState{}
	r.status.Models[0].Actuator = ""
	return r
}

// distributionOf counts known latencies.
func distributionOf(seconds ...float64) loadgen.Distribution {
	d := loadgen.Distribution{Count: uint64(len(seconds)), P50S: 0.50, P90S: 0.90, P95S: 0.95, P99S: 0.99}
	for _, s := range seconds {
		d.SumS += s
		for i, bound := range loadgen.BucketBoundsS() {
			if s <= bound {
				d.Cumulative[i]++
			}
		}
	}
	d.MeanS = d.SumS / float64(len(seconds))
	return d
}

// use makes everything happen that is counted as it happens.
func use(m *Metrics) {
	m.ObserveStep(agent.StepTiming{Lateness: 300 * time.Microsecond, Took: 2 * time.Millisecond})
	m.ObserveStep(agent.StepTiming{Lateness: 20 * time.Millisecond, Took: 3 * time.Second})
	m.ObserveRequest("/v1/state", http.MethodGet, http.StatusOK, 2*time.Millisecond)
	m.ObserveRequest("/v1/stream", http.MethodGet, http.StatusSwitchingProtocols, 0)
	m.ObserveRequest("/v1/batch-sizes", http.MethodPost, http.StatusBadGateway, 3*time.Second)
	m.ObserveCommand("batch-sizes", "accepted", 20*time.Millisecond)
	m.ObserveCommand("replica-shifts", "refused", time.Millisecond)
	m.ObserveEvent(datacenter.NewEvent(1, datacenter.BatchSizeLeaseExpired{ModelLabel: llama, FailsafeBatchSize: 8}))
	m.ObserveEvent(datacenter.NewEvent(2, datacenter.BatchSizeLeaseExpired{ModelLabel: llama, FailsafeBatchSize: 8}))
	m.ObserveEvent(datacenter.NewEvent(3, datacenter.ReplicaLeaseExpired{ModelLabel: llama, ReplicaDelta: -20}))
	m.ObserveEvent(datacenter.NewEvent(4, datacenter.DataStale{ModelLabel: llama, AgeS: 2}))
}

// scrape asks for the metrics over HTTP, as Prometheus does.
func scrape(t *testing.T, m *Metrics) map[string]*dto.MetricFamily {
	t.Helper()
	server := httptest.NewServer(m.Handler())
	defer server.Close()
	families, err := scrapeFrom(t, server)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

func scrapeFrom(t *testing.T, server *httptest.Server) (map[string]*dto.MetricFamily, error) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
	if err != nil {
		return nil, err
	}
	resp, err := server.Client().Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d: %s", resp.StatusCode, body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(strings.NewReader(string(body)))
}

// sample is a number as Prometheus stores it.
type sample struct {
	name   string
	labels map[string]string
	// rises: it counts since the start.
	rises bool
	value float64
}

// key is such as g2g_power_watts{phase="a"}.
func (s sample) key() string {
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(s.labels)) {
		pairs = append(pairs, fmt.Sprintf("%s=%q", k, s.labels[k]))
	}
	if len(pairs) == 0 {
		return s.name
	}
	return s.name + "{" + strings.Join(pairs, ",") + "}"
}

// expand is all samples of families.
func expand(families map[string]*dto.MetricFamily) []sample {
	var all []sample
	for name, f := range families {
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			add := func(suffix string, rises bool, v float64) { all = append(all, sample{name + suffix, labels, rises, v}) }
			addWith := func(suffix, label string, bound float64, rises bool, v float64) {
				with := maps.Clone(labels)
				with[label] = formatFloat(bound)
				all = append(all, sample{name + suffix, with, rises, v})
			}
			switch {
			case m.GetGauge() != nil:
				add("", false, m.GetGauge().GetValue())
			case m.GetCounter() != nil:
				add("", true, m.GetCounter().GetValue())
			case m.GetHistogram() != nil:
				h := m.GetHistogram()
				add("_count", true, float64(h.GetSampleCount()))
				add("_sum", true, h.GetSampleSum())
				for _, b := range h.GetBucket() {
					addWith("_bucket", "le", b.GetUpperBound(), true, float64(b.GetCumulativeCount()))
				}
			case m.GetSummary() != nil:
				s := m.GetSummary()
				add("_count", true, float64(s.GetSampleCount()))
				add("_sum", true, s.GetSampleSum())
				for _, q := range s.GetQuantile() {
					addWith("", "quantile", q.GetQuantile(), false, q.GetValue())
				}
			}
		}
	}
	return all
}

// samples are the values of families by their keys.
func samples(families map[string]*dto.MetricFamily) map[string]float64 {
	all := map[string]float64{}
	for _, s := range expand(families) {
		all[s.key()] = s.value
	}
	return all
}

func formatFloat(f float64) string {
	if math.IsInf(f, 1) {
		return "+Inf"
	}
	return fmt.Sprint(f)
}

// own drops what is not the agent's, and what depends on how it was built.
func own(all map[string]float64) map[string]float64 {
	kept := map[string]float64{}
	for name, v := range all {
		if strings.HasPrefix(name, "g2g_") && !strings.HasPrefix(name, "g2g_build_info") {
			kept[name] = v
		}
	}
	return kept
}
