package metrics

import (
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// wantReplay are all series of [replayRun] after [use], wantLive those that a live
// run has beside them; LLAMA stands for the model's label.
const (
	wantReplay = `
g2g_run_phase{run_phase="starting"} 0
g2g_run_phase{run_phase="stepping"} 1
g2g_run_phase{run_phase="waiting"} 0
g2g_run_phase{run_phase="ended"} 0
g2g_run_time_seconds 12.3
g2g_step_interval_seconds 0.1
g2g_steps_total 123
g2g_last_step_timestamp_seconds 1700000000.25
g2g_dropped_steps_total 1
g2g_late_steps_total 1
g2g_events_total{topic="datacenter.batch_size.lease_expired"} 2
g2g_events_total{topic="datacenter.replicas.lease_expired"} 1
g2g_events_total{topic="datacenter.power.stale"} 1
g2g_events_total{topic="datacenter.power.fresh"} 0
g2g_events_total{topic="datacenter.recording.stopped"} 0
g2g_events_total{topic="datacenter.recording.gap"} 0
g2g_events_total{topic="datacenter.batch_size.updated"} 0
g2g_events_total{topic="datacenter.replicas.shifted"} 0
g2g_model_lease_expirations_total{command="batch-sizes",LLAMA} 2
g2g_model_lease_expirations_total{command="replica-shifts",LLAMA} 1
g2g_power_watts{phase="a"} 600001
g2g_power_watts{phase="b"} 600002
g2g_power_watts{phase="c"} 600003
g2g_base_power_watts{phase="a"} 500000
g2g_base_power_watts{phase="b"} 500000
g2g_base_power_watts{phase="c"} 500000
g2g_power_factor_ratio 0.95
g2g_model_power_watts{LLAMA} 300006
g2g_model_phase_share_ratio{LLAMA,phase="a"} 0.25
g2g_model_phase_share_ratio{LLAMA,phase="b"} 0.35
g2g_model_phase_share_ratio{LLAMA,phase="c"} 0.4
g2g_model_itl_deadline_seconds{LLAMA} 0.08
g2g_model_observed_itl_seconds{LLAMA} 0.031
g2g_model_throughput_tokens_per_second{LLAMA} 21000.5
g2g_model_commanded_batch_size{LLAMA} 64
g2g_model_achieved_batch_size{LLAMA} 63
g2g_model_initial_batch_size{LLAMA} 128
g2g_model_failsafe_batch_size{LLAMA} 8
g2g_model_lease_remaining_seconds{command="batch-sizes",LLAMA} 7.5
g2g_model_lease_remaining_seconds{command="replica-shifts",LLAMA} 9.25
g2g_model_active_replicas{LLAMA} 339
g2g_model_asked_replicas{LLAMA} 340
g2g_model_shifted_replicas{LLAMA} -20
g2g_model_free_replicas{LLAMA} 19
g2g_model_replica_gpus{LLAMA} 2
g2g_capacity_gpus 720
g2g_available_gpus 50
g2g_free_gpus 40
g2g_stream_clients{stream="states"} 5
g2g_stream_clients{stream="events"} 6
g2g_stream_clients{stream="lockstep"} 7
g2g_stream_connections_total 70
g2g_stream_skipped_total{stream="states"} 30
g2g_stream_skipped_total{stream="events"} 4
g2g_stream_closed_clients_total{reason="slow"} 3
g2g_stream_closed_clients_total{reason="silent"} 2
g2g_stream_closed_clients_total{reason="unruly"} 1
g2g_stream_refused_requests_total 8
g2g_stream_published_total{stream="states"} 123
g2g_stream_published_total{stream="events"} 9
g2g_stream_bad_events_total 2
g2g_http_rejections_total{reason="unauthorized"} 1
g2g_http_rejections_total{reason="forbidden"} 2
g2g_http_rejections_total{reason="rate"} 3
g2g_http_rejections_total{reason="connections"} 4
g2g_http_rejections_total{reason="origin"} 5
g2g_http_rejections_total{reason="host"} 6
g2g_http_rejections_total{reason="too_large"} 7
g2g_http_open_connections 12
g2g_http_evicted_connections_total 13
g2g_http_accept_errors_total 14
g2g_http_requests_total{method="GET",route="/v1/state",status="200"} 1
g2g_http_requests_total{method="GET",route="/v1/stream",status="101"} 1
g2g_http_requests_total{method="POST",route="/v1/batch-sizes",status="502"} 1
g2g_commands_total{command="batch-sizes",outcome="accepted"} 1
g2g_commands_total{command="replica-shifts",outcome="refused"} 1
`
	wantLive = `
g2g_output_left_out_states_total 4
g2g_recording_active 1
g2g_recording_seconds_total 5
g2g_recording_written_bytes_total 6
g2g_recording_dropped_seconds_total 8
g2g_recording_lost_lines_total 10
g2g_recording_deleted_segments_total 11
g2g_recording_directory_bytes 7
g2g_recording_slowest_sync_seconds 0.012
g2g_measured_power_watts{phase="a"} 500101
g2g_measured_power_watts{phase="b"} 500102
g2g_measured_power_watts{phase="c"} 500103
g2g_model_measured_power_watts{LLAMA} 306
g2g_model_augmentation_ratio{LLAMA} 180
g2g_model_stale{LLAMA} 1
g2g_model_stale_age_seconds{LLAMA} 2.5
g2g_model_observed_itl_percentile_seconds{LLAMA,percentile="50"} 0.03
g2g_model_observed_itl_percentile_seconds{LLAMA,percentile="90"} 0.04
g2g_model_observed_itl_percentile_seconds{LLAMA,percentile="95"} 0.045
g2g_model_observed_itl_percentile_seconds{LLAMA,percentile="99"} 0.055
g2g_model_measured_throughput_tokens_per_second{LLAMA} 116.5
g2g_model_itl_seconds_bucket{le="0.005",LLAMA} 2
g2g_model_itl_seconds_bucket{le="0.01",LLAMA} 2
g2g_model_itl_seconds_bucket{le="0.015",LLAMA} 2
g2g_model_itl_seconds_bucket{le="0.02",LLAMA} 2
g2g_model_itl_seconds_bucket{le="0.025",LLAMA} 2
g2g_model_itl_seconds_bucket{le="0.03",LLAMA} 3
g2g_model_itl_seconds_bucket{le="0.04",LLAMA} 4
g2g_model_itl_seconds_bucket{le="0.05",LLAMA} 4
g2g_model_itl_seconds_bucket{le="0.06",LLAMA} 4
g2g_model_itl_seconds_bucket{le="0.075",LLAMA} 4
g2g_model_itl_seconds_bucket{le="0.08",LLAMA} 5
g2g_model_itl_seconds_bucket{le="0.1",LLAMA} 6
g2g_model_itl_seconds_bucket{le="0.12",LLAMA} 6
g2g_model_itl_seconds_bucket{le="0.15",LLAMA} 6
g2g_model_itl_seconds_bucket{le="0.2",LLAMA} 6
g2g_model_itl_seconds_bucket{le="0.25",LLAMA} 6
g2g_model_itl_seconds_bucket{le="0.3",LLAMA} 6
g2g_model_itl_seconds_bucket{le="0.4",LLAMA} 6
g2g_model_itl_seconds_bucket{le="0.5",LLAMA} 6
g2g_model_itl_seconds_bucket{le="0.75",LLAMA} 6
g2g_model_itl_seconds_bucket{le="1",LLAMA} 6
g2g_model_itl_seconds_bucket{le="1.5",LLAMA} 6
g2g_model_itl_seconds_bucket{le="2",LLAMA} 6
g2g_model_itl_seconds_bucket{le="2.5",LLAMA} 7
g2g_model_itl_seconds_bucket{le="+Inf",LLAMA} 8
g2g_model_itl_seconds_count{LLAMA} 8
g2g_model_itl_seconds_sum{LLAMA} 9.6391
g2g_model_ttft_seconds_bucket{le="0.005",LLAMA} 0
g2g_model_ttft_seconds_bucket{le="0.01",LLAMA} 0
g2g_model_ttft_seconds_bucket{le="0.02",LLAMA} 0
g2g_model_ttft_seconds_bucket{le="0.04",LLAMA} 1
g2g_model_ttft_seconds_bucket{le="0.06",LLAMA} 1
g2g_model_ttft_seconds_bucket{le="0.08",LLAMA} 1
g2g_model_ttft_seconds_bucket{le="0.1",LLAMA} 1
g2g_model_ttft_seconds_bucket{le="0.25",LLAMA} 2
g2g_model_ttft_seconds_bucket{le="0.5",LLAMA} 2
g2g_model_ttft_seconds_bucket{le="0.75",LLAMA} 2
g2g_model_ttft_seconds_bucket{le="1",LLAMA} 2
g2g_model_ttft_seconds_bucket{le="2.5",LLAMA} 2
g2g_model_ttft_seconds_bucket{le="5",LLAMA} 2
g2g_model_ttft_seconds_bucket{le="10",LLAMA} 3
g2g_model_ttft_seconds_bucket{le="30",LLAMA} 3
g2g_model_ttft_seconds_bucket{le="60",LLAMA} 3
g2g_model_ttft_seconds_bucket{le="+Inf",LLAMA} 4
g2g_model_ttft_seconds_count{LLAMA} 4
g2g_model_ttft_seconds_sum{LLAMA} 96.23
g2g_vllm_running_requests{LLAMA} 63
g2g_vllm_waiting_requests{LLAMA} 5
g2g_vllm_kv_cache_usage_ratio{LLAMA} 0.75
g2g_vllm_preemptions_total{LLAMA} 11
g2g_load_info{itl_method="usage",LLAMA} 1
g2g_load_in_flight_requests{LLAMA} 60
g2g_load_streams{LLAMA} 61
g2g_load_wanted_streams{LLAMA} 62
g2g_load_started_requests_total{LLAMA} 1000
g2g_load_requests_total{LLAMA,outcome="completed"} 900
g2g_load_requests_total{LLAMA,outcome="failed"} 165
g2g_load_requests_total{LLAMA,outcome="cancelled"} 7
g2g_load_errors_total{kind="connect",LLAMA} 10
g2g_load_errors_total{kind="status_4xx",LLAMA} 11
g2g_load_errors_total{kind="status_5xx",LLAMA} 12
g2g_load_errors_total{kind="error_event",LLAMA} 13
g2g_load_errors_total{kind="no_done",LLAMA} 14
g2g_load_errors_total{kind="idle_timeout",LLAMA} 15
g2g_load_errors_total{kind="total_timeout",LLAMA} 16
g2g_load_errors_total{kind="cut",LLAMA} 17
g2g_load_errors_total{kind="malformed",LLAMA} 18
g2g_load_errors_total{kind="no_tokens",LLAMA} 19
g2g_load_errors_total{kind="aborted",LLAMA} 20
g2g_load_tokens_total{LLAMA} 19000
g2g_load_chunks_total{LLAMA} 20000
g2g_load_connections_total{LLAMA} 130
g2g_load_reconnects_total{LLAMA} 8
g2g_load_reads_total{LLAMA} 18000
g2g_load_multi_event_reads_ratio{LLAMA} 0.0005
g2g_load_missing_stamps_total{LLAMA} 3
g2g_load_discarded_stamps_total{LLAMA} 2
g2g_load_odd_usages_total{LLAMA} 6
g2g_load_receive_lag_seconds{LLAMA,quantile="0.5"} 0.5
g2g_load_receive_lag_seconds{LLAMA,quantile="0.9"} 0.9
g2g_load_receive_lag_seconds{LLAMA,quantile="0.95"} 0.95
g2g_load_receive_lag_seconds{LLAMA,quantile="0.99"} 0.99
g2g_load_receive_lag_seconds_count{LLAMA} 1
g2g_load_receive_lag_seconds_sum{LLAMA} 0.001
g2g_power_history_readings_total{LLAMA} 500
g2g_power_history_disordered_readings_total{LLAMA} 6
g2g_power_history_short_lookups_total{LLAMA} 4
g2g_server_up{LLAMA,server="http://node1:8000"} 1
g2g_server_up{LLAMA,server="http://node2:8000"} 0
g2g_power_source_up{endpoint="node1:4938",source="zeusd"} 1
g2g_power_source_unknown_gpus{endpoint="node1:4938",source="zeusd"} 1
g2g_power_source_failed_gpus{endpoint="node1:4938",source="zeusd"} 2
g2g_power_source_events_total{endpoint="node1:4938",event="events",source="zeusd"} 4000
g2g_power_source_events_total{endpoint="node1:4938",event="bad_events",source="zeusd"} 5
g2g_power_source_events_total{endpoint="node1:4938",event="late_events",source="zeusd"} 8
g2g_power_source_events_total{endpoint="node1:4938",event="unwanted_readings",source="zeusd"} 9
g2g_power_source_events_total{endpoint="node1:4938",event="answers",source="zeusd"} 6
g2g_power_source_events_total{endpoint="node1:4938",event="failed_asks",source="zeusd"} 7
g2g_power_source_reconnects_total{endpoint="node1:4938",source="zeusd"} 3
g2g_power_source_events_total{endpoint="node1:4938",event="reopened_streams",source="zeusd"} 14
g2g_power_source_events_total{endpoint="node1:4938",event="replayed_events",source="zeusd"} 12
g2g_power_source_events_total{endpoint="node1:4938",event="implausible_readings",source="zeusd"} 13
g2g_power_source_clock_offset_seconds{endpoint="node1:4938",source="zeusd"} -0.25
g2g_power_source_round_trip_seconds{endpoint="node1:4938",source="zeusd"} 0.002
g2g_power_source_events_total{endpoint="node1:4938",event="clock_steps",source="zeusd"} 10
g2g_power_source_events_total{endpoint="node1:4938",event="implausible_times",source="zeusd"} 11
`
)

// parseWant reads one series a line; infos are added apart, for they differ.
func parseWant(t *testing.T, texts ...string) map[string]float64 {
	t.Helper()
	want := map[string]float64{}
	for line := range strings.Lines(strings.ReplaceAll(strings.Join(texts, ""), "LLAMA", `model_label="`+llama+`"`)) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		name, value, _ := strings.Cut(line, " ")
		if _, twice := want[name]; twice {
			t.Fatalf("%s is wanted twice", name)
		}
		want[name] = parseFloat(t, value)
	}
	return want
}

