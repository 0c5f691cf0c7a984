package sim

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func setCap(t *testing.T, v *VLLM, query string) (int, string) {
	t.Helper()
	status, _, body := do(t, client(t, "tcp", v.Addr()), "POST", "/set_max_num_seqs"+query, "")
	return status, body
}

func TestBatchFollowsTheCap(t *testing.T) {
	gpu := NewGPU("H100", 0)
	p := Profile{Levels: []Level{{1, 300, 0.001}, {4, 600, 0.001}}, IdleWPerGPU: 70}
	v := startVLLM(t, VLLMConfig{MaxNumSeqs: 4, Profile: p, GPUs: []*GPU{gpu}})
	if gpu.PowerW() != 70 {
		eventually(t, "it idles", func() bool { return gpu.PowerW() == 70 })
	}
	conns := make([]*rawConn, 6)
	streams := make([]*events, 6)
	for i := range conns {
		conns[i], streams[i] = ask(t, v, maxOutputTokens)
		eventually(t, "it is in", func() bool { now := v.Truth(); return now.Running+now.Waiting == i+1 })
	}
	state := func() [2]int { now := v.Truth(); return [2]int{now.Running, now.Waiting} }
	eventually(t, "four run, two wait", func() bool { return state() == [2]int{4, 2} && gpu.PowerW() == 600 })

	if status, body := setCap(t, v, "?max_num_seqs=2"); status != 200 {
		t.Fatal(status, body)
	}
	iterations := v.Truth().Iterations
	eventually(t, "time passes", func() bool { return v.Truth().Iterations > iterations+5 })
	if got := state(); got != [2]int{4, 2} || v.Truth().MaxNumSeqs != 2 {
		t.Error("a lower cap has ended running requests:", got)
	}
	conns[0].Close()
	conns[3].Close()
	eventually(t, "two have left, nobody moved up", func() bool { return state() == [2]int{2, 2} && gpu.PowerW() == 400 })
	conns[1].Close()
	eventually(t, "the next one moved up", func() bool { return state() == [2]int{2, 1} })
	streams[4].data(t) // the first in the queue is served
	conns[5].Close()
	eventually(t, "one left while waiting", func() bool { return state() == [2]int{2, 0} })
	conns[2].Close()
	conns[4].Close()
	eventually(t, "all have left", func() bool { return state() == [2]int{0, 0} && gpu.PowerW() == 70 })
	if truth := v.Truth(); truth.Aborted != 6 || truth.Started != 6 || truth.Finished+truth.Failed != 0 {
		t.Errorf("%+v", truth)
	}
}

func TestCapRampsUp(t *testing.T) {
	v := startVLLM(t, VLLMConfig{MaxNumSeqs: 1})
	if status, body := setCap(t, v, "?max_num_seqs=1000&ramp_up_rate=200"); status != 200 {
		t.Fatal(status, body)
	}
	start := time.Now()
	first := v.Truth()
	if most := 2 + int(200*time.Since(start).Seconds()); first.Cap > most+100 || first.MaxNumSeqs != 1000 {
		t.Error(first.Cap, most)
	}
	eventually(t, "it rises", func() bool { return v.Truth().Cap > first.Cap+20 })
	now := v.Truth().Cap
	if took := time.Since(start); took < 90*time.Millisecond || float64(now) > 1+200*took.Seconds()+20 {
		t.Errorf("%d after %v", now, took)
	}
	setCap(t, v, "?max_num_seqs=3&ramp_up_rate=1") // down at once
	truth := v.Truth()
	if truth.Cap != 3 {
		t.Error(truth.Cap)
	}
	want := []Command{{MaxNumSeqs: 1000, RampUpRate: 200}, {MaxNumSeqs: 3, RampUpRate: 1}}
	for i := range truth.Commands {
		if at := truth.Commands[i].At; time.Since(at) > time.Minute {
			t.Error(at)
		}
		truth.Commands[i].At = time.Time{}
	}
	if diff := cmp.Diff(want, truth.Commands); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "?max_num_seqs=", "?max_num_seqs=0", "?max_num_seqs=-1", "?max_num_seqs=1.5", "?max_num_seqs=99999999999999999999",
		"?max_num_seqs=5&ramp_up_rate=", "?max_num_seqs=5&ramp_up_rate=-1", "?max_num_seqs=5&ramp_up_rate=NaN", "?max_num_seqs=5&ramp_up_rate=Inf"} {
		if status, body := setCap(t, v, bad); status != 422 || !strings.Contains(body, "detail") {
			t.Error(bad, status, body)
		}
	}
	v.ResetTruth()
	if truth := v.Truth(); truth.MaxNumSeqs != 3 || len(truth.Commands) != 0 {
		t.Errorf("%+v", truth)
	}
	if err := v.Restart(); err != nil {
		t.Fatal(err)
	}
	if truth := v.Truth(); truth.MaxNumSeqs != 1 {
		t.Error("a restarted server has its first cap, not", truth.MaxNumSeqs)
	}
}

