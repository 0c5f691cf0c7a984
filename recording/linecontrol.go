package recording

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// Command is a command as it was received, and what came of it.
type Command struct {
	// Seq is the step before which it was applied, TimeS that step's time in seconds.
	Seq      int64
	TimeS    float64
	WallTime time.Time
	Actor    Actor
	// IdempotencyKey is empty where there was none.
	IdempotencyKey string
	// Body is the command as it was received, Results what was answered, by model.
	Body, Results json.RawMessage
}

// Actor is where a command came from.
type Actor struct {
	// Via is "api", "script", "lease" or "controller".
	Via string `json:"via"`
	// Address and Role are those of a client of the API.
	Address string `json:"address,omitempty"`
	Role    string `json:"role,omitempty"`
}

// Kind is [KindCommand].
func (*Command) Kind() Kind { return KindCommand }

// AppendJSON appends the line without the newline that ends it.
func (l *Command) AppendJSON(b []byte) []byte {
	b = appendInt(start(b, KindCommand), "seq", l.Seq)
	b = appendFloat(b, "time_s", l.TimeS)
	b = appendWallTime(b, "wall_time", l.WallTime)
	actor, _ := json.Marshal(l.Actor) // text always marshals
	b = append(member(b, "actor"), actor...)
	b = append(member(b, "idempotency_key"), "null"...)
	if l.IdempotencyKey != "" {
		b = appendString(b[:len(b)-len("null")], l.IdempotencyKey)
	}
	b = appendRaw(b, "body", l.Body)
	b = appendRaw(b, "results", l.Results)
	return append(b, '}')
}

func (l *Command) parse(raw []byte) error {
	var in struct {
		Seq            *int64          `json:"seq"`
		TimeS          number          `json:"time_s"`
		WallTime       *time.Time      `json:"wall_time"`
		Actor          *Actor          `json:"actor"`
		IdempotencyKey *string         `json:"idempotency_key"`
		Body           json.RawMessage `json:"body"`
		Results        json.RawMessage `json:"results"`
	}
	if err := decode(raw, &in); err != nil {
		return err
	}
	var f fault
	*l = Command{
		Seq: f.integer("seq", in.Seq, 0), TimeS: f.number("time_s", in.TimeS),
		Body: f.raw("body", in.Body), Results: f.raw("results", in.Results),
	}
	if in.Actor == nil {
		f.say("actor is missing")
	} else {
		l.Actor = *in.Actor
	}
	if in.WallTime != nil {
		l.WallTime = *in.WallTime
	}
	if in.IdempotencyKey != nil {
		l.IdempotencyKey = *in.IdempotencyKey
	}
	return f.err
}

// Event is something that happened at a step, as /v1/events tells it.
type Event struct {
	// Seq is the step it happened before, TimeS that step's time in seconds.
	Seq int64
	// ID numbers the events of a start of the agent from 0; the writer's own have none, -1.
	ID       int64
	WallTime time.Time
	TimeS    float64
	Topic    string
	Data     json.RawMessage
}

// Kind is [KindEvent].
func (*Event) Kind() Kind { return KindEvent }

// AppendJSON appends the line without the newline that ends it.
func (l *Event) AppendJSON(b []byte) []byte {
	b = appendInt(start(b, KindEvent), "seq", l.Seq)
	if l.ID < 0 {
		b = append(member(b, "id"), "null"...)
	} else {
		b = appendInt(b, "id", l.ID)
	}
	b = appendWallTime(b, "wall_time", l.WallTime)
	b = appendFloat(b, "time_s", l.TimeS)
	b = appendText(b, "topic", l.Topic)
	b = appendRaw(b, "data", l.Data)
	return append(b, '}')
}

func (l *Event) parse(raw []byte) error {
	var in struct {
		Seq      *int64          `json:"seq"`
		ID       *int64          `json:"id"`
		WallTime *time.Time      `json:"wall_time"`
		TimeS    number          `json:"time_s"`
		Topic    *string         `json:"topic"`
		Data     json.RawMessage `json:"data"`
	}
	if err := decode(raw, &in); err != nil {
		return err
	}
	var f fault
	*l = Event{
		Seq: f.integer("seq", in.Seq, 0), ID: -1, TimeS: f.number("time_s", in.TimeS),
		Topic: f.text("topic", in.Topic), Data: f.raw("data", in.Data),
	}
	if in.ID != nil {
		l.ID = f.integer("id", in.ID, 0)
	}
	if in.WallTime != nil {
		l.WallTime = *in.WallTime
	}
	return f.err
}

// TopicGap is the topic of the event that marks seconds which are missing.
const TopicGap = "recording.gap"

// Gap is the data of such an event.
type Gap struct {
	// FirstSecond and LastSecond are missing, and all between them.
	FirstSecond int64 `json:"first_second"`
	LastSecond  int64 `json:"last_second"`
	// Cause says why, such as "the disk is too slow".
	Cause string `json:"cause"`
	// LostCommands and LostEvents are of that time those that memory could not hold
	// until they could be written.
	LostCommands int64 `json:"lost_commands,omitempty"`
	LostEvents   int64 `json:"lost_events,omitempty"`
}