// withoutInstruments drops the buckets, sums and counts of what counts as it happens,
// which TestInstruments looks at.
func withoutInstruments(all map[string]float64) map[string]float64 {
	kept := map[string]float64{}
	for name, v := range all {
		if !strings.HasPrefix(name, "g2g_step_lateness_") && !strings.HasPrefix(name, "g2g_step_duration_") &&
			!strings.HasPrefix(name, "g2g_http_request_duration_") && !strings.HasPrefix(name, "g2g_command_duration_") {
			kept[name] = v
		}
	}
	return kept
}

func TestEveryValueOfALiveRun(t *testing.T) {
	m := liveRun(t).metrics(t)
	use(m)
	want := parseWant(t, wantReplay, wantLive)
	want[`g2g_run_info{facility="dc",source="live"}`] = 1
	want[`g2g_model_info{actuator="runtime_config",model_id="meta-llama/Llama-3.1-8B-Instruct",model_label="`+llama+`"}`] = 1
	got := withoutInstruments(own(samples(scrape(t, m))))
	// The other daemon has never been reached: how its clock goes is not known.
	other := 0
	for name, v := range got {
		if strings.Contains(name, `{endpoint="/run/zeusd.sock",`) {
			other++
			if v != 0 || strings.Contains(name, "clock_offset") || strings.Contains(name, "round_trip") {
				t.Errorf("%s is %v of a daemon that was never reached", name, v)
			}
			delete(got, name)
		}
	}
	if other != 15 {
		t.Errorf("%d series of the other daemon, want 15", other)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(1e-12, 0)); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
}

