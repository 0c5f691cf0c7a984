package datacenter

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/g2g-agent/g2g-agent/internal/strictjson"
)

func TestEncodedCommands(t *testing.T) {
	for _, c := range []struct {
		command Command
		want    string
	}{
		{
			SetBatchSize{BatchSizeByModel: map[string]int{"b": 64, "a": 8}, RampUpRateByModel: map[string]float64{"a": 2.5}, LeaseS: 5},
			`{"command":"batch-sizes","batch_size_by_model":{"a":8,"b":64},"ramp_up_rate_by_model":{"a":2.5},"lease_s":5}`,
		},
		{SetBatchSize{BatchSizeByModel: map[string]int{"a": 8}, RampUpRateByModel: map[string]float64{}}, `{"command":"batch-sizes","batch_size_by_model":{"a":8}}`},
		{ShiftReplicas{ModelLabel: "a", ReplicaDelta: -3}, `{"command":"replica-shifts","model_label":"a","replica_delta":-3}`},
		{Restore{}, `{"command":"restore"}`},
	} {
		encoded, err := EncodeCommand(c.command)
		if err != nil || string(encoded) != c.want {
			t.Errorf("%+v is encoded as %s, %v, want %s", c.command, encoded, err, c.want)
		}
		decoded, err := DecodeCommand(encoded)
		if diff := cmp.Diff(c.command, decoded, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("%s is decoded with %v as (-want +got):\n%s", encoded, err, diff)
		}
	}
}

// TestEveryCommandIsInTheTable: each type that is a command.
func TestEveryCommandIsInTheTable(t *testing.T) {
	read := map[string]bool{} // types that the table's functions give
	for _, kind := range commandKinds() {
		o, err := strictjson.Parse([]byte(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		c := kind.decode(o)
		read[fmt.Sprintf("%T", c)] = true
		if c.Name() != kind.name {
			t.Errorf("%q gives a command %q", kind.name, c.Name())
		}
	}
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	method := regexp.MustCompile(`(?m)^func \((?:\w+ )?\*?(\w+)\) isCommand\(\)`)
	for _, path := range sources {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range method.FindAllSubmatch(text, -1) {
			found++
			if name := "datacenter." + string(match[1]); !read[name] {
				t.Errorf("%s is a command and not in the table", name)
			}
		}
	}
	if found != len(read) {
		t.Errorf("%d types are commands, the table has %d", found, len(read))
	}
}

func TestCommandsThatCannotBeEncoded(t *testing.T) {
	for _, c := range []Command{
		SetBatchSize{},
		SetBatchSize{BatchSizeByModel: map[string]int{"a": 0}},
		SetBatchSize{BatchSizeByModel: map[string]int{"a\xff": 8}},
		SetBatchSize{BatchSizeByModel: map[string]int{"a": 8}, LeaseS: -1},
		SetBatchSize{BatchSizeByModel: map[string]int{"a": 8}, LeaseS: MaxLeaseS + 1},
		SetBatchSize{BatchSizeByModel: map[string]int{"a": 8}, RampUpRateByModel: map[string]float64{"a": math.NaN()}},
		SetBatchSize{BatchSizeByModel: map[string]int{"a": 8}, RampUpRateByModel: map[string]float64{"a": math.Copysign(0, -1)}},
		ShiftReplicas{ReplicaDelta: 1},
		ShiftReplicas{ModelLabel: "a", ReplicaDelta: math.MinInt32},
	} {
		if encoded, err := EncodeCommand(c); err == nil {
			t.Errorf("%+v is encoded as %s", c, encoded)
		}
	}
}

func TestCommandsThatCannotBeDecoded(t *testing.T) {
	for encoded, want := range map[string]string{
		`[]`:                                "want a JSON object, got an array",
		`{}`:                                `command: is missing; there are ["batch-sizes" "replica-shifts" "restore"]`,
		`{"command": 3}`:                    "command: must be a string that is not empty, got 3",
		`{"command": "steps"}`:              `command: unknown command "steps"; there are ["batch-sizes" "replica-shifts" "restore"]`,
		`{"command":"batch-sizes"}`:         "batch_size_by_model: is missing",
		`{"command":"restore","lease_s":3}`: `lease_s: unknown member; there are []`,
		`{"command":"replica-shifts","model_label":"a","replica_delta":1,"command":"x"}`: "command: it stands there twice",
		`{"command":"replica-shifts","model_label":"","replica_delta":"1","lease_s":0}`:  `model_label: must be a string that is not empty, got the string ""; and 2 more`,
	} {
		decoded, err := DecodeCommand([]byte(encoded))
		var wrong *strictjson.Error
		if !errors.As(err, &wrong) || err.Error() != want {
			t.Errorf("%s is decoded as %v, %v, want %s", encoded, decoded, err, want)
		}
	}
	if _, err := DecodeCommandBody("steps", []byte(`{}`)); !errors.Is(err, ErrInvalidInput) {
		t.Errorf("a command that there is not: %v", err)
	}
}

// Whatever can be encoded is decoded as it was.
func TestCommandsComeBack(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		label := rapid.StringN(1, 20, -1)
		lease := rapid.OneOf(rapid.Just(0.0), rapid.Float64Range(1e-9, MaxLeaseS)).Draw(r, "lease")
		var c Command = ShiftReplicas{label.Draw(r, "label"), rapid.IntRange(-math.MaxInt32, math.MaxInt32).Draw(r, "delta"), lease}
		if rapid.Bool().Draw(r, "batch") {
			c = SetBatchSize{
				rapid.MapOfN(label, rapid.IntRange(1, math.MaxInt32), 1, 5).Draw(r, "sizes"),
				rapid.MapOfN(label, rapid.Float64Range(0, math.MaxFloat64), 0, 5).Draw(r, "rates"), lease,
			}
		}
		encoded, err := EncodeCommand(c)
		if err != nil {
			r.Fatal(err)
		}
		decoded, err := DecodeCommand(encoded)
		if diff := cmp.Diff(c, decoded, cmpopts.EquateEmpty()); err != nil || diff != "" {
			r.Fatalf("%s is decoded with %v as (-want +got):\n%s", encoded, err, diff)
		}
	})
}

// FuzzDecodeCommand decodes anything at all; what is a command is encoded and comes
// back.
func FuzzDecodeCommand(f *testing.F) {
	for _, seed := range []string{
		`{"command": "batch-sizes", "batch_size_by_model": {"a": 8}, "ramp_up_rate_by_model": {"a": 1.5}, "lease_s": 5}`,
		`{"command": "batch-sizes", "batch_size_by_model": {"a": 6.4e1, "b": 1e400}, "lease_s": 1e-400}`,
		`{"command": "replica-shifts", "model_label": "a", "replica_delta": -0}`,
		`{"command": "replica-shifts", "model_label": "\ud800", "replica_delta": 3, "lease_s": 1e-9}`,
		`{"command": "steps", "steps": 1}`, `{"command": "restore"}`, `{"command": {"command": null}}`, "{\"\xff\": [[[1]]]}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, encoded []byte) {
		c, err := DecodeCommand(encoded)
		if err != nil {
			if wrong := new(strictjson.Error); !errors.As(err, &wrong) || err.Error() == "" {
				t.Errorf("the error %v does not say where", err)
			}
			return
		}
		again, err := EncodeCommand(c)
		if err != nil {
			t.Fatalf("%+v was decoded and cannot be encoded: %v", c, err)
		}
		back, err := DecodeCommand(again)
		if diff := cmp.Diff(c, back, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("%s is decoded with %v as (-want +got):\n%s", again, err, diff)
		}
	})
}
