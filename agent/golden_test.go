package agent

import (
	"bytes"
	"encoding/csv"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// setUp prepares the replay of a config of testdata/configs; edit may change it.
func setUp(t testing.TB, name string, edit func(*config.Config)) *Setup {
	t.Helper()
	c, err := config.Load(filepath.Join("..", "testdata", "configs", name+".yaml"), nil, config.ForReplay)
	if err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(c)
	}
	s, err := SetUpReplay(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// runCSV runs the replay and returns its CSV.
func runCSV(t *testing.T, s *Setup) []byte {
	t.Helper()
	labels := make([]string, len(s.Models))
	for i := range s.Models {
		labels[i] = s.Models[i].ModelLabel
	}
	var out bytes.Buffer
	w, err := record.NewCSVWriter(&out, labels)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := RunFast(t.Context(), s.Replay, w.Write); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// equalCSV holds every cell to the bit, and latencies to 1e-12.
func equalCSV(t *testing.T, got, want []byte) {
	t.Helper()
	rows := func(b []byte) [][]string {
		r, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	g, w := rows(got), rows(want)
	if len(g) != len(w) || len(w) < 2 || !slices.Equal(g[0], w[0]) {
		t.Fatalf("%d rows with columns %v, want %d with %v", len(g), g[0], len(w), w[0])
	}
	differing := 0
	for i := range w {
		for j := range w[i] {
			if g[i][j] == w[i][j] {
				continue
			}
			if i > 0 && strings.HasSuffix(w[0][j], ":observed_itl_s") {
				gv, err1 := strconv.ParseFloat(g[i][j], 64)
				wv, err2 := strconv.ParseFloat(w[i][j], 64)
				if err1 == nil && err2 == nil && math.Abs(gv-wv) <= 1e-12*wv {
					continue
				}
			}
			if differing++; differing <= 5 {
				t.Errorf("row %d, %s: %s, want %s", i, w[0][j], g[i][j], w[i][j])
			}
		}
	}
	if differing > 5 {
		t.Errorf("%d cells differ", differing)
	}
}

func goldenRuns() []string {
	return []string{
		"one_model", "ten_thousand_servers", "three_models_noise_ramps_training", "uneven_servers_exact_latency",
		"long_templates_ramp", "short_templates_shifts_past_capacity",
	}
}

func golden(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "testdata", "golden", "offline", name+".csv"))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestReplayMatchesOpenG2G(t *testing.T) {
	for _, name := range goldenRuns() {
		t.Run(name, func(t *testing.T) { equalCSV(t, runCSV(t, setUp(t, name, nil)), golden(t, name)) })
	}
}

// TestBothLayoutsGiveTheSameRun replays OpenG2G 0.2's data directory.
func TestBothLayoutsGiveTheSameRun(t *testing.T) {
	s := setUp(t, "three_models_noise_ramps_training", func(c *config.Config) {
		c.Replay.DataDir = filepath.Join("..", "testdata", "golden", "data_0.2")
	})
	equalCSV(t, runCSV(t, s), golden(t, "three_models_noise_ramps_training"))
}

func TestResetGivesTheSameRunAgain(t *testing.T) {
	for _, name := range goldenRuns() {
		s := setUp(t, name, nil)
		for range 25 {
			if _, err := s.Replay.Step(time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Replay.Apply(datacenter.ShiftReplicas{ModelLabel: s.Models[0].ModelLabel, ReplicaDelta: -1}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := s.Replay.Reset(); err != nil {
				t.Fatal(err)
			}
			equalCSV(t, runCSV(t, s), golden(t, name))
		}
	}
}