// Gap is what an event of [TopicGap] tells, false for any other event.
func (l *Event) Gap() (gap Gap, is bool) {
	if l.Topic != TopicGap || json.Unmarshal(l.Data, &gap) != nil {
		return Gap{}, false
	}
	return gap, true
}

// State is a full state.
type State struct{ State *datacenter.State }

// Kind is [KindState].
func (*State) Kind() Kind { return KindState }

// AppendJSON appends the line without the newline that ends it: the state's own JSON,
// after its kind.
func (l *State) AppendJSON(b []byte) []byte {
	b = append(start(b, KindState), ',')
	at := len(b)
	b = l.State.AppendJSON(b)
	return append(b[:at], b[at+1:]...) // without its brace
}

func (l *State) parse(raw []byte) error {
	l.State = &datacenter.State{}
	if err := json.Unmarshal(raw, l.State); err != nil {
		return err
	}
	if l.State.Seq < 0 || l.State.Seq > MaxInteger {
		return fmt.Errorf("seq is %d, want a number from 0 to 2^53", l.State.Seq)
	}
	return nil
}

// StateHash has the hashes of all states of a second, and how late its steps began.
type StateHash struct {
	Second int64
	// Seq is the number of its first step, WallMs when that one was due by the wall
	// clock, in Unix milliseconds.
	Seq, WallMs int64
	// LateUs are for each step the microseconds that it began after it was due.
	LateUs []int64
	// Hash are the states' hashes, see [HashOf].
	Hash []Hash
}

// Kind is [KindStateHash].
func (*StateHash) Kind() Kind { return KindStateHash }

// AppendJSON appends the line without the newline that ends it.
func (l *StateHash) AppendJSON(b []byte) []byte {
	b = appendInt(start(b, KindStateHash), "second", l.Second)
	b = appendInt(b, "seq", l.Seq)
	b = appendInt(b, "wall_ms", l.WallMs)
	b = appendColumn(b, "late_us", l.LateUs)
	b = append(member(b, "hash"), '[')
	for i, h := range l.Hash {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(h.append(append(b, '"')), '"')
	}
	return append(b, "]}"...)
}

func (l *StateHash) parse(raw []byte) error {
	var in struct {
		Second *int64   `json:"second"`
		Seq    *int64   `json:"seq"`
		WallMs *int64   `json:"wall_ms"`
		LateUs []int64  `json:"late_us"`
		Hash   []string `json:"hash"`
	}
	if err := decode(raw, &in); err != nil {
		return err
	}
	var f fault
	*l = StateHash{
		Second: f.integer("second", in.Second, 0), Seq: f.integer("seq", in.Seq, 0), WallMs: f.integer("wall_ms", in.WallMs, -MaxInteger),
		LateUs: f.column("late_us", in.LateUs, -MaxInteger),
	}
	if in.Hash == nil {
		f.say("hash is missing")
	}
	l.Hash = make([]Hash, len(in.Hash))
	for i, text := range in.Hash {
		h, err := ParseHash(text)
		if err != nil {
			f.say("hash[%d]: %w", i, err)
		}
		l.Hash[i] = h
	}
	f.sameLength("late_us", len(l.LateUs), "hash", len(l.Hash))
	if len(l.Hash) == 0 {
		f.say("hash is empty: want one for each step of the second, at least 1")
	}
	return f.err
}

// End is the last line of a run that ended in order.
type End struct {
	// Seq is the number of the last step, −1 if there was none.
	Seq int64
	// Reason says why the run ended.
	Reason string
	// Frames are those that the run wrote, before the one of this line.
	Frames int64
	// DroppedSeconds were not written.
	DroppedSeconds int64
}

// Kind is [KindEnd].
func (*End) Kind() Kind { return KindEnd }

// AppendJSON appends the line without the newline that ends it.
func (l *End) AppendJSON(b []byte) []byte {
	b = appendInt(start(b, KindEnd), "seq", l.Seq)
	b = appendText(b, "reason", l.Reason)
	b = appendInt(b, "frames", l.Frames)
	b = appendInt(b, "dropped_seconds", l.DroppedSeconds)
	return append(b, '}')
}

func (l *End) parse(raw []byte) error {
	var in struct {
		Seq            *int64  `json:"seq"`
		Reason         *string `json:"reason"`
		Frames         *int64  `json:"frames"`
		DroppedSeconds *int64  `json:"dropped_seconds"`
	}
	if err := decode(raw, &in); err != nil {
		return err
	}
	var f fault
	*l = End{
		Seq: f.integer("seq", in.Seq, -1), Reason: f.text("reason", in.Reason),
		Frames: f.integer("frames", in.Frames, 0), DroppedSeconds: f.integer("dropped_seconds", in.DroppedSeconds, 0),
	}
	return f.err
}
