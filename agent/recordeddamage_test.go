package agent

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/recording"
)

// What is damaged can be what a command changed: from the next full state on the states
// are compared again, and are equal.
func TestRecordedRunWithADamagedCommand(t *testing.T) {
	r := recordScript(t, parseScripted(t, "1/10", 4, 1), 400, func(r *scriptedRun, step int64) {
		if step == 105 {
			r.setBatchSize("chat", 16, 0)
			if err := r.pipeline.shiftReplicas(datacenter.ShiftReplicas{ModelLabel: "code", ReplicaDelta: -4}); err != nil {
				t.Error(err)
			}
		}
	})
	path := filepath.Join(r.dir, recording.SegmentName(0))
	segment, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	decoder, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	magic := []byte{0x28, 0xb5, 0x2f, 0xfd}
	damaged, at := 0, 0
	for frame := range bytes.SplitSeq(segment, magic) {
		content, err := decoder.DecodeAll(slices.Concat(magic, frame), nil)
		if err == nil && bytes.Contains(content, []byte(recording.TopicApplied)) {
			segment[at+len(frame)/2] ^= 0x40
			damaged++
		}
		at += len(frame) + len(magic)
	}
	if err := os.WriteFile(path, segment, 0o600); err != nil {
		t.Fatal(err)
	}
	states, c, told := again(t, r.dir, RecordedOptions{})
	if damaged == 0 || c.Different != 0 || c.Compared < 250 || len(states) != 400 {
		t.Fatalf("%d frames were damaged: %+v; told:\n%s", damaged, c, told)
	}
	if last := states[399].Models; last[0].BatchSize != 16 || last[1].ActiveReplicas != 16 {
		t.Errorf("in the end the batch size is %d and %d replicas are active", last[0].BatchSize, last[1].ActiveReplicas)
	}
}

// Going far ahead can be ended: a recording may claim any step.
func TestGoingFarAheadEnds(t *testing.T) {
	r := recordScript(t, parseScripted(t, "1/10", 4, 1), 20, nil)
	ctx, cancel := context.WithCancel(t.Context())
	setup, err := SetUpRecorded(ctx, r.dir, RecordedOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer setup.Run.Close()
	cancel()
	if err := setup.Run.goTo(1 << 53); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// A header that does not agree with its own config is refused.
func TestHeaderWithAnotherConfig(t *testing.T) {
	c := parseScripted(t, "1/10", 4, 1)
	fewer := *c
	fewer.Models = c.Models[:1]
	effective, err := fewer.Effective()
	if err != nil {
		t.Fatal(err)
	}
	h := &recording.Header{DT: c.DT, Models: []string{"chat", "code"}, Config: effective}
	if _, err := setUpRecorded(nil, &recordedSecond{header: h}, RecordedOptions{Config: c}); !errors.Is(err, datacenter.ErrInvalidInput) ||
		!strings.Contains(err.Error(), "names 2 models, and its config has 1") {
		t.Errorf("%v", err)
	}
}
