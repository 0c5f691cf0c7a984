package vllm

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
)

// captured is what a real server sent, byte by byte.
func captured(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile("../testdata/captures/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// capturedPage is a captured metrics page.
func capturedPage(t *testing.T, name string) string {
	t.Helper()
	raw := captured(t, name)
	if !strings.HasSuffix(name, ".http") {
		return string(raw)
	}
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestCapturedMetrics(t *testing.T) {
	for name, c := range map[string]struct {
		model string
		want  Metrics
	}{
		"vllm-0.32.0-metrics-idle.http":                  {"tiny", Metrics{0, 0, 0, 0}},
		"vllm-0.32.0-metrics-load.txt":                   {"tiny", Metrics{4, 0, 0.0008545965083628371, 0}},
		"vllm-0.32.0-metrics-2apiservers.txt":            {"tiny", Metrics{nan(), nan(), nan(), 0}},
		"vllm-0.32.0-metrics-2apiservers-after-load.txt": {"tiny", Metrics{0, 0, 0, 0}},
		"llm-d-sim-metrics.http":                         {"llm", Metrics{0, 0, 0, nan()}},
	} {
		page := capturedPage(t, name)
		for _, modelID := range []string{c.model, "org/" + c.model, "an-adapter"} {
			m, err := parseMetrics(strings.NewReader(page), modelID)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if !sameNumbers(m.Metrics, c.want) || m.ModelName != c.model {
				t.Errorf("%s, as of model %s: %+v, want %+v", name, modelID, m, c.want)
			}
			for _, unknown := range m.Unknown {
				if !errors.Is(unknown, ErrMissingMetric) {
					t.Errorf("%s: %v", name, unknown)
				}
			}
		}
	}
	_, err := parseMetrics(strings.NewReader(capturedPage(t, "vllm-0.32.0-metrics-disable-log-stats.txt")), "tiny")
	if !errors.Is(err, ErrMissingMetric) {
		t.Errorf("without statistics: %v", err)
	}
	wantMessage(t, "without statistics", err, MetricRunning)
}

// replay answers each path with what a real server sent, and paths not among them
// with the answer of notFound, a capture too. It closes the connection then.
func replay(t *testing.T, answers map[string]string, notFound string) string {
	t.Helper()
	k := newKiller(t, func(conn net.Conn, r *http.Request) {
		name, ok := answers[r.Method+" "+r.URL.Path]
		if !ok {
			name = notFound
		}
		raw, err := os.ReadFile("../testdata/captures/" + name)
		if err != nil {
			t.Error(err)
		}
		_, _ = conn.Write(raw)
		conn.Close()
	})
	return "http://" + k.listener.Addr().String()
}

func TestCapturedServers(t *testing.T) {
	for name, c := range map[string]struct {
		model, notFound string
		answers         map[string]string
		wantPreemptions bool
	}{
		"vLLM 0.32.0": {"tiny", "vllm-0.32.0-get-set_max_num_seqs.http", map[string]string{
			"GET /health": "vllm-0.32.0-health.http", "GET /v1/models": "vllm-0.32.0-models.http", "GET /metrics": "vllm-0.32.0-metrics-idle.http",
			"GET /v1/runtime_config": "vllm-0.32.0-get-runtime_config.http",
		}, true},
		"vLLM 0.32.0 in development mode": {"tiny", "vllm-0.32.0-dev-set_max_num_seqs.http", map[string]string{
			"GET /health": "vllm-0.32.0-health.http", "GET /v1/models": "vllm-0.32.0-models.http", "GET /metrics": "vllm-0.32.0-metrics-idle.http",
			"GET /v1/runtime_config": "vllm-0.32.0-dev-v1_runtime_config.http",
		}, true},
		"llm-d-inference-sim": {"llm", "llm-d-sim-nope.http", map[string]string{
			"GET /health": "llm-d-sim-health.http", "GET /v1/models": "llm-d-sim-v1_models.http", "GET /metrics": "llm-d-sim-metrics.http",
			"GET /set_max_num_seqs": "llm-d-sim-set_max_num_seqs.http", "GET /v1/runtime_config": "llm-d-sim-v1_runtime_config.http",
		}, false},
	} {
		s := newTestServer(t, Config{BaseURL: replay(t, c.answers, c.notFound), ModelID: c.model})
		if err := errors.Join(s.Health(t.Context()), s.CheckModel(t.Context())); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if m, err := s.Metrics(t.Context()); err != nil || m.NumRequestsRunning != 0 || (m.Unknown == nil) != c.wantPreemptions {
			t.Errorf("%s: metrics %+v (%v)", name, m, err)
		}
		for _, actuator := range []Actuator{ActuatorSetMaxNumSeqs, ActuatorRuntimeConfig} {
			if evidence, err := s.EvidenceOf(t.Context(), actuator); err != nil || evidence != EvidenceAbsent {
				t.Errorf("%s: evidence of %s: %s (%v)", name, actuator, evidence, err)
			}
			if failed := command(t.Context(), t, s, actuator, 8, 0); !failed.NoSuchActuator() || failed.Status != http.StatusNotFound {
				t.Errorf("%s: %v", name, failed)
			}
		}
	}
	locked := newTestServer(t, Config{BaseURL: replay(t, nil, "vllm-0.32.0-models-401.http"), ModelID: "tiny"})
	wantMessage(t, "without a key", locked.CheckModel(t.Context()), `401 Unauthorized: "{\"error\":\"Unauthorized\"}"`)
}
