package zeusd

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/power"
)

// TestCaps speaks to a daemon that has the API group gpu-control, as zeusd 0.5
// documents it.
func TestCaps(t *testing.T) {
	var requests []string
	daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests = append(requests, r.Method+" "+r.URL.String())
		switch {
		case r.Header.Get("Authorization") != "Bearer secret":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/gpu/get_power_limit_constraints":
			w.Write([]byte(`{"1": {"min_power_limit_mw": 200000, "max_power_limit_mw": 700000}}`))
		case r.Method == http.MethodPost && r.URL.Query().Get("power_limit_mw") == "420000":
		case r.Method == http.MethodPost:
			w.WriteHeader(http.StatusBadRequest)
			json.NewEncoder(w).Encode(map[string]any{"errors": map[string]string{"1": "out of range"}})
		}
	}))
	defer daemon.Close()
	e := endpointAt(t, daemon.Listener.Addr().String())
	sources, err := SourceKind().Open([]power.Endpoint{{Host: e.Host, Port: e.Port, Token: credential.Fixed("secret"), GPUIndices: []int{1}}}, power.Options{})
	if err != nil {
		t.Fatal(err)
	}
	capper := sources[0].(power.Capper)
	if leastW, mostW, err := capper.CapRangeW(t.Context(), 1); leastW != 200 || mostW != 700 || err != nil {
		t.Errorf("GPU 1 can be limited to %v to %v W (%v), want 200 to 700", leastW, mostW, err)
	}
	if leastW, mostW, err := capper.CapRangeW(t.Context(), 0); err == nil {
		t.Errorf("a GPU of which nothing is said can be limited to %v to %v W", leastW, mostW)
	}
	if err := capper.SetCapW(t.Context(), 1, 420); err != nil {
		t.Errorf("the limit was not set: %v", err)
	}
	var refused *StatusError
	if err := capper.SetCapW(t.Context(), 1, 421.0004); !errors.As(err, &refused) || refused.Status != http.StatusBadRequest || !strings.Contains(err.Error(), "device 1: out of range") {
		t.Errorf("a limit out of range gives %v", err)
	}
	for _, capW := range []float64{0, -1, 1e6} {
		if err := capper.SetCapW(t.Context(), 1, capW); err == nil {
			t.Errorf("a limit of %v W was sent", capW)
		}
	}
	want := []string{
		"GET /gpu/get_power_limit_constraints?gpu_ids=1", "GET /gpu/get_power_limit_constraints?gpu_ids=0",
		"POST /gpu/set_power_limit?gpu_ids=1&power_limit_mw=420000&block=true", "POST /gpu/set_power_limit?gpu_ids=1&power_limit_mw=421000&block=true",
	}
	if strings.Join(requests, "\n") != strings.Join(want, "\n") {
		t.Errorf("the daemon was asked %q, want %q", requests, want)
	}
}