func TestActuators(t *testing.T) {
	for actuator, want := range map[VLLMActuator][5]int{
		SetMaxNumSeqs: {200, 405, 404, 404, 404},
		RuntimeConfig: {404, 404, 200, 200, 405},
		StockVLLM:     {404, 404, 404, 404, 404},
	} {
		v := startVLLM(t, VLLMConfig{MaxNumSeqs: 64, Actuator: actuator})
		c := client(t, "tcp", v.Addr())
		var got [5]int
		for i, call := range [][3]string{
			{"POST", "/set_max_num_seqs?max_num_seqs=8"}, {"OPTIONS", "/set_max_num_seqs"},
			{"GET", "/v1/runtime_config"}, {"PATCH", "/v1/runtime_config", `{"max_num_running_seqs":8}`}, {"OPTIONS", "/v1/runtime_config"},
		} {
			got[i], _, _ = do(t, c, call[0], call[1], call[2])
		}
		if got != want {
			t.Error(actuator, got)
		}
		truth := v.Truth()
		if changed := truth.MaxNumSeqs == 8 && len(truth.Commands) == 1; changed != (actuator != StockVLLM) {
			t.Errorf("%s: %+v", actuator, truth)
		}
		if actuator != RuntimeConfig {
			continue
		}
		for _, bad := range []string{``, `{}`, `{"max_num_running_seqs":0}`, `{"max_num_running_seqs":65}`, `{"max_num_seqs":8}`, `[]`} {
			if status, _, body := do(t, c, "PATCH", "/v1/runtime_config", bad); status != 422 {
				t.Error(bad, status, body)
			}
		}
		if _, _, body := do(t, c, "GET", "/v1/runtime_config", ""); body != `{"max_num_running_seqs":8,"max_num_seqs":64}` {
			t.Error(body)
		}
	}
}

func TestITLFollowsTheProfile(t *testing.T) {
	p := Profile{Levels: []Level{{1, 300, 0.005}, {9, 600, 0.045}}, ITLSigma: 0.05}
	v := startVLLM(t, VLLMConfig{Profile: p, Spread: true})
	var streams []*rawConn
	for _, n := range []int{1, 5} {
		for len(streams) < n {
			c, _ := ask(t, v, maxOutputTokens)
			streams = append(streams, c)
		}
		eventually(t, "all run", func() bool { return v.Truth().Running == n })
		iterations := v.Truth().Iterations
		eventually(t, "they are under way", func() bool { return v.Truth().Iterations > iterations+2 })
		v.ResetTruth()
		from := time.Now()
		eventually(t, "enough samples", func() bool { return v.Truth().ITL.Tokens >= 25*int64(n) })
		all, window := v.Truth().ITL, v.ITLBetween(from, time.Now())
		want := p.itlS(n)
		for _, itl := range []ITL{all, window} {
			// A busy machine may stall the engine, which is then the truth.
			if itl.MeanS < 0.8*want || math.Abs(itl.P50S/want-1) > 0.25 || !itl.Complete ||
				itl.P99S < itl.P90S || itl.P90S < itl.P50S || math.Abs(itl.SumS/float64(itl.Tokens)-itl.MeanS) > 1e-12 {
				t.Errorf("%d running: %+v, want %v", n, itl, want)
			}
		}
	}
}

func TestPrefillsStall(t *testing.T) {
	p := steady(time.Millisecond)
	p.PrefillS, p.PrefillsPerIteration = 0.05, 1
	v := startVLLM(t, VLLMConfig{Profile: p})
	_, first := ask(t, v, maxOutputTokens)
	for range 10 {
		first.data(t)
	}
	v.ResetTruth()
	ask(t, v, 1)
	ask(t, v, 1)
	eventually(t, "both are done", func() bool { return v.Truth().Finished == 2 })
	eventually(t, "and counted", func() bool { return v.Truth().ITL.Tokens > 2 })
	// The last samples may be the two stalls; none of the others is as long.
	itl := v.Truth().ITL
	if itl.P999S < 0.045 || itl.SumS < 0.1 {
		t.Errorf("%+v", itl)
	}
}

func TestSpread(t *testing.T) {
	for _, spread := range []bool{false, true} {
		v := startVLLM(t, VLLMConfig{Profile: steady(50 * time.Millisecond), Spread: spread})
		for range 10 {
			ask(t, v, maxOutputTokens)
		}
		eventually(t, "all run", func() bool { return v.Truth().Running == 10 })
		v.ResetTruth()
		eventually(t, "there are samples", func() bool { return v.Truth().ITL.Chunks >= 70 })
		// How long each iteration took to write, as the server saw it: nearly all of
		// it, or nothing.
		v.itl.mu.Lock()
		samples := slices.Clone(v.itl.ring)
		v.itl.mu.Unlock()
		var took []time.Duration
		for i := len(samples) - 10; i >= 0 && len(took) < 5; i -= 10 {
			took = append(took, time.Duration(samples[i+9].atNS-samples[i].atNS))
		}
		// A busy machine makes bursts long and delays timers, but not always.
		if spread && slices.Max(took) < 30*time.Millisecond || !spread && slices.Min(took) > 15*time.Millisecond {
			t.Errorf("spread %v: iterations were written over %v", spread, took)
		}
	}
}