func TestAReplayHasNoLiveSeries(t *testing.T) {
	m := replayRun(t).metrics(t)
	use(m)
	want := parseWant(t, wantReplay)
	want[`g2g_run_info{facility="dc",source="replay"}`] = 1
	want[`g2g_model_info{actuator="",model_id="meta-llama/Llama-3.1-8B-Instruct",model_label="`+llama+`"}`] = 1
	families := scrape(t, m)
	if diff := cmp.Diff(want, withoutInstruments(own(samples(families)))); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
	for _, f := range m.catalog.families {
		if f.liveOnly == (families[f.name] != nil) {
			t.Errorf("%s: declared live only: %v, in a replay: %v", f.name, f.liveOnly, families[f.name] != nil)
		}
	}
}

func TestEveryDeclaredFamilyIsExposed(t *testing.T) {
	m := liveRun(t).metrics(t)
	use(m)
	families := scrape(t, m)
	declared := map[string]bool{}
	for _, f := range m.catalog.families {
		declared[f.name] = true
		got := families[f.name]
		if got == nil {
			t.Errorf("%s is declared and not exposed", f.name)
			continue
		}
		if kind := strings.ToLower(got.GetType().String()); kind != string(f.kind) || got.GetHelp() != f.help {
			t.Errorf("%s is a %s, %q; declared as a %s, %q", f.name, kind, got.GetHelp(), f.kind, f.help)
		}
		if len(got.GetMetric()[0].GetLabel()) != len(f.labels) {
			t.Errorf("%s has the labels %v, declared with %v", f.name, got.GetMetric()[0].GetLabel(), f.labels)
		}
	}
	for name := range families {
		if strings.HasPrefix(name, "g2g_") && !declared[name] {
			t.Errorf("%s is exposed and not declared", name)
		}
	}
	for _, name := range []string{"process_cpu_seconds_total", "process_resident_memory_bytes", "go_goroutines"} {
		if runtime.GOOS == "linux" && families[name] == nil {
			t.Errorf("%s, the agent's own cost, is not exposed", name)
		}
	}
}

