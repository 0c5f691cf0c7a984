package zeusd

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
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
	// maxPlainMW is the most that the daemon's 32 bits hold.
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
// The devices come in the order of their indices.
func (e *powerEvent) parse(kind Kind, raw []byte) error {
	e.timestampMS, e.devices = 0, e.devices[:0]
	if err := e.unmarshal(kind, raw); err != nil {
		e.devices = e.devices[:0]
		return fmt.Errorf("%s power event %.80q: %w", kind, raw, err)
	}
	slices.SortFunc(e.devices, func(a, b devicePower) int { return cmp.Compare(a.index, b.index) })
	return nil
}

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
