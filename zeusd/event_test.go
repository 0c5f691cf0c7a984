package zeusd

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var allowInternals = gocmp.Options{gocmp.AllowUnexported(powerEvent{}, devicePower{}), cmpopts.EquateNaNs()}

func TestParseEvent(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		kind Kind
		raw  string
		want []devicePower
	}{
		{GPU, `{"timestamp_ms":7,"gpu_id":0,"power_mw":75000}`, []devicePower{{index: 0, powerMW: 75000}}},
		{GPU, ` { "power_mw" : 75000.5 , "gpu_id": 3, "timestamp_ms": 7, "x": [1,{"y":null}] } `, []devicePower{{index: 3, powerMW: 75000.5}}},
		{GPU, `{"timestamp_ms":7,"power_mw":{"0":75000, "11": 0}}`, []devicePower{{index: 0, powerMW: 75000}, {index: 11}}},
		{GPU, `{"timestamp_ms":7,"gpu_id":1,"power_mw":4294967295}`, []devicePower{{index: 1, powerMW: 4294967295}}},
		{GPU, `{"timestamp_ms":7,"\u0067pu_id":1,"power_mw":5}`, []devicePower{{index: 1, powerMW: 5}}},
		{GPU, `{"timestamp_ms":7,"power_mw":{}}`, nil},
		{CPU, `{"timestamp_ms":7,"power_mw":{ }, "x":1}`, nil},
		{CPU, `{"timestamp_ms":7,"cpu_id":1,"cpu_mw":85000,"dram_mw":12000}`, []devicePower{{1, 85000, 12000, true}}},
		{CPU, `{"timestamp_ms":7,"cpu_id":1,"cpu_mw":85000,"dram_mw":null}`, []devicePower{{1, 85000, 0, false}}},
		{CPU, `{"timestamp_ms":7,"cpu_id":1,"cpu_mw":85000}`, []devicePower{{1, 85000, 0, false}}},
		{GPU, `{"timestamp_ms":7.0,"gpu_id":0e0,"power_mw":1e12}`, []devicePower{{index: 0, powerMW: 1e12}}},
		{GPU, `{"timestamp_ms":0.7e1,"power_mw":{"0":75000,"1":null,"2":"5","3":-1,"4":18446744073709551615,"5":1e999,"6":{},"7":true}}`, []devicePower{
			{index: 0, powerMW: 75000}, {index: 1, powerMW: nan}, {index: 2, powerMW: nan}, {index: 3, powerMW: -1},
			{index: 4, powerMW: 1 << 64}, {index: 5, powerMW: nan}, {index: 6, powerMW: nan}, {index: 7, powerMW: nan},
		}},
		{GPU, `{"timestamp_ms":7,"gpu_id":1}`, []devicePower{{index: 1, powerMW: nan}}},
		{GPU, `{"timestamp_ms":7,"gpu_id":1,"power_mw":null}`, []devicePower{{index: 1, powerMW: nan}}},
		{CPU, `{"timestamp_ms":7,"cpu_id":1}`, []devicePower{{index: 1, powerMW: nan}}},
		{CPU, `{"timestamp_ms":7,"cpu_id":1,"cpu_mw":5,"dram_mw":-5}`, []devicePower{{index: 1, powerMW: 5}}},
		{CPU, `{"timestamp_ms":7,"power_mw":{"0":5,"1":{"cpu_mw":3,"dram_mw":"x"}}}`, []devicePower{{index: 0, powerMW: nan}, {index: 1, powerMW: 3}}},
		{CPU, `{"timestamp_ms":7,"power_mw":{"0":{"cpu_mw":1,"dram_mw":2},"1":{"dram_mw":null,"cpu_mw":3}}}`, []devicePower{{0, 1, 2, true}, {1, 3, 0, false}}},
	} {
		var e powerEvent
		if err := e.parse(c.kind, []byte(c.raw)); err != nil {
			t.Error(err)
		}
		sortDevices(e.devices)
		if diff := gocmp.Diff(powerEvent{7, c.want}, e, allowInternals); diff != "" {
			t.Errorf("%s: %s", c.raw, diff)
		}
	}
}

func sortDevices(d []devicePower) {
	slices.SortFunc(d, func(a, b devicePower) int { return cmp.Compare(a.index, b.index) })
}

