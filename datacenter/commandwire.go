package datacenter

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"

	"github.com/g2g-agent/g2g-agent/internal/strictjson"
)

// commandMember is the member that says which command an encoded one is.
const commandMember = "command"

// commandKind is one kind of command on the wire.
type commandKind struct {
	name string
	// decode reads the members; it is for the caller to ask whether they were right.
	decode func(*strictjson.Object) Command
}

// commandKinds is the one list of commands: one that is added stands here.
func commandKinds() []commandKind {
	return []commandKind{
		{SetBatchSize{}.Name(), decodeSetBatchSize},
		{ShiftReplicas{}.Name(), decodeShiftReplicas},
		{Restore{}.Name(), decodeRestore},
	}
}

func kindOfCommand(name string) (commandKind, bool) {
	for _, kind := range commandKinds() {
		if kind.name == name {
			return kind, true
		}
	}
	return commandKind{}, false
}

func commandNames() []string {
	var names []string
	for _, kind := range commandKinds() {
		names = append(names, kind.name)
	}
	return names
}

// EncodeCommand returns the command as a JSON object that says what it is, such as
// {"command":"batch-sizes","batch_size_by_model":{"Llama-3.1-8B":64},"lease_s":60}.
// It fails for what [DecodeCommand] would refuse.
func EncodeCommand(c Command) ([]byte, error) {
	body, err := EncodeCommandBody(c)
	if err != nil {
		return nil, err
	}
	name, err := json.Marshal(c.Name())
	if err != nil {
		return nil, err
	}
	if members := body[1:]; string(members) != "}" {
		return fmt.Appendf(nil, `{"%s":%s,%s`, commandMember, name, members), nil
	}
	return fmt.Appendf(nil, `{"%s":%s}`, commandMember, name), nil
}

// DecodeCommand reads what [EncodeCommand] writes. Its error is a
// [*strictjson.Error] that tells all that is wrong: members that are missing,
// unknown, there twice, of the wrong kind or out of range.
func DecodeCommand(encoded []byte) (Command, error) {
	o, err := strictjson.Parse(encoded)
	if err != nil {
		return nil, err
	}
	if !o.Has(commandMember) {
		o.Fault(commandMember, "is missing; there are %q", commandNames())
		return nil, o.Err()
	}
	name := o.Take(commandMember)
	if err := o.Err(); err != nil {
		return nil, err
	}
	kind, ok := kindOfCommand(name)
	if !ok {
		o.Fault(commandMember, "unknown command %.64q; there are %q", name, commandNames())
		return nil, o.Err()
	}
	return kind.read(o)
}

// EncodeCommandBody returns the command without its name: a JSON object for where
// the name stands elsewhere, as in the path POST /v1/batch-sizes. It fails for what
// [DecodeCommandBody] would refuse.
func EncodeCommandBody(c Command) ([]byte, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode the command %s: %w", c.Name(), err)
	}
	back, err := DecodeCommandBody(c.Name(), body)
	if err != nil {
		return nil, fmt.Errorf("encode the command %s: %w", c.Name(), err)
	}
	if set, ok := c.(SetBatchSize); ok && len(set.RampUpRateByModel) == 0 {
		set.RampUpRateByModel = nil // what is read
		c = set
	}
	if !reflect.DeepEqual(c, back) {
		return nil, fmt.Errorf("%w: encode the command %s: it would not be read as it is: labels must be valid UTF-8", ErrInvalidInput, c.Name())
	}
	return body, nil
}

// DecodeCommandBody reads what [EncodeCommandBody] writes of a command of the name.
// Its error for a body is as that of [DecodeCommand].
func DecodeCommandBody(name string, body []byte) (Command, error) {
	kind, ok := kindOfCommand(name)
	if !ok {
		return nil, fmt.Errorf("%w: unknown command %.64q; there are %q", ErrInvalidInput, name, commandNames())
	}
	o, err := strictjson.Parse(body)
	if err != nil {
		return nil, err
	}
	return kind.read(o)
}

func (k commandKind) read(o *strictjson.Object) (Command, error) {
	command := k.decode(o)
	if err := o.Err(); err != nil {
		return nil, err
	}
	return command, nil
}

func decodeSetBatchSize(o *strictjson.Object) Command {
	o.Members([]string{sizesField}, ratesField, leaseField)
	return setBatchSizeOf(o)
}

const sizesField, ratesField = "batch_size_by_model", "ramp_up_rate_by_model"

// setBatchSizeOf reads the members of a command of batch sizes.
func setBatchSizeOf(o *strictjson.Object) SetBatchSize {
	c := SetBatchSize{BatchSizeByModel: map[string]int{}, LeaseS: decodeLease(o)}
	if sizes := o.ByModel(sizesField); sizes != nil {
		for _, label := range sizes.Names() {
			c.BatchSizeByModel[label] = sizes.Whole(label, 1, math.MaxInt32)
		}
	}
	if rates := o.ByModel(ratesField); rates != nil {
		c.RampUpRateByModel = map[string]float64{}
		for _, label := range rates.Names() {
			c.RampUpRateByModel[label] = rates.Number(label, "a number of requests per second, at least 0",
				func(f float64) bool { return f >= 0 && !math.IsInf(f, 0) })
		}
	}
	return c
}

func decodeShiftReplicas(o *strictjson.Object) Command {
	const labelField, deltaField = "model_label", "replica_delta"
	o.Members([]string{labelField, deltaField}, leaseField)
	return ShiftReplicas{
		ModelLabel: o.Text(labelField), LeaseS: decodeLease(o),
		ReplicaDelta: o.Whole(deltaField, -math.MaxInt32, math.MaxInt32),
	}
}

func decodeRestore(o *strictjson.Object) Command {
	o.Members(nil)
	return Restore{}
}

const leaseField = "lease_s"

// decodeLease reads a lease; 0 if there is none.
func decodeLease(o *strictjson.Object) float64 {
	return o.Number(leaseField, fmt.Sprintf("a number of seconds above 0, at most %d", MaxLeaseS),
		func(f float64) bool { return f > 0 && f <= MaxLeaseS })
}
