package agent

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/augment"
	"github.com/g2g-agent/g2g-agent/buffer"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/recording"
	"github.com/g2g-agent/g2g-agent/rig"
)

// scriptedConfig is a live run of two models on four GPUs, with steps of dt.
const scriptedConfig = `
seed: 5
dt_s: "%s"
datacenter: {gpus_per_server: 8, base_kw_per_phase: 3}
augmentation: {amplitude_scale_range: [0.9, 1.1], noise_fraction: 0.05}
models:
  - model_label: chat
    model_id: org/chat
    gpus_per_replica: 1
    itl_deadline_s: 0.1
    feasible_batch_sizes: [4, 8, 16]
    replicas: {initial: 40, ramps: [{target: 24, t_start: 20, t_end: 60}]}
    live: {vllm_base_url: "http://127.0.0.1:1", simulated_num_replicas: 80, gpu_endpoints: [{host: a, gpu_indices: [0, 1]}]}
  - model_label: code
    model_id: org/code
    gpus_per_replica: 2
    itl_deadline_s: 0.1
    feasible_batch_sizes: [4, 8, 16]
    live:
      simulated_num_replicas: 20
      servers:
        - {vllm_base_url: "http://127.0.0.1:2", gpu_endpoints: [{host: b, gpu_indices: [0]}]}
        - {vllm_base_url: "http://127.0.0.1:3", gpu_endpoints: [{host: b, gpu_indices: [3]}]}
live: {stagger_s: %v, itl_window_s: %v, warmup_timeout_s: 600, stale_after_s: 2}
`

// scriptedRun is a live run whose hardware is a script, stepped as fast as it goes.
type scriptedRun struct {
	dir      string
	pipeline *Pipeline
	feed     *rig.Feed
	readings *liveReadings
	models   []*scriptedModel
	to       *recording.Writer
	notes    notes
	random   *rand.Rand
	start    time.Time
	states   []*datacenter.State
	// silent are the GPUs that nothing comes of.
	silent map[int]bool
	// wait: steps wait for the writer.
	wait bool
}

type scriptedModel struct {
	random *rand.Rand
	loads  []rig.LoadReading
}

func (m *scriptedModel) TakeStep(_ time.Time, s *loadgen.StepITL) {
	*s = loadgen.StepITL{Bins: s.Bins[:0], Counts: s.Counts[:0]}
	if m.random.IntN(10) == 0 {
		return // no token came
	}
	bin := int64(m.random.IntN(50) + 900)
	for range m.random.IntN(5) + 1 {
		n := int64(m.random.IntN(30) + 1)
		s.Bins, s.Counts = append(s.Bins, bin), append(s.Counts, n)
		s.Count, s.SumNs, s.Output = s.Count+n, s.SumNs+n*int64(m.random.IntN(9_000_000)+11_111_111), s.Output+n+1
		bin += int64(m.random.IntN(9) + 1)
	}
}

func (m *scriptedModel) LoadReadings(into []rig.LoadReading) []rig.LoadReading {
	return append(into, m.loads...)
}

