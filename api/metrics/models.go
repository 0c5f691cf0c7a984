package metrics

import (
	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/rig"
)

// addPower declares what the site draws.
func (c *catalog) addPower() {
	c.section = "Power"
	c.gauge("g2g_power_watts", "phase",
		"Power of the whole datacenter on each phase, in watts: augmented servers, base load and training.",
		func(s *snapshot, out series) {
			if s.state != nil {
				eachPhase(s.state.PowerW, out)
			}
		})
	c.gauge("g2g_measured_power_watts", "phase",
		"Power that the real GPUs draw, spread evenly over the phases, plus the base load, in watts on each phase.",
		func(s *snapshot, out series) {
			if state := s.liveState(); state != nil {
				eachPhase(state.MeasuredPowerW, out)
			}
		}).onlyLive()
	c.gauge("g2g_base_power_watts", "phase",
		"Constant load beside the servers, in watts on each phase.", func(s *snapshot, out series) {
			w := s.status.Facility.BaseKWPerPhase * 1000
			eachPhase(datacenter.ThreePhase{A: w, B: w, C: w}, out)
		})
	c.gauge("g2g_power_factor_ratio", "",
		"Lagging power factor of the whole load, as configured: a ratio of up to 1.", func(s *snapshot, out series) {
			out.value(s.status.Facility.PowerFactor)
		})
	c.gauge("g2g_model_power_watts", "model_label", "Power of the model's augmented servers, in watts.",
		eachModelState(func(m *datacenter.ModelState) float64 { return m.PowerW }))
	c.gauge("g2g_model_measured_power_watts", "model_label", "Power of the model's real GPUs, in watts.",
		eachLiveModelState(func(m *datacenter.LiveModelState) float64 { return m.MeasuredPowerW })).onlyLive()
	c.gauge("g2g_model_augmentation_ratio", "model_label", "Simulated replicas per real one, a ratio.",
		eachLiveModelState(func(m *datacenter.LiveModelState) float64 { return m.AugmentationFactor })).onlyLive()
	c.gauge("g2g_model_phase_share_ratio", "model_label phase",
		"Part of the model's servers on each phase, a ratio; the three sum up to 1.", func(s *snapshot, out series) {
			if s.state == nil {
				return
			}
			for i := range s.state.Models {
				m := &s.state.Models[i]
				eachPhase(m.PhaseShare, out, m.ModelLabel)
			}
		})
	c.gauge("g2g_model_stale", "model_label",
		"1 when the model's power readings have been missing for longer than is allowed, so that the last one is held; "+
			"else 0.",
		eachLiveModelState(func(m *datacenter.LiveModelState) float64 {
			if m.Stale {
				return 1
			}
			return 0
		})).onlyLive()
	c.gauge("g2g_model_stale_age_seconds", "model_label",
		"For how long the readings of a stale model have been missing, in seconds; 0 while it is not stale.",
		eachLiveModelState(func(m *datacenter.LiveModelState) float64 { return m.StaleAgeS })).onlyLive()
}

// itlBoundsS are close together where deadlines lie, and contain OpenTelemetry's
// for the time per output token.
func itlBoundsS() map[float64]bool {
	return setOf(0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.075, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 2.5)
}

// ttftBoundsS go from an idle server to an overloaded one.
func ttftBoundsS() map[float64]bool {
	return setOf(0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 30, 60)
}

func setOf(values ...float64) map[float64]bool {
	set := make(map[float64]bool, len(values))
	for _, v := range values {
		set[v] = true
	}
	return set
}

