package agent

import (
	"math"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/sim"
	"github.com/g2g-agent/g2g-agent/vllm"
)

// maxNumSeqs is the limit that model 0's server really has.
func (s *liveSite) maxNumSeqs() int { return s.vllms[0].Truth().MaxNumSeqs }

func leased(leaseS float64, patched, stock int) datacenter.Command {
	return datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"patched": patched, "stock": stock}, LeaseS: leaseS}
}

func TestLiveLeaseEnds(t *testing.T) {
	s := newLiveSite(t, func(cfg *LiveConfig) { cfg.Models[1].FailsafeBatchSize = 2 })
	s.start(t)
	s.await(t, "a state", func(*datacenter.State) bool { return true })
	apply(t, s.live, leased(0.5, 8, 8))
	if got := s.maxNumSeqs(); got != 8 {
		t.Errorf("the server's limit is %d, want 8", got)
	}
	if m := s.live.Status().Models[0]; !(m.BatchSizeLeaseS > 0 && m.BatchSizeLeaseS <= 0.55) || m.Actuator != "set_max_num_seqs" || math.IsNaN(m.AchievedBatchSize) {
		t.Errorf("the status is %+v", m)
	}
	s.await(t, "the failsafe batch sizes", func(state *datacenter.State) bool {
		return state.Models[0].BatchSize == 4 && state.Models[1].BatchSize == 2
	})
	if got := s.maxNumSeqs(); got != 4 {
		t.Errorf("after the lease the server's limit is %d, want 4", got)
	}
	for expired := 0; expired < 2; {
		if e := <-s.events; e.Topic == (datacenter.BatchSizeLeaseExpired{}).Topic() {
			expired++
		}
	}
	if s.stop(t); s.live.Status().Phase != PhaseEnded {
		t.Errorf("the status after the run is %+v", s.live.Status())
	}
}

// TestLiveLeaseEndsWithServerAway: the server is told as soon as it can be.
func TestLiveLeaseEndsWithServerAway(t *testing.T) {
	s := newLiveSite(t, nil)
	s.start(t)
	s.await(t, "a state", func(*datacenter.State) bool { return true })
	apply(t, s.live, leased(0.3, 8, 8))
	s.vllms[0].SetFaults(sim.VLLMFaults{Status: 500})
	s.await(t, "the other server's failsafe batch size", func(state *datacenter.State) bool { return state.Models[1].BatchSize == 4 })
	if got := s.maxNumSeqs(); got != 8 {
		t.Errorf("a server that refuses has the limit %d", got)
	}
	s.vllms[0].SetFaults(sim.VLLMFaults{})
	s.await(t, "the failsafe batch size", func(state *datacenter.State) bool { return state.Models[0].BatchSize == 4 })
	if got := s.maxNumSeqs(); got != 4 {
		t.Errorf("the server's limit is %d, want 4", got)
	}
	s.stop(t)
}

// TestLiveLeaseIsRenewed: the same command again is not sent, but renews.
func TestLiveLeaseIsRenewed(t *testing.T) {
	var commands atomic.Int64
	s := newLiveSite(t, func(cfg *LiveConfig) {
		target, err := url.Parse(cfg.Hardware[0].VLLMBaseURL)
		if err != nil {
			t.Fatal(err)
		}
		proxy := &httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
			if r.In.URL.Path == "/set_max_num_seqs" {
				commands.Add(1)
			}
			r.SetURL(target)
		}}
		front := httptest.NewServer(proxy)
		t.Cleanup(front.Close)
		cfg.Hardware[0].VLLMBaseURL, cfg.Hardware[0].Actuator = front.URL, vllm.ActuatorSetMaxNumSeqs
	})
	s.start(t)
	s.await(t, "a state", func(*datacenter.State) bool { return true })
	apply(t, s.live, leased(0.5, 8, 8))
	before, began := commands.Load(), s.live.Status().TimeS
	s.drain()
	for now := began; now < began+1.5; now = (<-s.states).TimeS {
		apply(t, s.live, leased(0.5, 8, 8))
		if m := s.live.Status().Models; m[0].BatchSize != 8 || m[1].BatchSize != 8 {
			t.Fatalf("a renewed lease gives %+v", m)
		}
	}
	if got := commands.Load(); before != 2 || got != before {
		t.Errorf("the server was told %d times at first, want 2: at the start and once more; and %d times by renewals", before, got-before)
	}
	s.await(t, "the initial batch size, after the last renewal", func(state *datacenter.State) bool { return state.Models[0].BatchSize == 4 })
	s.stop(t)
}
