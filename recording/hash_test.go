package recording

import (
	"encoding/binary"
	"math"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func liveState() *datacenter.State {
	return &datacenter.State{
		Seq: 170, TimeS: 17, WallTime: wall(), Source: datacenter.SourceLive,
		PowerW: datacenter.ThreePhase{A: 1, B: 2, C: 3}, MeasuredPowerW: datacenter.ThreePhase{A: 4, B: 5, C: 6},
		FreeGPUs: datacenter.FreeGPUs{N: 7, Known: true},
		Models: []datacenter.ModelState{{
			ModelLabel: "a", PowerW: 8, ActiveReplicas: 9, BatchSize: 10, AchievedBatchSize: 11, ObservedITLS: 12,
			PhaseShare: datacenter.ThreePhase{A: 13, B: 14, C: 15},
			Live: datacenter.LiveModelState{
				MeasuredPowerW: 16, AugmentationFactor: 17,
				Server:          &datacenter.ServerLoad{NumRequestsRunning: 18, NumRequestsWaiting: 19, KVCacheUsagePerc: 20, NumPreemptionsTotal: math.NaN()},
				ITLPercentilesS: datacenter.ITLPercentiles{P50: 21, P90: 22, P95: 23, P99: 24},
				Stale:           true, StaleAgeS: 25,
			},
		}, {ModelLabel: "b", ObservedITLS: math.NaN()}},
	}
}

// words are little-endian: whole numbers as such, floats as their bits, nil for what is missing.
func words(values ...any) []byte {
	var b []byte
	for _, v := range values {
		switch v := v.(type) {
		case int:
			b = binary.LittleEndian.AppendUint64(b, uint64(v))
		case float64:
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
		case nil:
			b = binary.LittleEndian.AppendUint64(b, 0x7ff8000000000000)
		}
	}
	return b
}

// The canonical bytes are those of the format, in its order.
func TestCanonicalBytes(t *testing.T) {
	live := liveState()
	replay := liveState()
	replay.Source = datacenter.SourceReplay
	common := words(170, 17.0, 1.0, 2.0, 3.0,
		8.0, 10, 9, 12.0, 13.0, 14.0, 15.0,
		0.0, 0, 0, nil, 0.0, 0.0, 0.0)
	more := words(4.0, 5.0, 6.0,
		16.0, 17.0, 18.0, 19.0, 20.0, nil, 21.0, 22.0, 23.0, 24.0, 25.0,
		0.0, 0.0, nil, nil, nil, nil, 0.0, 0.0, 0.0, 0.0, nil)
	for name, c := range map[string]struct {
		state *datacenter.State
		want  []byte
	}{"replay": {replay, common}, "live": {live, append(append([]byte{}, common...), more...)}} {
		if got := AppendCanonical(nil, c.state); string(got) != string(c.want) {
			t.Errorf("%s: got\n%x\nwant\n%x", name, got, c.want)
		}
		if got, want := HashOf(c.state), Hash(xxhash.Sum64(c.want)); got != want {
			t.Errorf("%s: the hash is %v, want %v", name, got, want)
		}
	}
	// So that nothing changes all of it together.
	if got, want := HashOf(live).String(), goldenHash; got != want {
		t.Errorf("the hash of format 1 is %s, want %s", got, want)
	}
}

const goldenHash = "4feb36f1cffc3bef"

// All NaN are one, and the time of day is in no hash; what was computed is.
func TestHashIsOfWhatWasComputed(t *testing.T) {
	want := HashOf(liveState())
	same := liveState()
	same.WallTime = wall().Add(time.Second)
	same.Models[1].ObservedITLS = math.Float64frombits(0xfff8000000000123)
	same.Models[0].AchievedBatchSize = 99 // a later member
	if got := HashOf(same); got != want {
		t.Errorf("the same state has the hashes %v and %v", got, want)
	}
	for name, change := range map[string]func(*datacenter.State){
		"last bit of a power": func(s *datacenter.State) { s.PowerW.A = math.Nextafter(s.PowerW.A, 2) },
		"sign of zero":        func(s *datacenter.State) { s.Models[1].PowerW = math.Copysign(0, -1) },
		"batch size":          func(s *datacenter.State) { s.Models[0].BatchSize++ },
		"staleness":           func(s *datacenter.State) { s.Models[0].Live.Stale = false },
		"server":              func(s *datacenter.State) { s.Models[0].Live.Server = nil },
	} {
		other := liveState()
		if change(other); HashOf(other) == want {
			t.Errorf("another %s has the same hash", name)
		}
	}
}

func TestHashIsReadAsWritten(t *testing.T) {
	for _, h := range []Hash{0, 1, 0x8a1fb0c3d2e4f596, math.MaxUint64} {
		if got, err := ParseHash(h.String()); err != nil || got != h || len(h.String()) != 16 {
			t.Errorf("%s is read as %v, %v", h, got, err)
		}
	}
	for _, text := range []string{"", "12", "8a1fb0c3d2e4f59", "8a1fb0c3d2e4f596a", "zzzzzzzzzzzzzzzz"} {
		if _, err := ParseHash(text); err == nil {
			t.Errorf("%q is read", text)
		}
	}
}
