package zeusd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
)

// Kind says what a reading is of.
type Kind uint8

// The kinds of devices a daemon measures.
const (
	GPU Kind = iota
	CPU
)

// String returns "GPU" or "CPU".
func (k Kind) String() string {
	if k == CPU {
		return "CPU"
	}
	return "GPU"
}

const (
	// maxDevices bounds the devices of one event; hosts have some tens.
	maxDevices = 256
	// maxTimestampMS is in the year 2223, so that sums in nanoseconds fit.
	maxTimestampMS = 8_000_000_000_000
	// maxPlainMW is the most the daemon's 32 bits hold.
	maxPlainMW = 1<<32 - 1
)

// powerEvent is one event of a power stream, or one answer of get_power, in
// either wire format. parse reuses its memory.
type powerEvent struct {
	timestampMS int64
	devices     []devicePower
}

// devicePower is one device's share of a powerEvent.
type devicePower struct {
	index   int
	powerMW float64 // NaN if what stands there is no number
	dramMW  float64 // of a CPU
	hasDRAM bool
}

// parse reads an event of a stream of the kind:
//
//	{"timestamp_ms":1,"gpu_id":0,"power_mw":75000}                         GPU, since 0.5
//	{"timestamp_ms":1,"power_mw":{"0":75000}}                              GPU, before, and get_power
//	{"timestamp_ms":1,"cpu_id":0,"cpu_mw":85000,"dram_mw":null}            CPU, since 0.5
//	{"timestamp_ms":1,"power_mw":{"0":{"cpu_mw":85000,"dram_mw":12000}}}   CPU, before, and get_power
//
// A map names no device when none can be read. A power that is no number is one
// device's, and leaves the others alone; whether one can be is not asked here.
//
// The forms as daemons write them are read without allocation; whatever differs
// (unknown fields, fractions, escapes) goes through encoding/json.
func (e *powerEvent) parse(kind Kind, raw []byte) error {
	e.timestampMS, e.devices = 0, e.devices[:0]
	s := scanner{rest: raw}
	if e.scan(kind, &s) {
		return nil
	}
	e.timestampMS, e.devices = 0, e.devices[:0]
	if err := e.unmarshal(kind, raw); err != nil {
		e.devices = e.devices[:0]
		return fmt.Errorf("%s power event %.80q: %w", kind, raw, err)
	}
	return nil
}