func TestBuildInfo(t *testing.T) {
	var found bool
	for name, v := range samples(scrape(t, liveRun(t).metrics(t))) {
		if strings.HasPrefix(name, "g2g_build_info{") {
			found = true
			if v != 1 || !strings.Contains(name, `version="1.2.3"`) || !strings.Contains(name, `goversion="`+runtime.Version()+`"`) || !strings.Contains(name, `revision="`) {
				t.Errorf("%s %v", name, v)
			}
		}
	}
	if !found {
		t.Error("no g2g_build_info")
	}
}

// Before its first step a run has no state: what depends on one is left out, not 0.
func TestNoStateYet(t *testing.T) {
	r := liveRun(t)
	r.state = nil
	r.status = agent.Status{Phase: agent.PhaseStarting, Models: r.status.Models}
	got := samples(scrape(t, r.metrics(t)))
	for name := range got {
		for _, prefix := range []string{"g2g_power_watts", "g2g_measured", "g2g_model_power", "g2g_model_observed", "g2g_model_stale", "g2g_vllm", "g2g_last_step", "g2g_model_active"} {
			if strings.HasPrefix(name, prefix) {
				t.Errorf("%s stands there before the first state", name)
			}
		}
	}
	for name, want := range map[string]float64{`g2g_run_phase{run_phase="starting"}`: 1, `g2g_run_phase{run_phase="stepping"}`: 0, "g2g_steps_total": 0, "g2g_power_source_up{endpoint=\"node1:4938\",source=\"zeusd\"}": 1} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (there: %v), want %v", name, v, ok, want)
		}
	}
}

