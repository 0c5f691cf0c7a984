package agent

import (
	"context"
	"io"
	"log"
	"math"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
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
	s := newLiveSite(t, func(cfg *siteConfig) { cfg.Models[1].FailsafeBatchSize = 2 })
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
	var told []int
	for _, command := range s.vllms[0].Truth().Commands {
		told = append(told, command.MaxNumSeqs)
	}
	if want := []int{4, 8, 4}; !slices.Equal(told, want) {
		t.Errorf("the server was told %v, want %v: not again what was leased", told, want)
	}
	s.stop(t)
}

// TestLiveLeaseEndsWithRun: there is nobody left to end it, even where batch
// sizes are to be left as they are.
func TestLiveLeaseEndsWithRun(t *testing.T) {
	s := newLiveSite(t, func(cfg *siteConfig) {
		cfg.RestoreBatchSizes = false
		cfg.Models[0].FailsafeBatchSize = 2
	})
	s.start(t)
	s.await(t, "a state", func(*datacenter.State) bool { return true })
	apply(t, s.live, leased(60, 8, 8))
	if s.stop(t); s.maxNumSeqs() != 2 {
		t.Errorf("the end leaves the server a leased batch size, %d, want its failsafe one, 2", s.maxNumSeqs())
	}
}

// TestLiveCommandAfterTheEnd: one that was checked before the end of the run and
// gets its turn after it is not carried out.
func TestLiveCommandAfterTheEnd(t *testing.T) {
	s := newLiveSite(t, nil)
	over, end := context.WithCancel(t.Context())
	end()
	for range 50 { // either of two ways may be taken
		if r := s.live.setBatchSize(over, 1, 8, 0, 0); r.Told || r.Accepted || r.Err == nil {
			t.Fatalf("sent: %v, error %v", r.Told, r.Err)
		}
	}
	if m := s.live.Status().Models[1]; m.BatchSize != 4 {
		t.Errorf("the batch size is %d, want the initial 4", m.BatchSize)
	}
	s.live.Close()
}

// TestLiveRampIsCutShort: the same batch size at once, while a ramp to it is under
// way, is another command.
func TestLiveRampIsCutShort(t *testing.T) {
	s := newLiveSite(t, nil)
	s.start(t)
	s.await(t, "a state", func(*datacenter.State) bool { return true })
	ramp := datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"patched": 8}, RampUpRateByModel: map[string]float64{"patched": 0.01}}
	apply(t, s.live, ramp)
	apply(t, s.live, ramp) // changes nothing
	apply(t, s.live, datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"patched": 8}})
	var rates []float64
	for _, command := range s.vllms[0].Truth().Commands {
		rates = append(rates, command.RampUpRate)
	}
	if want := []float64{0, 0.01, 0}; !slices.Equal(rates, want) {
		t.Errorf("the server was told the ramp-up rates %v, want %v", rates, want)
	}
	s.stop(t)
}

// TestLiveLeaseIsRenewed: the same command again is not sent, but renews.
func TestLiveLeaseIsRenewed(t *testing.T) {
	var commands atomic.Int64
	s := newLiveSite(t, func(cfg *siteConfig) {
		target, err := url.Parse(cfg.Hardware[0].Servers[0].VLLMBaseURL)
		if err != nil {
			t.Fatal(err)
		}
		proxy := &httputil.ReverseProxy{FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) {
			if r.In.URL.Path == "/set_max_num_seqs" {
				commands.Add(1)
			}
			r.SetURL(target)
		}}
		front := httptest.NewServer(proxy)
		t.Cleanup(front.Close)
		cfg.Hardware[0].Servers[0].VLLMBaseURL, cfg.Hardware[0].Servers[0].Actuator = front.URL, vllm.ActuatorSetMaxNumSeqs
	})
	s.start(t)
	s.await(t, "a state", func(*datacenter.State) bool { return true })
	apply(t, s.live, leased(0.5, 8, 8))
	before, began := commands.Load(), s.live.Status().TimeS
	s.drain()
	renewals := int64(0)
	for now := began; now < began+1.5; now = (<-s.states).TimeS {
		apply(t, s.live, leased(0.5, 8, 8))
		renewals++
		if m := s.live.Status().Models; m[0].BatchSize != 8 || m[1].BatchSize != 8 {
			t.Fatalf("a renewed lease gives %+v", m)
		}
	}
	// A server that lost connections, as on a busy machine, is told again by the
	// agent itself, also before the first renewal.
	if got := commands.Load() - before; before < 2 || got > renewals/3 {
		t.Errorf("the server was told %d times at first, want 2 or more: at the start and once more; and %d times by %d renewals", before, got, renewals)
	}
	s.await(t, "the initial batch size, after the last renewal", func(state *datacenter.State) bool { return state.Models[0].BatchSize == 4 })
	s.stop(t)
}