// addLatency declares the latencies and what they are held to.
func (c *catalog) addLatency() {
	c.section = "Latency"
	c.gauge("g2g_model_itl_deadline_seconds", "model_label", "Inter-token latency that controllers hold the model to, in seconds.",
		eachModel(func(m *agent.ModelStatus) float64 { return m.Spec.ITLDeadlineS }))
	c.gauge("g2g_model_observed_itl_seconds", "model_label",
		"Mean inter-token latency at the latest step, in seconds: of a live run over its sliding window.",
		eachModelState(func(m *datacenter.ModelState) float64 { return m.ObservedITLS }))
	c.gauge("g2g_model_observed_itl_percentile_seconds", "model_label percentile",
		"Percentiles (50, 90, 95, 99) of the latencies that the observed one is the mean of, in seconds.",
		func(s *snapshot, out series) {
			state := s.liveState()
			if state == nil {
				return
			}
			for i := range state.Models {
				m := &state.Models[i]
				p := &m.Live.ITLPercentilesS
				out.value(p.P50, m.ModelLabel, "50")
				out.value(p.P90, m.ModelLabel, "90")
				out.value(p.P95, m.ModelLabel, "95")
				out.value(p.P99, m.ModelLabel, "99")
			}
		}).onlyLive()
	itl, ttft := itlBoundsS(), ttftBoundsS()
	c.add(histogram, "g2g_model_itl_seconds", "model_label",
		"Inter-token latency of every token but those that came with each request's first, in seconds: n tokens that came "+
			"together after a gap are n of gap/n each. Where reads bring several events, those that came with the last are "+
			"left out too: their gap is not theirs.",
		eachLoad(func(m *rig.ModelStats, out series) { out.histogram(&m.Load.ITL, itl, m.ModelLabel) })).onlyLive()
	c.add(histogram, "g2g_model_ttft_seconds", "model_label", "Time from sending a request to its first token, in seconds.",
		eachLoad(func(m *rig.ModelStats, out series) { out.histogram(&m.Load.TTFT, ttft, m.ModelLabel) })).onlyLive()
}

// addThroughput declares how fast tokens are made.
func (c *catalog) addThroughput() {
	c.section = "Throughput"
	c.gauge("g2g_model_throughput_tokens_per_second", "model_label",
		"Output tokens per second of the model's servers at the latest step: in a live run measured over the window of the latencies "+
			"and scaled from the real replicas to the active ones; in a replay from the data's fit, if it has one.",
		eachModelState(func(m *datacenter.ModelState) float64 { return m.Throughput.OrNaN() }))
	c.gauge("g2g_model_measured_throughput_tokens_per_second", "model_label",
		"Output tokens per second of the model's real servers over the window of the latencies, the first ones of each request too.",
		func(s *snapshot, out series) {
			state := s.liveState()
			if state == nil {
				return
			}
			for i := range state.Models {
				if m := &state.Models[i]; m.Throughput.Known {
					out.value(m.Live.MeasuredTokensPerS, m.ModelLabel)
				}
			}
		}).onlyLive()
}

