package main

import (
	"net/http"
	"testing"

	"github.com/g2g-agent/g2g-agent/sim"
)

// lastCommand is the batch size that a server was told last, and how many commands
// it has had.
func lastCommand(t *testing.T, host *simHost) (batchSize, commands int) {
	t.Helper()
	var all []sim.Command
	if all = host.truth(t).Commands; len(all) == 0 {
		return 0, 0
	}
	return all[len(all)-1].MaxNumSeqs, len(all)
}

// TestKilledAgentComesBack: kill -9 while a batch size is commanded, with a lease
// that nobody is left to end. The next start makes all known again by itself.
func TestKilledAgentComesBack(t *testing.T) {
	t.Parallel()
	host := startSim(t)
	config := host.writeConfig(t, quickStart)
	run := func() *apiProgram {
		a := startAPI(t, []string{"G2G_AGENT_MODELS__0__INITIAL_BATCH_SIZE=16"}, "run", "--config", config)
		a.awaitProbe(t, "/readyz", http.StatusOK)
		return a
	}
	a := run()
	first, _ := lastCommand(t, host)
	a.post(t, http.StatusOK, "/v1/batch-sizes", `{"batch_size_by_model": {"small": 8}, "lease_s": 3600}`)
	if last, _ := lastCommand(t, host); first != 16 || last != 8 {
		t.Fatalf("the server was told %d and then %d, want 16 and 8", first, last)
	}
	a.kill()
	if last, _ := lastCommand(t, host); last != 8 {
		t.Fatalf("after kill -9 the server has %d", last)
	}

	a = run()
	if last, _ := lastCommand(t, host); last != 16 {
		t.Errorf("after the restart the server has batch size %d, want the initial one, 16", last)
	}
	m := a.models(t)[0]
	if m.BatchSize != 16 || m.BatchSizeLeaseS != nil {
		t.Errorf("after the restart: %+v", m)
	}
	state := decode[seenState](t, a.get(t, http.StatusOK, "/v1/state"))
	if state.BatchSize["small"] != 16 {
		t.Errorf("after the restart: %+v", state)
	}
	eventually(t, "16 requests run", func() bool { return host.truth(t).Running == 16 })

	// SIGTERM restores by itself.
	a.post(t, http.StatusOK, "/v1/batch-sizes", `{"batch_size_by_model": {"small": 8}}`)
	if last, _ := lastCommand(t, host); last != 8 {
		t.Fatalf("the server was told %d, want 8", last)
	}
	a.terminate(t)
	if last, _ := lastCommand(t, host); last != 16 {
		t.Errorf("after SIGTERM the server has batch size %d, want the initial one, 16", last)
	}

	// Unless it is told to leave them.
	a = startAPI(t, []string{"G2G_AGENT_MODELS__0__INITIAL_BATCH_SIZE=16", "G2G_AGENT_LIVE__RESTORE_BATCH_SIZES=false"}, "run", "--config", config)
	a.awaitProbe(t, "/readyz", http.StatusOK)
	a.post(t, http.StatusOK, "/v1/batch-sizes", `{"batch_size_by_model": {"small": 8}}`)
	a.terminate(t)
	if last, _ := lastCommand(t, host); last != 8 {
		t.Errorf("with restore_batch_sizes: false the server has batch size %d, want 8", last)
	}
}
