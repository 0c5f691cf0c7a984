package recording

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// Header is the first line of every segment, in a frame of its own. A segment reads
// alone, so that each has all of it.
type Header struct {
	// Format is the version of the format, [Format] in what this package writes.
	Format int64
	// RunID is the run's UUID. Segments of several runs can be in one directory.
	RunID string
	// Segment is the segment's number, Second the first second that it may have lines of.
	Segment, Second int64
	StartedAt       time.Time
	// StartMs is zero of the run's clock, when step 0 was due, in Unix milliseconds.
	StartMs int64
	// ClockZeroNs are the nanoseconds from the zero of the power histories' clock to step 0:
	// with another one, times of readings are other floats.
	ClockZeroNs  int64
	AgentVersion string
	// Seed is that of the run's random numbers. It is written as text: it may be larger
	// than [MaxInteger].
	Seed uint64
	// DT is the time between steps. It is written exactly, such as "1/10".
	DT datacenter.Seconds
	// Config is the whole effective config, without secrets. ConfigSHA256 is of its bytes
	// as they stand in the line; it is set when the line is written or read.
	Config       json.RawMessage
	ConfigSHA256 string
	// Models are the labels, in config order.
	Models []string
	GPUs   []GPU
	// ClockOffsetNs are the corrections of the sources' clocks, in nanoseconds, by endpoint.
	ClockOffsetNs map[string]int64
	// Frames is how many frames of the run there were before the segment: what is cut off the
	// end of one shows in the next. It is nil where that is not told, as in a run's first.
	Frames *int64
	// InForce is what commands have left in force where the segment begins, nil in the first
	// segment of a run, where it is what the config says.
	InForce *InForce
}

// GPU is one GPU of a run.
type GPU struct {
	// GPU is its name in the other lines: endpoint and number.
	GPU        string `json:"gpu"`
	Endpoint   string `json:"endpoint"`
	GPUID      int    `json:"gpu_id"`
	Name       string `json:"name"`
	UUID       string `json:"uuid"`
	ModelLabel string `json:"model_label"`
}

// InForce is what commands have left in force of each model, in config order.
type InForce struct {
	Models []ModelInForce `json:"models"`
}

// ModelInForce is what is in force of one model. Times are those of steps, in seconds of
// the run; nil stands for no lease.
type ModelInForce struct {
	ModelLabel string `json:"model_label"`
	BatchSize  int    `json:"batch_size"`
	// BatchSizeUntilS is when the lease of the batch size ends.
	BatchSizeUntilS *float64 `json:"batch_size_until_s"`
	// ReplicaDelta is the sum of all shifts, LeasedReplicaDelta of those to be taken back at
	// ReplicaUntilS.
	ReplicaDelta       int      `json:"replica_delta"`
	LeasedReplicaDelta int      `json:"leased_replica_delta"`
	ReplicaUntilS      *float64 `json:"replica_until_s"`
	// Overdue: they could not be taken back yet.
	Overdue bool `json:"overdue"`
}

// Kind is [KindHeader].
func (*Header) Kind() Kind { return KindHeader }

// AppendJSON appends the line without the newline that ends it.
func (l *Header) AppendJSON(b []byte) []byte {
	b = appendInt(start(b, KindHeader), "format", l.Format)
	b = appendText(b, "run_id", l.RunID)
	b = appendInt(b, "segment", l.Segment)
	b = appendInt(b, "second", l.Second)
	b = appendWallTime(b, "started_at", l.StartedAt)
	b = appendInt(b, "start_ms", l.StartMs)
	b = appendInt(b, "clock_zero_ns", l.ClockZeroNs)
	b = appendText(b, "agent_version", l.AgentVersion)
	b = appendText(b, "seed", strconv.FormatUint(l.Seed, 10))
	b = appendText(b, "dt", l.DT.String())
	at := len(b) + len(`,"config":`)
	b = appendRaw(b, "config", l.Config)
	sum := sha256.Sum256(b[at:])
	b = appendText(b, "config_sha256", hex.EncodeToString(sum[:]))
	b = appendValue(b, "models", append([]string{}, l.Models...))
	b = appendValue(b, "gpus", append([]GPU{}, l.GPUs...))
	offsets := l.ClockOffsetNs
	if offsets == nil {
		offsets = map[string]int64{}
	}
	b = appendValue(b, "clock_offset_ns", offsets)
	if l.Frames != nil {
		b = appendInt(b, "frames", *l.Frames)
	}
	if l.InForce != nil {
		b = appendValue(b, "in_force", l.InForce)
	}
	return append(b, '}')
}

// appendValue appends a member that always marshals.
func appendValue(b []byte, name string, v any) []byte {
	text, _ := json.Marshal(v)
	return append(member(b, name), text...)
}

func (l *Header) parse(raw []byte) error {
	var in struct {
		Format        *int64           `json:"format"`
		RunID         *string          `json:"run_id"`
		Segment       *int64           `json:"segment"`
		Second        *int64           `json:"second"`
		StartedAt     *time.Time       `json:"started_at"`
		StartMs       *int64           `json:"start_ms"`
		ClockZeroNs   *int64           `json:"clock_zero_ns"`
		AgentVersion  *string          `json:"agent_version"`
		Seed          *string          `json:"seed"`
		DT            *string          `json:"dt"`
		Config        json.RawMessage  `json:"config"`
		ConfigSHA256  *string          `json:"config_sha256"`
		Models        []string         `json:"models"`
		GPUs          []GPU            `json:"gpus"`
		ClockOffsetNs map[string]int64 `json:"clock_offset_ns"`
		Frames        *int64           `json:"frames"`
		InForce       *InForce         `json:"in_force"`
	}
	if err := decode(raw, &in); err != nil {
		return err
	}
	var f fault
	if format := f.integer("format", in.Format, 1); format > Format {
		return fmt.Errorf("format is %d, and this version reads up to %d: use a later version of g2g-agent", format, Format)
	}
	*l = Header{
		Format: f.integer("format", in.Format, 1), RunID: f.text("run_id", in.RunID), Segment: f.integer("segment", in.Segment, 0), Second: f.integer("second", in.Second, 0),
		StartMs: f.integer("start_ms", in.StartMs, -MaxInteger), ClockZeroNs: f.integer("clock_zero_ns", in.ClockZeroNs, -MaxInteger), AgentVersion: f.text("agent_version", in.AgentVersion),
		Config: f.raw("config", in.Config), ConfigSHA256: f.text("config_sha256", in.ConfigSHA256), Models: in.Models, GPUs: in.GPUs, ClockOffsetNs: in.ClockOffsetNs, InForce: in.InForce,
	}
	if in.Models == nil || in.GPUs == nil || in.ClockOffsetNs == nil {
		f.say("models, gpus or clock_offset_ns is missing")
	}
	if in.Frames != nil {
		frames := f.integer("frames", in.Frames, 0)
		l.Frames = &frames
	}
	if in.StartedAt != nil {
		l.StartedAt = *in.StartedAt
	}
	var err error
	if l.Seed, err = strconv.ParseUint(f.text("seed", in.Seed), 10, 64); err != nil {
		f.say("seed is no whole number from 0 to 2^64 - 1")
	}
	if l.DT, err = datacenter.ParseSeconds(f.text("dt", in.DT)); err != nil || l.DT.IsZero() {
		f.say("dt is no number of seconds above 0 such as \"1/10\"")
	}
	if sum := sha256.Sum256(in.Config); f.err == nil && hex.EncodeToString(sum[:]) != l.ConfigSHA256 {
		f.say("config_sha256 is not that of config")
	}
	return f.err
}
