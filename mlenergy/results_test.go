package mlenergy

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReadResultsTakesWhatPythonTakes(t *testing.T) {
	text := "\ufeff" + `{"results": [{"success": false, "itl": [9]}], "timeline": {"steady_state_start_time": 9},
		"te\u0078t": "a \"quoted\" \\", "e": {}, "f": [], "n": [NaN, Infinity, -Infinity, 1e400, -1.5E+3, 0.0, null, true],
		"timeline": {"power": {"device_average": {"0": []}, "device_instant": {"10": [[2, 5], [1, 7]], "2": [[3, 40], [1, 10], [2, 20], [4, 99], [2, 30], [3, NaN]]}},
			"steady_state_end_time": 3, "steady_state_start_time": 1.0},
		"r\u0065sults": [
			{"itl": [0, -1, 0.5, 0, 0, 0.25, -3, 0, NaN, 0, Infinity, 0.125, 0], "success": 1},
			{"success": "yes", "itl": [2]}, {"success": [0], "itl": [3]}, {"success": {}, "itl": [4]}, {"success": "", "itl": [5]},
			{"success": 0.0, "itl": [6]}, {"success": null, "itl": [7]}, {"success": true}, {"success": true, "itl": [8], "itl": [16]}]}
	`
	got, err := ReadResults(iotest.OneByteReader(strings.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	third := 0.5 / 3.0
	if want := []float64{third, third, third, 0.25, 0.0625, 0.0625, 2, 3, 16}; !slices.Equal(got.ITLS, want) {
		t.Errorf("the latencies are %v, want %v", got.ITLS, want)
	}
	// The base is GPU 2, in order of time; its time 2 is there twice and the last value
	// counts; at 3 it has no number.
	if want := []float64{0, 1, 1, 2, 2}; !slices.Equal(got.Power.TS, want) {
		t.Errorf("the times are %v, want %v", got.Power.TS, want)
	}
	if want := []float64{17, 35, 35, 35, 35}; !slices.Equal(got.Power.PowerW, want) {
		t.Errorf("the powers are %v, want %v", got.Power.PowerW, want)
	}
}

// Numbers are the nearest doubles, whichever way they are read.
func TestNumbersAreExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	texts := []string{"0", "-0", "0.1", "1e22", "1e23", "9007199254740993", "9007199254740992e3", "123456789012345678901234567890", "0.000000000000000000000001",
		"5e-324", "1e-400", "1.7976931348623157e308", "1e309", "-1e309", "0.30000000000000004", "1763970000.123", "12E-2", "1e+2", "1e99999999999999999999", "1e-99999999999999999999"}
	for range 20000 {
		v := math.Float64frombits(rng.Uint64())
		if v-v != 0 {
			continue
		}
		texts = append(texts, strconv.FormatFloat(v, 'e', -1, 64), strconv.FormatFloat(rng.Float64(), 'g', 1+rng.IntN(20), 64),
			strconv.FormatFloat(1.7e9*rng.Float64(), 'f', rng.IntN(8), 64))
	}
	for _, text := range texts {
		want, _ := strconv.ParseFloat(text, 64)
		if got, ok := parseNumber([]byte(text)); !ok || math.Float64bits(got) != math.Float64bits(want) {
			t.Errorf("%s is read as %v (%v), want %v", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "-", "+1", "01", "-01", "1.", ".5", "1e", "1e+", "1e5.5", "0x1", "1_0", "nan", "inf", "Inf", "--1", "1-", "1e--5", "1e+-5", "NaNa"} {
		if v, ok := parseNumber([]byte(text)); ok {
			t.Errorf("%q is read as %v", text, v)
		}
	}
}

func FuzzReadResults(f *testing.F) {
	f.Add([]byte(aResult(300)))
	f.Add([]byte(`{"results": [{"success": true, "itl": [1e999, 0]}]}`))
	f.Add([]byte(`{"a": "\"\\`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := ReadResults(bytes.NewReader(raw))
		byByte, errByByte := ReadResults(iotest.OneByteReader(bytes.NewReader(raw)))
		if fmt.Sprint(err) != fmt.Sprint(errByByte) {
			t.Errorf("%v at once, %v by the byte", err, errByByte)
		}
		if err != nil {
			return
		}
		if !slices.Equal(got.ITLS, byByte.ITLS) || len(got.ITLS) == 0 || len(got.Power.TS) == 0 || len(got.Power.TS) != len(got.Power.PowerW) {
			t.Errorf("the results are %v", got)
		}
		for _, v := range got.ITLS {
			if !(v > 0) || math.IsInf(v, 0) {
				t.Errorf("a latency is %v", v)
			}
		}
	})
}

// largeResult is a results.json of n latencies with as many digits as clients measure,
// and texts of some length beside them.
func largeResult(n int) []byte {
	rng := rand.New(rand.NewPCG(3, 4))
	var b bytes.Buffer
	b.WriteString(`{"results": [`)
	const each = 500
	for i := range n / each {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"success": true, "output_text": %q, "itl": [`, strings.Repeat("some text, ", 300))
		for k := range each {
			if k > 0 {
				b.WriteString(", ")
			}
			b.WriteString(strconv.FormatFloat(0.01+0.02*rng.Float64(), 'g', -1, 64))
		}
		b.WriteString("]}")
	}
	b.WriteString(`], "timeline": {"steady_state_start_time": 0, "steady_state_end_time": 1, "power": {"device_instant": {"0": [[0, 1], [1, 1]]}}}}`)
	return b.Bytes()
}

// What is held of a file is what is wanted of it, however large it is.
func TestReadingIsBounded(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(`{"skipped": [`)
	for range 200_000 {
		b.WriteString(`{"a": 0.12345678901234567, "text": "` + "lorem ipsum" + `"},`)
	}
	b.WriteString(`0], ` + aResult(300)[1:])
	raw := b.Bytes()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := ReadResults(bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
		t.Errorf("reading %d bytes took %d bytes of memory, want at most 1 MiB", len(raw), used)
	}
}

func BenchmarkReadResults(b *testing.B) {
	raw := largeResult(400_000)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadResults(bytes.NewReader(raw)); err != nil {
			b.Fatal(err)
		}
	}
}
