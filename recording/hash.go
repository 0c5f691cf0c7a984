package recording

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"

	"github.com/cespare/xxhash/v2"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// Hash is the XXH64 of a state's canonical bytes. It is written as 16 hexadecimal digits.
type Hash uint64

// HashOf is the hash of a state, see [AppendCanonical].
func HashOf(s *datacenter.State) Hash {
	var buf [1024]byte // of a live run of up to 5 models
	return Hash(xxhash.Sum64(AppendCanonical(buf[:0], s)))
}

// String is the hash as it is written.
func (h Hash) String() string { return string(h.append(nil)) }

func (h Hash) append(b []byte) []byte {
	var bytes [8]byte
	binary.BigEndian.PutUint64(bytes[:], uint64(h))
	return hex.AppendEncode(b, bytes[:])
}

// ParseHash reads what String wrote.
func ParseHash(text string) (Hash, error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != 8 {
		return 0, fmt.Errorf("%s is no hash: want 16 hexadecimal digits", excerpt.Quote(text, 40))
	}
	return Hash(binary.BigEndian.Uint64(raw)), nil
}

// missingBits stand for NaN, of whatever payload, and for what is missing.
const missingBits = 0x7ff8000000000000

func appendBits(b []byte, values ...float64) []byte {
	for _, v := range values {
		bits := uint64(missingBits)
		if !math.IsNaN(v) {
			bits = math.Float64bits(v)
		}
		b = binary.LittleEndian.AppendUint64(b, bits)
	}
	return b
}

// AppendCanonical appends what the hash of a state is made of, by format 1: little-endian
// 64-bit words, floats as their IEEE bits, in the order that docs/recording.md has. It
// belongs to the format, not to the state's JSON: a member that the state gets later is
// not in it. wall_time is not in it either: it is no part of what was computed.
func AppendCanonical(b []byte, s *datacenter.State) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(s.Seq))
	b = appendBits(b, s.TimeS, s.PowerW.A, s.PowerW.B, s.PowerW.C)
	for i := range s.Models {
		m := &s.Models[i]
		b = appendBits(b, m.PowerW)
		b = binary.LittleEndian.AppendUint64(b, uint64(m.BatchSize))
		b = binary.LittleEndian.AppendUint64(b, uint64(m.ActiveReplicas))
		b = appendBits(b, m.ObservedITLS, m.PhaseShare.A, m.PhaseShare.B, m.PhaseShare.C)
	}
	if s.Source != datacenter.SourceLive {
		return b
	}
	b = appendBits(b, s.MeasuredPowerW.A, s.MeasuredPowerW.B, s.MeasuredPowerW.C)
	for i := range s.Models {
		m := &s.Models[i].Live
		b = appendBits(b, m.MeasuredPowerW, m.AugmentationFactor)
		if l := m.Server; l != nil {
			b = appendBits(b, l.NumRequestsRunning, l.NumRequestsWaiting, l.KVCacheUsagePerc, l.NumPreemptionsTotal)
		} else {
			nan := math.NaN()
			b = appendBits(b, nan, nan, nan, nan)
		}
		b = appendBits(b, m.ITLPercentilesS.P50, m.ITLPercentilesS.P90, m.ITLPercentilesS.P95, m.ITLPercentilesS.P99)
		staleAgeS := math.NaN()
		if m.Stale {
			staleAgeS = m.StaleAgeS
		}
		b = appendBits(b, staleAgeS)
	}
	return b
}