func TestParseEventErrors(t *testing.T) {
	for _, c := range []struct {
		kind      Kind
		raw, says string
	}{
		{GPU, ``, "unexpected end"},
		{GPU, `null`, "has no timestamp_ms"},
		{GPU, `[]`, "cannot unmarshal"},
		{GPU, `{"timestamp_ms":7,"gpu_id":0,"power_mw":75000`, "unexpected end"},
		{GPU, `{"timestamp_ms":7,"gpu_id":0,"power_mw":75000}}`, "after top-level"},
		{GPU, `{"timestamp_ms":7,"gpu_id":0,"power_mw":075}`, "invalid character"},
		{GPU, `{"gpu_id":0,"power_mw":75000}`, "has no timestamp_ms"},
		{GPU, `{"timestamp_ms":0,"gpu_id":0,"power_mw":75000}`, "timestamp_ms is 0"},
		{GPU, `{"timestamp_ms":9000000000000000,"gpu_id":0,"power_mw":1}`, "timestamp_ms is 9000000000000000"},
		{GPU, `{"timestamp_ms":7,"power_mw":75000}`, "names no device"},
		{GPU, `{"timestamp_ms":7.5,"gpu_id":0,"power_mw":1}`, "7.5 is not a whole number"},
		{GPU, `{"timestamp_ms":1e17,"gpu_id":0,"power_mw":1}`, "1e17 is not a whole number"},
		{GPU, `{"timestamp_ms":7,"gpu_id":"0","power_mw":1}`, "cannot unmarshal"},
		{GPU, `{"timestamp_ms":7,"gpu_id":-1,"power_mw":1}`, "device index is -1"},
		{GPU, `{"timestamp_ms":7,"power_mw":{"a":1}}`, `has the key "a"`},
		{GPU, `{"timestamp_ms":7,"power_mw":{"01":1}}`, `has the key "01"`},
		{GPU, `{"timestamp_ms":7,"cpu_id":0,"cpu_mw":1}`, "names no device"},
		{CPU, `{"timestamp_ms":7,"gpu_id":0,"power_mw":1}`, "names no device"},
	} {
		e := powerEvent{devices: make([]devicePower, 3)}
		err := e.parse(c.kind, []byte(c.raw))
		if err == nil || !strings.Contains(err.Error(), c.says) || len(e.devices) > 0 {
			t.Errorf("%s: %v, want an error with %q", c.raw, err, c.says)
		}
	}
	many := `{"timestamp_ms":7,"power_mw":{"0":1` + strings.Repeat(`,"1":1`, 10000) + `}}`
	var e powerEvent
	if err := e.parse(GPU, []byte(many)); err != nil || len(e.devices) != 2 {
		t.Errorf("the same key often: %d devices, %v", len(e.devices), err)
	}
}

// The fast way must agree with encoding/json on all it accepts.
func FuzzParseEvent(f *testing.F) {
	for _, seed := range []string{
		`{"timestamp_ms":1,"gpu_id":0,"power_mw":75000}`,
		`{"timestamp_ms":1,"power_mw":{"0":75000,"1":120000}}`,
		`{"timestamp_ms":1,"cpu_id":0,"cpu_mw":85000,"dram_mw":null}`,
		`{"timestamp_ms":1,"power_mw":{"0":{"cpu_mw":85000,"dram_mw":12000}}}`,
		`{"timestamp_ms":1e3,"gpu_id":0,"gpu_id":1,"power_mw":-0}`,
	} {
		f.Add(false, []byte(seed))
		f.Add(true, []byte(seed))
	}
	f.Fuzz(func(t *testing.T, cpu bool, raw []byte) {
		kind := GPU
		if cpu {
			kind = CPU
		}
		var fast, full powerEvent
		if !fast.scan(kind, &scanner{rest: raw}) {
			_ = full.parse(kind, raw)
			return
		}
		if err := full.unmarshal(kind, raw); err != nil {
			t.Fatal(err)
		}
		sortDevices(fast.devices)
		sortDevices(full.devices)
		if diff := gocmp.Diff(full, fast, allowInternals); diff != "" {
			t.Fatal(diff)
		}
	})
}
