package agent

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/recording"
)

// forge writes a recording of such lines, each a frame, behind a header.
func forge(t *testing.T, header *recording.Header, lines ...recording.Line) (dir string) {
	t.Helper()
	encoder, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true))
	if err != nil {
		t.Fatal(err)
	}
	defer encoder.Close()
	var raw []byte
	for _, l := range append([]recording.Line{header}, lines...) {
		raw = encoder.EncodeAll(append(l.AppendJSON(nil), '\n'), raw)
	}
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, recording.SegmentName(header.Segment)), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// recordedHeader is the header of a recording that is sound.
func recordedHeader(t *testing.T) *recording.Header {
	t.Helper()
	header, err := RecordedHeader(t.Context(), recordScript(t, parseScripted(t, "1/10", 4, 1), 20, nil).dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return header
}

// Shifts that no command can have made are refused, and do not overflow.
func TestForgedShiftsAreRefused(t *testing.T) {
	header := recordedHeader(t)
	later := *header
	later.Segment, later.Second = 1, 1
	hash := func(second int64) *recording.StateHash {
		return &recording.StateHash{Second: second, Seq: 10 * second, LateUs: []int64{0}, Hash: []recording.Hash{0}}
	}
	applied := func(delta string) *recording.Event {
		return &recording.Event{ID: -1, Topic: recording.TopicApplied, Data: json.RawMessage(`{"model_label":"code","replica_delta":` + delta + `}`)}
	}
	leased := later
	later.InForce = &recording.InForce{Models: []recording.ModelInForce{{ModelLabel: "code", BatchSize: 4, ReplicaDelta: 1 << 62}}}
	leased.InForce = &recording.InForce{Models: []recording.ModelInForce{{ModelLabel: "code", BatchSize: 4, LeasedReplicaDelta: -1 << 62}}}
	for name, dir := range map[string]string{
		"applied":    forge(t, header, applied("4611686018427387904"), hash(0)),
		"downwards":  forge(t, header, applied("-4611686018427387904"), hash(0)),
		"together":   forge(t, header, applied("2147483647"), applied("1"), hash(0)),
		"in force":   forge(t, &later, hash(1)),
		"leased too": forge(t, &leased, hash(1)),
	} {
		setup, err := SetUpRecorded(t.Context(), dir, RecordedOptions{})
		if err == nil {
			_, err = RunFast(t.Context(), setup.Run, func(*datacenter.State) error { return nil })
			setup.Run.Close()
		}
		if !errors.Is(err, datacenter.ErrInvalidInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A recording that claims to begin after 10^15 steps can be interrupted.
func TestForgedStepNumbersDoNotHang(t *testing.T) {
	const seq = 1e15
	dir := forge(t, recordedHeader(t), &recording.StateHash{Second: seq / 10, Seq: seq, LateUs: []int64{0}, Hash: []recording.Hash{0}})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := SetUpRecorded(ctx, dir, RecordedOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it says %v", err)
	}
}
