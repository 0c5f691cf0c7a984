package zeusd

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/power"
)

// TestEnergyJ: counters come in joules, and a daemon that does not tell them is an error.
func TestEnergyJ(t *testing.T) {
	answer := `{"0":{"energy_mj":179556496388246},"1":{"energy_mj":1500}}`
	daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.String() != "/gpu/get_cumulative_energy?gpu_ids=0,1" {
			t.Errorf("asked for %s", r.URL)
		}
		if answer == "" {
			w.WriteHeader(http.StatusNotFound)
		}
		w.Write([]byte(answer))
	}))
	defer daemon.Close()
	e := endpointAt(t, daemon.Listener.Addr().String())
	sources, err := SourceKind().Open([]power.Endpoint{{Host: e.Host, Port: e.Port, GPUIndices: []int{0, 1}}}, power.Options{})
	if err != nil {
		t.Fatal(err)
	}
	meter := sources[0].(power.EnergyMeter)
	got, err := meter.EnergyJ(t.Context(), []int{0, 1})
	if diff := cmp.Diff(map[int]float64{0: 179556496388.246, 1: 1.5}, got); diff != "" || err != nil {
		t.Errorf("%v; counters (-want +got):\n%s", err, diff)
	}
	for _, answer = range []string{"", `{"0":{}}`, "nonsense"} {
		if got, err := meter.EnergyJ(t.Context(), []int{0, 1}); err == nil {
			t.Errorf("an answer of %q gives %v", answer, got)
		}
	}
}