func parseScripted(t *testing.T, dt string, staggerS, windowS float64) *config.Config {
	t.Helper()
	c, err := config.Parse("scripted", fmt.Appendf(nil, scriptedConfig, dt, staggerS, windowS), nil, config.ForLive)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// recordScript runs so many steps, each after before(step), and records them in a new
// directory.
func recordScript(t *testing.T, c *config.Config, steps int64, before func(r *scriptedRun, step int64)) *scriptedRun {
	t.Helper()
	r := &scriptedRun{
		dir: filepath.Join(t.TempDir(), "recording"), random: rand.New(rand.NewPCG(1, 2)), silent: map[int]bool{}, wait: true,
		start: time.Now(),
	}
	r.setUp(t, c)
	zero := r.feed.Clock(r.start)
	for i := range 200 { // what came before the first step
		r.read(zero-10*time.Second+time.Duration(i)*50*time.Millisecond, zero)
	}
	dt := c.DT
	for step := range steps {
		due := dueAfter(dt, step)
		for at := due - dueAfter(dt, 1); at < due; at += max(50*time.Millisecond, dueAfter(dt, 1)/4) {
			r.read(zero+at, zero)
		}
		for _, m := range r.models {
			for i := range m.loads {
				if r.random.IntN(5) == 0 {
					load := datacenter.ServerLoad{
						NumRequestsRunning: float64(r.random.IntN(16)), NumRequestsWaiting: math.NaN(), KVCacheUsagePerc: r.random.Float64(), NumPreemptionsTotal: float64(step),
					}
					m.loads[i] = rig.LoadReading{At: r.start.Add(due), Load: &load, Preempted: load.NumPreemptionsTotal + 3}
				} else if r.random.IntN(20) == 0 {
					m.loads[i].Load = nil
				}
			}
		}
		if before != nil {
			before(r, step)
		}
		r.notes.hand(r.pipeline)
		state, err := r.pipeline.Step(r.start.Add(due))
		if err != nil {
			t.Fatal(err)
		}
		r.to.State(state)
		r.states = append(r.states, state)
		for r.wait && r.to.Stats().QueuedSeconds > 1 {
			runtime.Gosched()
		}
	}
	if err := r.to.Close(t.Context(), "test"); err != nil && r.to.Stats().Gaps == 0 {
		t.Fatal(err)
	}
	return r
}

func (r *scriptedRun) setUp(t *testing.T, c *config.Config) {
	t.Helper()
	var err error
	if r.to, err = recording.Open(recording.Options{Dir: r.dir, Log: zerolog.Nop()}); err != nil {
		t.Fatal(err)
	}
	specs, err := c.LiveModelSpecs()
	if err != nil {
		t.Fatal(err)
	}
	header := recording.Header{RunID: "r", Seed: c.Seed, DT: c.DT, StartMs: r.start.UnixMilli(), StartedAt: r.start}
	if header.Config, err = c.Effective(); err != nil {
		t.Fatal(err)
	}
	gpus := [][]rig.GPU{
		{{Source: recordedSource("a:4938"), Index: 0}, {Source: recordedSource("a:4938"), Index: 1}},
		{{Source: recordedSource("b:4938"), Index: 0}, {Source: recordedSource("b:4938"), Index: 3}},
	}
	cfg := Config{Seed: c.Seed, DT: c.DT, Facility: c.LiveFacility(), Augmentation: c.AugmentationConfig(), Models: specs}
	cfg.OnEvent = func(e datacenter.Event) { r.notes.event(r.pipeline.step, e) }
	r.feed = rig.NewFeed(gpus, c.Live.StaggerS)
	pool := cfg.newPool(augment.StaggerSeconds(c.Live.StaggerS))
	r.readings = &liveReadings{
		feed: r.feed, stagger: buffer.NewOffsets(pool.StaggerSeconds()), staleAfterS: c.Live.StaleAfterS, dtS: c.DT.Float64(), clock: r.feed.Clock,
	}
	for m, spec := range specs {
		model := &scriptedModel{random: rand.New(rand.NewPCG(3, uint64(m))), loads: make([]rig.LoadReading, m+1)}
		for i := range model.loads {
			model.loads[i].Preempted = math.NaN()
		}
		r.models = append(r.models, model)
		r.readings.models = append(r.readings.models, newLiveModel(model, newWindow(duration(c.Live.ITLWindowS), c.DT), 2, spec.GPUsPerReplica,
			*c.Models[m].Live.SimulatedNumReplicas))
		header.Models = append(header.Models, spec.ModelLabel)
		for _, g := range gpus[m] {
			header.GPUs = append(header.GPUs, recording.GPU{
				GPU: gpuName(g.Source.String(), g.Index), Endpoint: g.Source.String(), GPUID: g.Index, ModelLabel: spec.ModelLabel,
			})
		}
	}
	if r.pipeline, err = newPipeline(cfg, pool, r.readings); err != nil {
		t.Fatal(err)
	}
	header.ClockZeroNs = int64(r.feed.Clock(r.start))
	r.to.Start(header)
	r.notes.to = r.to
	r.pipeline.onApplied = func(a Applied) { r.notes.applied(r.pipeline, a) }
	r.readings.tape = &tape{
		to: r.to, labels: header.Models, startMs: header.StartMs, zero: r.feed.Clock(r.start), loads: make([][]loadSeen, len(specs)),
		power: make([]powerSeen, len(r.feed.GPUs())), dt: c.DT, stale: duration(c.Live.StaleAfterS),
	}
}

// read has some GPUs report, with clocks that are off, late and not in order.
func (r *scriptedRun) read(at, zero time.Duration) {
	for _, gpu := range r.random.Perm(4) {
		if r.silent[gpu] || r.random.IntN(8) == 0 {
			continue
		}
		late := time.Duration(r.random.IntN(30)) * time.Millisecond
		e := rig.FeedEntry{GPU: gpu, At: at - late + time.Duration(gpu)*123_457, PowerMW: int64(100_000 + r.random.IntN(600_000)), Confirmation: r.random.IntN(20) == 0}
		if gpu%2 == 0 { // its clock is 3 s ahead, and is set back by 7 ms in time
			e.StampMs = r.start.UnixMilli() + int64((at-late-zero)/time.Millisecond) + 3000
			if at-zero > 15*time.Second {
				e.StampMs -= 7
			}
		}
		r.feed.Take(e)
	}
}

func (r *scriptedRun) setBatchSize(label string, batchSize int, leaseS float64) {
	m := r.pipeline.modelIndex(label)
	r.pipeline.setBatchSize(m, batchSize)
	r.pipeline.leaseBatchSize(m, leaseS)
	r.pipeline.emitBatchSizes()
}

// again runs the recording again and returns its states and what was told.
func again(t *testing.T, dir string, o RecordedOptions) ([]*datacenter.State, Comparison, string) {
	t.Helper()
	var told strings.Builder
	o.Tell = func(text string) { told.WriteString(text + "\n") }
	setup, err := SetUpRecorded(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer setup.Run.Close()
	var states []*datacenter.State
	if _, err := RunFast(t.Context(), setup.Run, func(s *datacenter.State) error {
		states = append(states, s)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return states, setup.Run.Comparison(), told.String()
}

// day is a run in which most happens that can.
func day(t *testing.T) *scriptedRun {
	t.Helper()
	return recordScript(t, parseScripted(t, "1/10", 4, 1), 900, func(r *scriptedRun, step int64) {
		switch step {
		case 50:
			r.setBatchSize("chat", 8, 0)
		case 51:
			r.setBatchSize("code", 16, 5)
		case 120:
			if err := r.pipeline.shiftReplicas(datacenter.ShiftReplicas{ModelLabel: "chat", ReplicaDelta: 30, LeaseS: 7}); err != nil {
				t.Error(err)
			}
		case 200:
			r.silent[0], r.silent[1] = true, true // stale from 22 s on
		case 260:
			r.silent[0] = false
		case 320:
			r.silent[1] = false
		case 330:
			r.feed.Lose(r.feed.GPUs()[3], r.readings.due.Seconds())
		}
		for _, m := range r.pipeline.endBatchSizeLeases() {
			r.pipeline.setBatchSize(m, 4)
		}
		r.pipeline.endShiftLeases()
	})
}

func TestRecordedRunComesBackBitForBit(t *testing.T) {
	r := day(t)
	stale, shifted := 0, 0
	for _, s := range r.states {
		if s.Models[0].Live.Stale {
			stale++
		}
		if s.Models[0].ActiveReplicas > 48 {
			shifted++
		}
	}
	if stale < 20 || shifted < 60 {
		t.Fatalf("%d states are stale and %d shifted: the run has not what the test is of", stale, shifted)
	}
	if n := cap(r.readings.entries); n > 100 {
		t.Errorf("there is room for %d readings, more than come in a step", n)
	}
	states, c, told := again(t, r.dir, RecordedOptions{})
	if want := int64(len(r.states)); c.Steps != want || c.Compared != want || c.Different != 0 || told != "" {
		t.Fatalf("%+v; told:\n%s", c, told)
	}
	for i, s := range states {
		same := *s
		same.WallTime = r.states[i].WallTime
		if got, want := string(same.AppendJSON(nil)), string(r.states[i].AppendJSON(nil)); got != want {
			t.Fatalf("step %d is\n%s\nwant\n%s", i, got, want)
		}
		if off := s.WallTime.Sub(r.states[i].WallTime).Abs(); off > time.Millisecond {
			t.Fatalf("step %d was due at %v, want %v", i, s.WallTime, r.states[i].WallTime)
		}
	}
}

// A model's last GPU that is lost is held, and stays when another one comes back.
func TestRecordedRunWithAllGPUsOfAModelLost(t *testing.T) {
	r := recordScript(t, parseScripted(t, "1/10", 4, 1), 200, func(r *scriptedRun, step int64) {
		switch step {
		case 30, 31:
			gpu := int(step) - 28
			r.silent[gpu] = true
			r.feed.Lose(r.feed.GPUs()[gpu], (r.readings.due + 100*time.Millisecond).Seconds())
		case 40:
			r.silent[2] = false
		}
	})
	if _, c, told := again(t, r.dir, RecordedOptions{}); c.Compared != 200 || c.Different != 0 {
		t.Errorf("%+v; told:\n%s", c, told)
	}
}

func TestWhatIf(t *testing.T) {
	r := day(t)
	seed := uint64(6)
	for name, c := range map[string]struct {
		o    RecordedOptions
		want string
	}{
		"seed":     {RecordedOptions{Seed: &seed}, "seed"},
		"commands": {RecordedOptions{LeaveOutCommands: true}, "without the commands"},
		"base":     {RecordedOptions{Environ: []string{"G2G_AGENT_DATACENTER__BASE_KW_PER_PHASE=50"}}, "datacenter.base_kw_per_phase"},
		"scale":    {RecordedOptions{Environ: []string{"G2G_AGENT_MODELS__1__LIVE__SIMULATED_NUM_REPLICAS=40"}}, "models[1].live.simulated_num_replicas"},
		"noise":    {RecordedOptions{Environ: []string{"G2G_AGENT_AUGMENTATION__NOISE_FRACTION=0"}}, "augmentation.noise_fraction"},
	} {
		t.Run(name, func(t *testing.T) {
			states, got, _ := again(t, r.dir, c.o)
			if len(got.WhatIf) != 1 || got.WhatIf[0] != c.want || got.Compared != 0 || len(states) != len(r.states) {
				t.Fatalf("%+v of %d states, want a what-if of %q", got, len(states), c.want)
			}
			last := len(states) - 1
			if states[last].PowerW == r.states[last].PowerW && name != "commands" {
				t.Error("the power is as recorded")
			}
			if name == "commands" && (states[60].Models[0].BatchSize != 4 || r.states[60].Models[0].BatchSize != 8) {
				t.Error("the batch size is as commanded")
			}
			if states[last].MeasuredPowerW.A == 0 || states[last].Models[0].ObservedITLS != r.states[last].Models[0].ObservedITLS {
				t.Error("what was measured is not as recorded")
			}
		})
	}
	// What has nothing to do with states is no what-if.
	_, got, _ := again(t, r.dir, RecordedOptions{Environ: []string{"G2G_AGENT_API__LISTEN=127.0.0.1:0", "G2G_AGENT_LIVE__MAX_OUTPUT_TOKENS=7"}})
	if len(got.WhatIf) != 0 || got.Different != 0 || got.Compared == 0 {
		t.Errorf("%+v", got)
	}
}

// A disk that is too slow leaves seconds out. What comes after the gap is compared again.
func TestRecordedRunWithAGap(t *testing.T) {
	r := recordScript(t, parseScripted(t, "1/10", 4, 1), 600, func(r *scriptedRun, step int64) {
		r.wait = step < 100 || step > 250 // in between the writer does not keep up
		if step == 180 {
			r.setBatchSize("code", 16, 0)
		}
	})
	states, c, told := again(t, r.dir, RecordedOptions{})
	if c.Missing == 0 {
		t.Skip("the disk kept up")
	}
	if c.Different != 0 || c.Compared < 300 || c.Compared >= c.Steps || c.Steps+c.Missing != 600 || !strings.Contains(told, "were not recorded") {
		t.Fatalf("%+v; told:\n%s", c, told)
	}
	last := states[len(states)-1]
	if last.Seq != 599 || last.Models[1].BatchSize != 16 {
		t.Errorf("the last state is of step %d, batch size %d", last.Seq, last.Models[1].BatchSize)
	}
}

// A later segment reads alone.
func TestRecordedRunFromALaterSegment(t *testing.T) {
	r := recordScript(t, parseScripted(t, "10", 40, 20), 420, func(r *scriptedRun, step int64) {
		if step == 100 {
			r.setBatchSize("chat", 16, 0)
			if err := r.pipeline.shiftReplicas(datacenter.ShiftReplicas{ModelLabel: "code", ReplicaDelta: -4}); err != nil {
				t.Error(err)
			}
		}
	})
	if err := os.Remove(filepath.Join(r.dir, recording.SegmentName(0))); err != nil {
		t.Fatal(err)
	}
	states, c, told := again(t, r.dir, RecordedOptions{})
	if c.Different != 0 || c.Compared < 20 || c.Compared >= c.Steps || len(states) == 0 {
		t.Fatalf("%+v; told:\n%s", c, told)
	}
	if s := states[0]; s.Seq < 300 || s.Models[0].BatchSize != 16 || s.Models[1].ActiveReplicas > 16 {
		t.Errorf("it begins at step %d with batch size %d and %d replicas", s.Seq, s.Models[0].BatchSize, s.Models[1].ActiveReplicas)
	}
}

// What differs is named, with both values where the full state is near.
func TestDifferenceIsNamed(t *testing.T) {
	r := recordScript(t, parseScripted(t, "1/10", 4, 1), 250, func(r *scriptedRun, step int64) {
		if step == 105 { // behind the recording's back
			r.pipeline.batchSizes[0] = 16
		}
	})
	_, c, told := again(t, r.dir, RecordedOptions{})
	if c.Different != 250-105 || !strings.Contains(c.First, "step 105 (t=10.5 s)") ||
		!strings.Contains(c.First, "at step 200, the first full state that differs: batch_size_by_model.chat is 4, recorded 16") || strings.Count(told, "\n") != 2 {
		t.Errorf("%+v; told:\n%s", c, told)
	}
}

func TestRecordingsThatCannotBeRun(t *testing.T) {
	r := recordScript(t, parseScripted(t, "1/10", 4, 1), 20, nil)
	other := parseScripted(t, "1/5", 4, 1)
	fewer := *parseScripted(t, "1/10", 4, 1)
	fewer.Models = fewer.Models[:1]
	for name, c := range map[string]struct {
		dir string
		o   RecordedOptions
	}{
		"no directory":  {filepath.Join(r.dir, "none"), RecordedOptions{}},
		"nothing there": {t.TempDir(), RecordedOptions{}},
		"another run":   {r.dir, RecordedOptions{Read: recording.ReadOptions{RunID: "none"}}},
		"another dt":    {r.dir, RecordedOptions{Config: other}},
		"fewer models":  {r.dir, RecordedOptions{Config: &fewer}},
		"a bad key":     {r.dir, RecordedOptions{Environ: []string{"G2G_AGENT_LIVE__STAGGER_S=-1"}}},
	} {
		if s, err := SetUpRecorded(t.Context(), c.dir, c.o); !errors.Is(err, datacenter.ErrInvalidInput) {
			if s != nil {
				s.Run.Close()
			}
			t.Errorf("%s: %v", name, err)
		}
	}
}
