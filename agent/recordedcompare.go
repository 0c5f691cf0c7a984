package agent

import (
	"fmt"
	"math"
	"strconv"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/recording"
)

// compare compares a state with the recorded one's hash, and with that itself if it is
// there.
func (r *Recorded) compare(state *datacenter.State) {
	if len(r.cfg.WhatIf) > 0 || !r.comparable(state.Seq) {
		return
	}
	h := r.second.hashes
	want, got := h.Hash[state.Seq-h.Seq], recording.HashOf(state)
	r.outcome.Compared++
	full := r.second.states[state.Seq]
	if want == got {
		return
	}
	r.outcome.Different++
	member := ""
	if full != nil {
		member = firstDifference(full, state)
	}
	switch {
	case r.outcome.First == "":
		r.outcome.First = fmt.Sprintf("step %d (t=%v s): the state's hash is %v, recorded %v", state.Seq, state.TimeS, got, want)
		if member != "" {
			r.outcome.First += ": " + member
			r.memberTold = true
		}
		r.cfg.Tell("the states differ from the recorded ones from " + r.outcome.First)
	case member != "" && !r.memberTold:
		r.memberTold = true
		text := fmt.Sprintf("; at step %d, the first full state that differs: %s", state.Seq, member)
		r.outcome.First += text
		r.cfg.Tell("the states differ" + text)
	}
}

// comparable reports whether all that the step looks back on was read.
func (r *Recorded) comparable(seq int64) bool {
	if !r.heard {
		for m := range r.models {
			if !r.feed.Heard(m) {
				return false
			}
		}
		r.heard = true
		r.compareFrom = max(r.compareFrom, seq+int64(math.Ceil(r.cfg.Stagger.Seconds()/r.cfg.DT.Float64()))+1)
	}
	return seq >= r.compareFrom && r.agreeFrom == 0
}

// firstDifference names the first member, of those that the hash is of, in which two states
// differ; empty if none does.
func firstDifference(want, got *datacenter.State) string {
	var d difference
	d.float("time_s", want.TimeS, got.TimeS)
	d.phases("power_w", want.PowerW, got.PowerW)
	for m := range want.Models {
		if m >= len(got.Models) {
			break
		}
		a, b := &want.Models[m], &got.Models[m]
		in := func(member string) string { return member + "." + a.ModelLabel }
		d.float(in("power_by_model_w"), a.PowerW, b.PowerW)
		d.float(in("batch_size_by_model"), float64(a.BatchSize), float64(b.BatchSize))
		d.float(in("active_replicas_by_model"), float64(a.ActiveReplicas), float64(b.ActiveReplicas))
		d.float(in("observed_itl_s_by_model"), a.ObservedITLS, b.ObservedITLS)
		d.phases(in("phase_share_by_model"), a.PhaseShare, b.PhaseShare)
	}
	d.phases("measured_power_w", want.MeasuredPowerW, got.MeasuredPowerW)
	for m := range want.Models {
		if m >= len(got.Models) {
			break
		}
		d.live(want.Models[m].ModelLabel, &want.Models[m].Live, &got.Models[m].Live)
	}
	return d.first
}

// difference is the first one that its methods have found.
type difference struct{ first string }

func (d *difference) float(member string, want, got float64) {
	if d.first == "" && math.Float64bits(want) != math.Float64bits(got) && !(math.IsNaN(want) && math.IsNaN(got)) {
		text := func(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
		d.first = fmt.Sprintf("%s is %s, recorded %s", member, text(got), text(want))
	}
}

func (d *difference) phases(member string, want, got datacenter.ThreePhase) {
	d.float(member+".a", want.A, got.A)
	d.float(member+".b", want.B, got.B)
	d.float(member+".c", want.C, got.C)
}

func (d *difference) live(label string, want, got *datacenter.LiveModelState) {
	d.float("measured_power_w_by_model."+label, want.MeasuredPowerW, got.MeasuredPowerW)
	d.float("augmentation_factor_by_model."+label, want.AugmentationFactor, got.AugmentationFactor)
	nan := math.NaN()
	loads := [2]datacenter.ServerLoad{{NumRequestsRunning: nan, NumRequestsWaiting: nan, KVCacheUsagePerc: nan, NumPreemptionsTotal: nan}}
	loads[1] = loads[0]
	for i, l := range []*datacenter.LiveModelState{want, got} {
		if l.Server != nil {
			loads[i] = *l.Server
		}
	}
	in := "prometheus_metrics_by_model." + label
	d.float(in+".num_requests_running", loads[0].NumRequestsRunning, loads[1].NumRequestsRunning)
	d.float(in+".num_requests_waiting", loads[0].NumRequestsWaiting, loads[1].NumRequestsWaiting)
	d.float(in+".kv_cache_usage_perc", loads[0].KVCacheUsagePerc, loads[1].KVCacheUsagePerc)
	d.float(in+".num_preemptions_total", loads[0].NumPreemptionsTotal, loads[1].NumPreemptionsTotal)
	in = "itl_percentiles_s_by_model." + label
	d.float(in+".p50", want.ITLPercentilesS.P50, got.ITLPercentilesS.P50)
	d.float(in+".p90", want.ITLPercentilesS.P90, got.ITLPercentilesS.P90)
	d.float(in+".p95", want.ITLPercentilesS.P95, got.ITLPercentilesS.P95)
	d.float(in+".p99", want.ITLPercentilesS.P99, got.ITLPercentilesS.P99)
	ages := [2]float64{nan, nan}
	for i, l := range []*datacenter.LiveModelState{want, got} {
		if l.Stale {
			ages[i] = l.StaleAgeS
		}
	}
	d.float("stale_by_model."+label, ages[0], ages[1])
}