// unmarshal is parse without shortcuts; it defines what is valid.
func (e *powerEvent) unmarshal(kind Kind, raw []byte) error {
	var msg struct {
		TimestampMS *wholeNumber    `json:"timestamp_ms"`
		GPUID       *wholeNumber    `json:"gpu_id"`
		CPUID       *wholeNumber    `json:"cpu_id"`
		PowerMW     json.RawMessage `json:"power_mw"`
		cpuPower
	}
	if err := json.Unmarshal(raw, &msg); err != nil {
		return err
	}
	if msg.TimestampMS == nil {
		return errors.New("has no timestamp_ms")
	}
	if *msg.TimestampMS <= 0 || *msg.TimestampMS > maxTimestampMS {
		return fmt.Errorf("timestamp_ms is %d, want milliseconds since 1970", *msg.TimestampMS)
	}
	e.timestampMS = int64(*msg.TimestampMS)
	switch {
	case kind == GPU && msg.GPUID != nil:
		return e.add(int(*msg.GPUID), numberOrNaN(msg.PowerMW), math.NaN())
	case kind == CPU && msg.CPUID != nil:
		return e.addCPU(int(*msg.CPUID), msg.cpuPower)
	case !bytes.HasPrefix(msg.PowerMW, []byte("{")):
		return errors.New("names no device: it has neither an id nor a map power_mw")
	}
	var byIndex map[string]json.RawMessage
	if err := json.Unmarshal(msg.PowerMW, &byIndex); err != nil {
		return err
	}
	for key, value := range byIndex {
		index, err := strconv.Atoi(key)
		if err != nil || strconv.Itoa(index) != key {
			return fmt.Errorf("power_mw has the key %q, want the index of a device", key)
		}
		if kind == GPU {
			err = e.add(index, numberOrNaN(value), math.NaN())
		} else {
			var p cpuPower
			_ = json.Unmarshal(value, &p) // what is no object has no power
			err = e.addCPU(index, p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type cpuPower struct {
	CPUMW  json.RawMessage `json:"cpu_mw"`
	DRAMMW json.RawMessage `json:"dram_mw"`
}

func (e *powerEvent) addCPU(index int, p cpuPower) error {
	dramMW := numberOrNaN(p.DRAMMW)
	if dramMW < 0 || dramMW > maxPlainMW {
		dramMW = math.NaN()
	}
	return e.add(index, numberOrNaN(p.CPUMW), dramMW)
}

// add appends a device; dramMW is NaN where it is not measured.
func (e *powerEvent) add(index int, powerMW, dramMW float64) error {
	switch {
	case index < 0 || index > maxIndex:
		return fmt.Errorf("device index is %d, want 0 to %d", index, maxIndex)
	case len(e.devices) == maxDevices:
		return fmt.Errorf("more than %d devices", maxDevices)
	}
	d := devicePower{index: index, powerMW: powerMW}
	if !math.IsNaN(dramMW) {
		d.dramMW, d.hasDRAM = dramMW, true
	}
	e.devices = append(e.devices, d)
	return nil
}

// numberOrNaN is what stands in JSON if that is a number, NaN if it is anything
// else or beyond what a float64 holds.
func numberOrNaN(raw json.RawMessage) float64 {
	var number *float64
	if len(raw) == 0 || json.Unmarshal(raw, &number) != nil || number == nil {
		return math.NaN()
	}
	return *number
}

// wholeNumber is an integer in JSON however it is spelled: 5, 5.0, 5e0.
type wholeNumber int64

// UnmarshalJSON implements [json.Unmarshaler].
func (n *wholeNumber) UnmarshalJSON(raw []byte) error {
	if whole, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		*n = wholeNumber(whole)
		return nil
	}
	var number float64
	if err := json.Unmarshal(raw, &number); err != nil {
		return err
	}
	if number != math.Trunc(number) || math.Abs(number) >= 1<<53 {
		return fmt.Errorf("%s is not a whole number", raw)
	}
	*n = wholeNumber(number)
	return nil
}

// Fields met by scan, as bits: one met twice is not for the fast way.
const (
	fieldTimestamp = 1 << iota
	fieldGPUID
	fieldCPUID
	fieldPower
	fieldCPUPower
	fieldDRAMPower
)

// scan is parse for the forms as daemons write them. It returns false for all
// else, valid or not, and leaves e in any state.
func (e *powerEvent) scan(kind Kind, s *scanner) bool {
	if !s.take('{') {
		return false
	}
	var one devicePower
	var met int
	var inMap bool
	for {
		key, ok := s.key()
		if !ok {
			return false
		}
		var field int
		switch string(key) {
		case "timestamp_ms":
			field = fieldTimestamp
			e.timestampMS, ok = s.integer()
		case "gpu_id":
			field = fieldGPUID
			one.index, ok = s.index()
		case "cpu_id":
			field = fieldCPUID
			one.index, ok = s.index()
		case "power_mw":
			field = fieldPower
			if inMap = s.peek() == '{'; inMap {
				ok = e.scanMap(kind, s)
			} else {
				one.powerMW, ok = s.power()
			}
		case "cpu_mw":
			field = fieldCPUPower
			one.powerMW, ok = s.power()
		case "dram_mw":
			field = fieldDRAMPower
			one.dramMW, one.hasDRAM, ok = s.powerOrNull()
		default:
			return false
		}
		if !ok || met&field != 0 {
			return false
		}
		met |= field
		if s.take(',') {
			continue
		}
		if !s.take('}') || !s.atEnd() {
			return false
		}
		break
	}
	if e.timestampMS <= 0 || e.timestampMS > maxTimestampMS {
		return false
	}
	switch {
	case inMap && met == fieldTimestamp|fieldPower:
		return true
	case inMap:
		return false
	case kind == GPU && met == fieldTimestamp|fieldGPUID|fieldPower,
		kind == CPU && met&^fieldDRAMPower == fieldTimestamp|fieldCPUID|fieldCPUPower:
		e.devices = append(e.devices, one)
		return true
	}
	return false
}

// scanMap reads the object from index to power.
func (e *powerEvent) scanMap(kind Kind, s *scanner) bool {
	if !s.take('{') {
		return false
	}
	if s.take('}') {
		return true
	}
	for {
		key, ok := s.key()
		if !ok {
			return false
		}
		ks := scanner{rest: key}
		var d devicePower
		if d.index, ok = ks.index(); !ok || len(ks.rest) > 0 {
			return false
		}
		if kind == GPU {
			d.powerMW, ok = s.power()
		} else {
			ok = d.scanCPU(s)
		}
		if !ok || len(e.devices) == maxDevices {
			return false
		}
		for i := range e.devices {
			if e.devices[i].index == d.index {
				return false
			}
		}
		e.devices = append(e.devices, d)
		if !s.take(',') {
			return s.take('}')
		}
	}
}

// scanCPU reads {"cpu_mw":85000,"dram_mw":null}.
func (d *devicePower) scanCPU(s *scanner) bool {
	if !s.take('{') {
		return false
	}
	key, ok := s.key()
	if !ok || string(key) != "cpu_mw" {
		return false
	}
	if d.powerMW, ok = s.power(); !ok {
		return false
	}
	if s.take(',') {
		if key, ok = s.key(); !ok || string(key) != "dram_mw" {
			return false
		}
		if d.dramMW, d.hasDRAM, ok = s.powerOrNull(); !ok {
			return false
		}
	}
	return s.take('}')
}

// scanner walks over plain JSON: its methods take what they name, with blanks
// before it, and return false for all they do not know.
type scanner struct{ rest []byte }

func (s *scanner) peek() byte {
	for i, c := range s.rest {
		if c != ' ' && c != '\n' && c != '\r' && c != '\t' {
			s.rest = s.rest[i:]
			return c
		}
	}
	s.rest = nil
	return 0
}

func (s *scanner) take(c byte) bool {
	if s.peek() != c || len(s.rest) == 0 {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

func (s *scanner) atEnd() bool {
	s.peek()
	return len(s.rest) == 0
}

// key takes a string of lower-case letters, digits and underscores, and the
// colon after it.
func (s *scanner) key() ([]byte, bool) {
	if !s.take('"') {
		return nil, false
	}
	for i, c := range s.rest {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '_':
		case c == '"':
			key := s.rest[:i]
			s.rest = s.rest[i+1:]
			return key, s.take(':')
		default:
			return nil, false
		}
	}
	return nil, false
}

// integer takes a number of up to 15 digits, which a float64 holds exactly.
func (s *scanner) integer() (int64, bool) {
	first := s.peek()
	var n int64
	i := 0
	for i < len(s.rest) && '0' <= s.rest[i] && s.rest[i] <= '9' {
		if i == 15 {
			return 0, false
		}
		n = n*10 + int64(s.rest[i]-'0')
		i++
	}
	if i == 0 || first == '0' && i > 1 {
		return 0, false
	}
	s.rest = s.rest[i:]
	return n, true
}

func (s *scanner) index() (int, bool) {
	n, ok := s.integer()
	return int(n), ok && n <= maxIndex
}

func (s *scanner) power() (float64, bool) {
	n, ok := s.integer()
	return float64(n), ok && n <= maxPlainMW
}

func (s *scanner) powerOrNull() (powerMW float64, there, ok bool) {
	if s.peek() == 'n' {
		rest, ok := bytes.CutPrefix(s.rest, []byte("null"))
		s.rest = rest
		return 0, false, ok
	}
	powerMW, ok = s.power()
	return powerMW, ok, ok
}