func TestUnknownValuesAreLeftOut(t *testing.T) {
	nan := math.NaN()
	r := liveRun(t)
	status := &r.status.Models[0]
	status.AchievedBatchSize, status.BatchSizeLeaseS = nan, nan
	state := &r.state.Models[0]
	state.ObservedITLS, state.Live.ITLPercentilesS.P99, state.Live.Server, state.PowerW = nan, nan, nil, math.Inf(1)
	state.Throughput = datacenter.Throughput{}
	r.state.PowerW.B = nan
	load := &r.live.Models[0].Load
	load.MultiEventShare = nan
	load.Lag.Count, load.Lag.SumS, load.Lag.MeanS, load.Lag.P50S, load.Lag.P90S, load.Lag.P95S, load.Lag.P99S = 0, 0, nan, nan, nan, nan, nan

	before, after := samples(scrape(t, liveRun(t).metrics(t))), samples(scrape(t, r.metrics(t)))
	for name, v := range after {
		if strings.HasPrefix(name, "g2g_") && (math.IsNaN(v) || math.IsInf(v, 0)) {
			t.Errorf("%s is %v", name, v)
		}
	}
	gone := map[string]bool{}
	for name := range before {
		if _, still := after[name]; strings.HasPrefix(name, "g2g_") && !still {
			gone[name] = true
		}
	}
	want := map[string]bool{}
	for _, name := range strings.Fields(strings.ReplaceAll(`g2g_model_achieved_batch_size{LLAMA}
		g2g_model_lease_remaining_seconds{command="batch-sizes",LLAMA} g2g_model_observed_itl_seconds{LLAMA}
		g2g_model_observed_itl_percentile_seconds{LLAMA,percentile="99"} g2g_model_power_watts{LLAMA} g2g_power_watts{phase="b"}
		g2g_model_throughput_tokens_per_second{LLAMA} g2g_model_measured_throughput_tokens_per_second{LLAMA}
		g2g_vllm_running_requests{LLAMA} g2g_vllm_waiting_requests{LLAMA} g2g_vllm_kv_cache_usage_ratio{LLAMA} g2g_vllm_preemptions_total{LLAMA}
		g2g_load_multi_event_reads_ratio{LLAMA} g2g_load_receive_lag_seconds{LLAMA,quantile="0.5"} g2g_load_receive_lag_seconds{LLAMA,quantile="0.9"}
		g2g_load_receive_lag_seconds{LLAMA,quantile="0.95"} g2g_load_receive_lag_seconds{LLAMA,quantile="0.99"}`, "LLAMA", `model_label="`+llama+`"`)) {
		want[name] = true
	}
	if diff := cmp.Diff(want, gone); diff != "" {
		t.Errorf("series left out (-want +got):\n%s", diff)
	}
}

// A vLLM server may tell some of its numbers only.
func TestUnknownNumbersOfAServer(t *testing.T) {
	r := liveRun(t)
	nan := math.NaN()
	r.state.Models[0].Live.Server = &datacenter.ServerLoad{NumRequestsRunning: 63, NumRequestsWaiting: nan, KVCacheUsagePerc: nan, NumPreemptionsTotal: nan}
	got := map[string]float64{}
	for name, v := range samples(scrape(t, r.metrics(t))) {
		if strings.HasPrefix(name, "g2g_vllm_") {
			got[name] = v
		}
	}
	if diff := cmp.Diff(map[string]float64{`g2g_vllm_running_requests{model_label="` + llama + `"}`: 63}, got); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
}
