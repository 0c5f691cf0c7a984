package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var endings = []string{csvEnding, jsonlEnding, parquetEnding}

// sameBits compares floats by their bits, so that NaN equals NaN and -0 is not 0.
var sameBits = cmp.Options{
	cmp.Comparer(func(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }),
	cmpopts.EquateEmpty(),
}

func newWriter(t testing.TB, w io.Writer, ending string, models []string) (writer, error) {
	t.Helper()
	format, err := formatOf("out" + ending)
	if err != nil {
		t.Fatal(err)
	}
	return format.newWriter(w, models)
}

func encode(t testing.TB, ending string, models []string, states []datacenter.State) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := newWriter(t, &out, ending, models)
	if err != nil {
		t.Fatal(err)
	}
	for i := range states {
		if err := w.Write(&states[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func decode(ending string, raw []byte) ([]datacenter.State, error) {
	format, err := formatOf("in" + ending)
	if err != nil {
		return nil, err
	}
	var states []datacenter.State
	for s, err := range format.read(bytes.NewReader(raw), int64(len(raw)), "in") {
		if err != nil {
			return states, err
		}
		states = append(states, *s)
	}
	return states, nil
}

func makeStates(labels []string, n int) []datacenter.State {
	states := make([]datacenter.State, n)
	for i := range states {
		s := newState(labels)
		s.Seq, s.TimeS, s.Source = int64(i), float64(i)/10, datacenter.SourceReplay
		s.PowerW = datacenter.ThreePhase{A: 1e6 / 3, B: float64(i), C: 3}
		for k := range s.Models {
			m := &s.Models[k]
			m.PowerW, m.ActiveReplicas, m.BatchSize, m.ObservedITLS = 1e5/7, 720, 128+k, math.NaN()
			m.PhaseShare = datacenter.ThreePhase{A: 1. / 3, B: 1. / 3, C: 1. / 3}
		}
		states[i] = *s
	}
	return states
}

func TestRoundTrip(t *testing.T) {
	labels := rapid.SliceOfNDistinct(rapid.StringOf(rapid.OneOf(
		rapid.SampledFrom([]rune(`,";:ab .`+"\n\t\x00é€😀\u2028<")), rapid.Rune().Filter(func(r rune) bool { return r != '\r' }),
	)), 0, 4, rapid.ID)
	number := rapid.OneOf(rapid.Float64(), rapid.SampledFrom([]float64{
		0, math.Copysign(0, -1), math.SmallestNonzeroFloat64, 1e-310, math.MaxFloat64, 1. / 3, 1e16, 1e-5, -12345,
	}))
	itl := rapid.OneOf(number, rapid.Just(math.NaN()))
	count := rapid.OneOf(rapid.Int(), rapid.IntRange(0, 2304))
	for _, ending := range endings {
		t.Run(ending, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				phases := func(name string) datacenter.ThreePhase {
					return datacenter.ThreePhase{A: number.Draw(rt, name), B: number.Draw(rt, name), C: number.Draw(rt, name)}
				}
				models := labels.Draw(rt, "labels")
				states := makeStates(models, rapid.IntRange(0, 3).Draw(rt, "rows"))
				for i := range states {
					s := &states[i]
					s.TimeS, s.PowerW = number.Draw(rt, "time_s"), phases("power_w")
					for k := range s.Models {
						s.Models[k] = datacenter.ModelState{
							ModelLabel: models[k], PowerW: number.Draw(rt, "power"), ObservedITLS: itl.Draw(rt, "itl"),
							ActiveReplicas: count.Draw(rt, "active"), BatchSize: count.Draw(rt, "batch"), PhaseShare: phases("share"),
						}
					}
				}
				got, err := decode(ending, encode(t, ending, models, states))
				if err != nil {
					rt.Fatal(err)
				}
				if diff := cmp.Diff(states, got, sameBits); diff != "" {
					rt.Fatalf("states written and read back (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestLiveStatesKeepTheirTimeAndSource(t *testing.T) {
	states := makeStates([]string{"m"}, 2)
	states[0].Seq, states[0].Source = 41, datacenter.SourceLive
	states[0].WallTime = time.Date(2031, 2, 3, 4, 5, 6, 123456789, time.FixedZone("", 3600))
	for _, ending := range []string{jsonlEnding, parquetEnding} {
		got, err := decode(ending, encode(t, ending, []string{"m"}, states))
		if diff := cmp.Diff(states, got, sameBits); err != nil || diff != "" {
			t.Errorf("%s: states read back (-want +got): %v\n%s", ending, err, diff)
		}
	}
}

func TestParquetKeepsOrderOverManyRowGroups(t *testing.T) {
	labels := []string{"b", "a"}
	states := makeStates(labels, 2*rowsPerGroup+1)
	got, err := decode(parquetEnding, encode(t, parquetEnding, labels, states))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(encode(t, jsonlEnding, labels, got), encode(t, jsonlEnding, labels, states)) {
		t.Errorf("%d states read back as %d others", len(states), len(got))
	}
}

func TestGoldenCSVIsRewrittenByteForByte(t *testing.T) {
	golden, err := filepath.Glob("../testdata/golden/offline/*.csv")
	if err != nil || len(golden) == 0 {
		t.Fatal("no golden files", err)
	}
	for _, path := range golden {
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		states, err := ReadAll(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := encode(t, csvEnding, labelsOf(states[0]), states); !bytes.Equal(got, want) {
			t.Errorf("%s: rewritten differently", path)
		}
	}
}

func TestReadersSayWhatIsWrongAndWhere(t *testing.T) {
	header := strings.Join(csvColumns([]string{"m"}), ",") + "\n"
	row := "0.0,1.0,2.0,3.0,4.0,5,6,nan,0.1,0.2,0.7\n"
	line := string(encode(t, jsonlEnding, []string{"m"}, makeStates([]string{"m"}, 1)))
	file := string(encode(t, parquetEnding, []string{"m"}, makeStates([]string{"m"}, 9)))
	for _, c := range []struct{ name, ending, in, want string }{
		{"empty", csvEnding, "", "in:1: the file is empty, want a header that begins with time_s,power_a_w"},
		{"other header", csvEnding, "t,power\n", `in:1: column 1 is "t", want "time_s"`},
		{"header ends early", csvEnding, "time_s,power_a_w\n", `in:1: the header ends after 2 columns, want "power_b_w" next`},
		{"model columns mixed", csvEnding, strings.Replace(header, "m:batch", "n:batch", 1), `in:1: column 7 is "n:batch_size", want "m:batch_size"`},
		{"label twice", csvEnding, strings.Join(csvColumns([]string{"m", "m"}), ",") + "\n", `model label "m" stands there twice`},
		{"number", csvEnding, header + row + strings.Replace(row, "2.0", "two", 1), `in:3: power_b_w: got "two", want a number`},
		{"whole number", csvEnding, header + strings.Replace(row, ",5,", ",5.5,", 1), `in:2: m:active_replicas: got "5.5", want a whole number`},
		{"quotes", csvEnding, header + row + `"0`, "in:3: "},
		{"fields", csvEnding, header + "0.0,1.0\n", "in:2: the row has 2 fields, the header has 11"},
		{"cut in the last number", csvEnding, header + row[:len(row)-1], "in: the last line does not end in a newline"},
		{"cut", jsonlEnding, line + line[:len(line)/2], "in:2: "},
		{"no object", jsonlEnding, "null\n", "in:1: "},
		{"other object", jsonlEnding, "\n{}\n", "in:2: seq, time_s, source or power_by_model_w is missing"},
		{"two objects", jsonlEnding, strings.TrimSpace(line) + line, "in:1: "},
		{"empty", parquetEnding, "", "in: "},
		{"cut", parquetEnding, file[:len(file)/2], "in: "},
		{"cut in the middle", parquetEnding, file[:100] + file[200:], "in: "},
		{"footer larger than the file", parquetEnding, file[:len(file)-8] + "\xff\xff\xff\x7fPAR1", "in: the file does not end as a Parquet file"},
		{"footer of more elements than bytes", parquetEnding, parquetFile("\x15\x02\x19\xfc\xff\xff\xff\xff\x07"), "in: the Parquet file is corrupt: its footer claims more than it holds"},
		{"footer without end", parquetEnding, parquetFile(strings.Repeat("\xcc", 1000)), "in: the Parquet file is corrupt: its footer nests more than 32 deep"},
		{"damaged page", parquetEnding, strings.ReplaceAll(file, "replay", "relpay"), "in: row 1: "},
	} {
		t.Run(c.ending+" "+c.name, func(t *testing.T) {
			_, err := decode(c.ending, []byte(c.in))
			if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("got error %v, want invalid input: …%s…", err, c.want)
			}
		})
	}
}

// parquetFile is a Parquet file of nothing but a footer.
func parquetFile(footer string) string {
	return "PAR1" + string(binary.LittleEndian.AppendUint32([]byte(footer), uint32(len(footer)))) + "PAR1"
}

func TestReadersPassOnFailedReads(t *testing.T) {
	failed := &os.PathError{Op: "read", Path: "in", Err: errors.New("broken disk")}
	r := io.MultiReader(strings.NewReader(strings.Join(csvColumns(nil), ",")+"\n"), errorReader{failed})
	for _, err := range readCSV(r, "in") {
		if !errors.Is(err, failed) || errors.Is(err, datacenter.ErrInvalidInput) {
			t.Errorf("got %v, want the failed read and no invalid input", err)
		}
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func TestReadersStopWhenAsked(t *testing.T) {
	for _, ending := range endings {
		path := filepath.Join(t.TempDir(), "x"+ending)
		raw := encode(t, ending, []string{"m"}, makeStates([]string{"m"}, 9))
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, err := range ReadFile(path) {
			if err != nil {
				t.Fatal(err)
			}
			if n++; n == 2 {
				break
			}
		}
	}
}

func TestWritersRefuseOtherModels(t *testing.T) {
	for _, ending := range endings {
		for _, models := range [][]string{{}, {"b", "a"}, {"a"}, {"a", "b", "c"}} {
			w, err := newWriter(t, io.Discard, ending, []string{"a", "b"})
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Write(&makeStates(models, 1)[0]); err == nil {
				t.Errorf("%s: models %q were written under a and b", ending, models)
			}
		}
		for _, models := range [][]string{{"a", "a"}, {"a\r\nb"}, {"\xff"}} {
			if _, err := newWriter(t, io.Discard, ending, models); !errors.Is(err, datacenter.ErrInvalidInput) {
				t.Errorf("%s: got error %v for models %q, want invalid input", ending, err, models)
			}
		}
	}
}

func TestCSVWriteDoesNotAllocate(t *testing.T) {
	states := makeStates([]string{"a", "b"}, 1)
	w, err := NewCSVWriter(io.Discard, []string{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	_ = w.Write(&states[0]) // grows the line
	if n := testing.AllocsPerRun(100, func() { _ = w.Write(&states[0]) }); n != 0 {
		t.Errorf("a row allocates %v times", n)
	}
}

func BenchmarkWriter(b *testing.B) {
	labels := []string{"Llama-3.1-8B", "Llama-3.1-70B", "Llama-3.1-405B"}
	states := makeStates(labels, 1)
	for _, ending := range endings {
		b.Run(ending, func(b *testing.B) {
			b.ReportAllocs()
			w, err := newWriter(b, io.Discard, ending, labels)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := w.Write(&states[0]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