// addModels declares what the models are told to do and have room for.
func (c *catalog) addModels() {
	c.section = "Batch sizes and replicas"
	c.gauge("g2g_model_info", "model_label model_id actuator",
		"1, labelled with the model's Hugging Face id and how its batch size is set (empty in a replay and before the "+
			"start has found out).", func(s *snapshot, out series) {
			for i := range s.status.Models {
				m := &s.status.Models[i]
				out.value(1, m.Spec.ModelLabel, m.Spec.ModelID, m.Actuator)
			}
		})
	c.gauge("g2g_model_commanded_batch_size", "model_label", "Batch size commanded, in requests: what the server accepted last.",
		eachModel(func(m *agent.ModelStatus) float64 { return float64(m.BatchSize) }))
	c.gauge("g2g_model_achieved_batch_size", "model_label", "Batch size achieved, in requests that run, of several servers the mean a server; in a replay the one commanded.",
		eachModel(func(m *agent.ModelStatus) float64 { return m.AchievedBatchSize }))
	c.gauge("g2g_model_initial_batch_size", "model_label", "Batch size that the run started with, in requests.",
		eachModel(func(m *agent.ModelStatus) float64 { return float64(m.Spec.InitialBatchSize) }))
	c.gauge("g2g_model_failsafe_batch_size", "model_label", "Batch size that the model returns to when a lease runs out, in requests.",
		eachModel(func(m *agent.ModelStatus) float64 { return float64(m.Spec.Failsafe()) }))
	c.gauge("g2g_model_lease_remaining_seconds", "model_label command",
		"For how much longer the model's leased batch size or leased shifts hold, in seconds of the run; without a lease "+
			"there is none.", func(s *snapshot, out series) {
			for i := range s.status.Models {
				m := &s.status.Models[i]
				out.value(m.BatchSizeLeaseS, m.Spec.ModelLabel, datacenter.SetBatchSize{}.Name())
				out.value(m.ReplicaLeaseS, m.Spec.ModelLabel, datacenter.ShiftReplicas{}.Name())
			}
		})
	c.gauge("g2g_model_active_replicas", "model_label", "Replicas that the model's servers hold at the latest step.",
		eachModelState(func(m *datacenter.ModelState) float64 { return float64(m.ActiveReplicas) }))
	c.gauge("g2g_model_asked_replicas", "model_label", "Replicas that the model asks for at the next step, shifts included.",
		eachModel(func(m *agent.ModelStatus) float64 { return float64(m.Replicas) }))
	c.gauge("g2g_model_shifted_replicas", "model_label", "Replicas that commands have added to the model's schedule; below 0, taken away.",
		eachModel(func(m *agent.ModelStatus) float64 { return float64(m.ReplicaShift) }))
	c.gauge("g2g_model_free_replicas", "model_label", "Replicas that the free servers could hold beside those asked for.",
		eachModel(func(m *agent.ModelStatus) float64 { return float64(m.FreeReplicas) }))
	c.gauge("g2g_model_replica_gpus", "model_label", "GPUs that one replica of the model takes.",
		eachModel(func(m *agent.ModelStatus) float64 { return float64(m.Spec.GPUsPerReplica) }))
	c.gauge("g2g_capacity_gpus", "", "GPUs that the datacenter can host.", func(s *snapshot, out series) {
		out.value(float64(s.status.Facility.TotalGPUCapacity))
	})
	c.gauge("g2g_available_gpus", "", "GPUs of the capacity that the models' initial replicas and their shifts leave, whatever their schedules: "+
		"OpenG2G's available_gpu_capacity.", func(s *snapshot, out series) {
		out.value(float64(s.status.AvailableGPUCapacity))
	})
	c.gauge("g2g_free_gpus", "", "GPUs of the capacity that no model asks for at the next step.", func(s *snapshot, out series) {
		out.value(float64(s.status.FreeGPUs))
	})
}

// addServers declares the load of the vLLM servers, as they tell it themselves.
func (c *catalog) addServers() {
	c.section = "vLLM servers"
	server := func(value func(*datacenter.ServerLoad) float64) func(*snapshot, series) {
		return func(s *snapshot, out series) {
			state := s.liveState()
			if state == nil {
				return
			}
			for i := range state.Models {
				m := &state.Models[i]
				if m.Live.Server != nil {
					out.value(value(m.Live.Server), m.ModelLabel)
				}
			}
		}
	}
	c.gauge("g2g_server_up", "model_label server", "1 while the vLLM server, named by its URL, answers as it should, else 0.",
		func(s *snapshot, out series) {
			if s.live == nil {
				return
			}
			for i := range s.live.Models {
				m := &s.live.Models[i]
				for _, server := range m.Servers {
					out.flag(server.Answers, m.ModelLabel, server.URL)
				}
			}
		}).onlyLive()
	c.gauge("g2g_vllm_running_requests", "model_label", "Requests that the vLLM servers run at once (vllm:num_requests_running).",
		server(func(l *datacenter.ServerLoad) float64 { return l.NumRequestsRunning })).onlyLive()
	c.gauge("g2g_vllm_waiting_requests", "model_label", "Requests that wait in the vLLM servers (vllm:num_requests_waiting).",
		server(func(l *datacenter.ServerLoad) float64 { return l.NumRequestsWaiting })).onlyLive()
	c.gauge("g2g_vllm_kv_cache_usage_ratio", "model_label",
		"Part of the vLLM servers' KV caches in use (vllm:kv_cache_usage_perc), a ratio of up to 1.",
		server(func(l *datacenter.ServerLoad) float64 { return l.KVCacheUsagePerc })).onlyLive()
	c.counter("g2g_vllm_preemptions_total", "model_label", "Requests that the vLLM servers have preempted (vllm:num_preemptions_total).",
		server(func(l *datacenter.ServerLoad) float64 { return l.NumPreemptionsTotal })).onlyLive()
}
