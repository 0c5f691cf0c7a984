package agent

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/rig"
)

// fittedModel makes a replay of a model with fits over the batch size, which OpenG2G
// has made from benchmark data, read from dir.
func fittedModel(t *testing.T, dir string) func(*config.Config) {
	at := seconds(t, "5")
	return func(c *config.Config) {
		c.Models[0].FeasibleBatchSizes = []int{8, 16, 32, 64, 128, 256}
		c.Replay.DataDir = dir
		c.Replay.Commands = []config.Command{{T: &at, SetBatchSize: map[string]int{"Llama-3.1-8B": 32}}}
	}
}

const fittedDir = "../testdata/golden/mlenergy/expected/one_task"

func states(t *testing.T, s *Setup) []*datacenter.State {
	t.Helper()
	var all []*datacenter.State
	for {
		state, err := s.Replay.Step(time.Time{})
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, state)
	}
}

// What one replica makes are values of the curve in fittedDir, computed apart.
func TestReplayHasThroughputOfTheFits(t *testing.T) {
	perReplica := map[int]float64{128: 4531.006866007496, 32: 1010.3322896977911}
	setup := setUp(t, "one_model", fittedModel(t, fittedDir))
	for round := range 2 {
		sizes := map[int]int{}
		for _, s := range states(t, setup) {
			m := &s.Models[0]
			want := perReplica[m.BatchSize] * float64(m.ActiveReplicas)
			if got := m.Throughput; !got.Known || m.ActiveReplicas == 0 || math.Abs(got.TokensPerS-want) > 1e-12*want {
				t.Fatalf("at %v s there are %+v, want %v tokens/s of %d replicas at batch size %d", s.TimeS, got, want, m.ActiveReplicas, m.BatchSize)
			}
			sizes[m.BatchSize]++
		}
		if sizes[128] != 50 || sizes[32] != 150 {
			t.Errorf("round %d: batch sizes %v, want the first for 50 steps and the second for 150", round, sizes)
		}
		if err := setup.Replay.Reset(); err != nil {
			t.Fatal(err)
		}
	}
}

// The fits of throughput change nothing else, and without them nothing is said of it.
func TestThroughputChangesNothingElse(t *testing.T) {
	bare := t.TempDir()
	if err := os.CopyFS(bare, os.DirFS(fittedDir)); err != nil {
		t.Fatal(err)
	}
	fits, err := filepath.Glob(filepath.Join(bare, "*", "logistic_fit.json"))
	if err != nil || len(fits) == 0 {
		t.Fatalf("%v: no fits in %s", err, bare)
	}
	for _, f := range fits {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	without := setUp(t, "one_model", fittedModel(t, bare))
	for _, s := range states(t, without) {
		if m := &s.Models[0]; m.Throughput != (datacenter.Throughput{}) {
			t.Fatalf("without fits there are %+v", m.Throughput)
		}
	}
	if err := without.Replay.Reset(); err != nil {
		t.Fatal(err)
	}
	if with := setUp(t, "one_model", fittedModel(t, fittedDir)); !bytes.Equal(runCSV(t, with), runCSV(t, without)) {
		t.Error("the CSV with fits of throughput differs from the one without")
	}
}

// A curve that falls below 0 makes no negative tokens.
func TestThroughputIsNotNegative(t *testing.T) {
	setup := setUp(t, "one_model", fittedModel(t, fittedDir))
	setup.Replay.readings.data[0].Logistic.ThroughputTokensPerS.B0 = -1e6
	if err := setup.Replay.Reset(); err != nil {
		t.Fatal(err)
	}
	if got, want := states(t, setup)[0].Models[0].Throughput, datacenter.ThroughputOf(0); got != want {
		t.Errorf("the throughput is %+v, want %+v", got, want)
	}
}

// busyHardware makes so many tokens per second.
type busyHardware struct {
	quietHardware
	tokensPerS float64
}

func (h busyHardware) TakeStep(_ time.Time, s *loadgen.StepITL) {
	*s = loadgen.StepITL{Output: int64(h.tokensPerS * busyDT)}
}

const busyDT = 0.5

// Throughput is scaled as power is: 8 real GPUs hold 4 replicas of 2.
func TestLiveThroughputIsScaledToTheActiveReplicas(t *testing.T) {
	readings := func(tokensPerS float64) *liveReadings {
		gpu := rig.GPU{Source: namedSource{name: "n"}, Index: 0}
		r := &liveReadings{
			feed: rig.NewFeed([][]rig.GPU{{gpu}}, 1), models: []liveModel{newLiveModel(busyHardware{tokensPerS: tokensPerS}, loadgen.NewStepWindow(1), 8, 2, 100)},
			staleAfterS: 2, dtS: busyDT, clock: func(time.Time) time.Duration { return 0 },
		}
		r.feed.Read(gpu, 0, 300)
		r.Begin(0, time.Time{})
		return r
	}
	for active, want := range map[int]float64{0: 0, 1: 250, 100: 25_000} {
		o := readings(1000).Observe(0, active)
		if o.throughput != datacenter.ThroughputOf(want) || o.live.MeasuredTokensPerS != 1000 {
			t.Errorf("%d active replicas: %+v, of measured %v tokens/s, want %v of 1000", active, o.throughput, o.live.MeasuredTokensPerS, want)
		}
	}
	if o := readings(0).Observe(0, 7); o.throughput != datacenter.ThroughputOf(0) {
		t.Errorf("servers that make no tokens have %+v, want a known 0", o.throughput)
	}
}
