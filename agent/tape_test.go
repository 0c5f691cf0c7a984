package agent

import (
	"fmt"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/recording"
	"github.com/g2g-agent/g2g-agent/rig"
)

// countingRecorder counts what steps tell it.
type countingRecorder struct {
	Recorder
	power, itl, metrics int
}

func (*countingRecorder) BeginStep(_, _, _ int64)           {}
func (r *countingRecorder) Power(int, recording.PowerEntry) { r.power++ }
func (r *countingRecorder) ITL(*recording.ITL)              { r.itl++ }
func (r *countingRecorder) Metrics(*recording.Metrics)      { r.metrics++ }

// What a step tells costs it no memory.
func TestTapeAllocatesNothing(t *testing.T) {
	const gpus = 64
	dt, err := datacenter.ParseSeconds("1/10")
	if err != nil {
		t.Fatal(err)
	}
	r := &countingRecorder{}
	start := time.Now()
	tp := &tape{
		to: r, labels: []string{"m"}, startMs: start.UnixMilli(), loads: make([][]loadSeen, 1), power: make([]powerSeen, gpus), dt: dt, stale: 2 * time.Second,
	}
	entries := make([]rig.FeedEntry, 2*gpus)
	came := &loadgen.StepITL{Count: 3, SumNs: 30, Output: 3, Bins: []int64{4, 9}, Counts: []int64{1, 2}}
	load := &datacenter.ServerLoad{NumRequestsRunning: 4}
	step := int64(0)
	one := func() {
		now := dueAfter(dt, step)
		for i := range entries {
			entries[i] = rig.FeedEntry{GPU: i % (gpus - 1), At: now, PowerMW: 100, StampMs: start.UnixMilli() + now.Milliseconds()}
		}
		tp.begin(step, start.Add(now), now, entries)
		tp.observe(step, 0, came, []rig.LoadReading{{At: start.Add(now), Load: load}})
		step++
	}
	one()
	if allocs := testing.AllocsPerRun(300, one); allocs > 0 {
		t.Errorf("a step allocates %v times", allocs)
	}
	if n := int(step); r.power != 2*gpus*n || r.itl != n || r.metrics != n {
		t.Errorf("%d steps told of %d readings, %d latencies and %d metrics", step, r.power, r.itl, r.metrics)
	}
}

// A GPU's power is told to be stale when it is, again every 10 s, and to be fresh again.
func TestTapeMarks(t *testing.T) {
	dt, err := datacenter.ParseSeconds("1")
	if err != nil {
		t.Fatal(err)
	}
	var marks []string
	r := &markRecorder{marks: &marks}
	tp := &tape{to: r, startMs: 1000, power: make([]powerSeen, 3), dt: dt, stale: 2 * time.Second}
	for step := range int64(40) {
		now := dueAfter(dt, step)
		var entries []rig.FeedEntry
		if step < 5 || step > 29 {
			entries = append(entries, rig.FeedEntry{GPU: 1, At: now, PowerMW: 7, Confirmation: step == 2})
		}
		if step == 3 {
			entries = append(entries, rig.FeedEntry{GPU: 0, At: now, Lost: true})
		}
		r.step = step
		tp.begin(step, time.Now(), now, entries)
	}
	got := ""
	for _, m := range marks {
		got += m + " "
	}
	const want = "1r0 1r1 1c2 1r3 0l3 1r4 1s6 1s10 1s20 1f30 1r31 1r32 1r33 1r34 1r35 1r36 1r37 1r38 1r39 "
	if got != want {
		t.Errorf("the marks are\n%s, want\n%s", got, want)
	}
}

// markRecorder notes GPU, mark and step of each entry.
type markRecorder struct {
	countingRecorder
	step  int64
	marks *[]string
}

func (r *markRecorder) Power(gpu int, e recording.PowerEntry) {
	*r.marks = append(*r.marks, fmt.Sprintf("%d%c%d", gpu, e.Mark, r.step))
}
