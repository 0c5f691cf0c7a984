package datacenter

import "github.com/g2g-agent/g2g-agent/internal/strictjson"

// shiftsField has the shifts of a request for steps.
const shiftsField = "replica_shifts"

// StepCommandMembers are the members of a request for steps that command something.
func StepCommandMembers() []string {
	return []string{sizesField, ratesField, leaseField, shiftsField}
}

// DecodeStepCommands reads the commands in a request for steps, in the order in which they
// are carried out: batch sizes, with the lease beside them, then each of replica_shifts. It
// is for the caller to ask the object whether they were right. batchSizes tells that the
// first one is of batch sizes.
func DecodeStepCommands(o *strictjson.Object) (commands []Command, batchSizes bool) {
	batchSizes = o.Has(sizesField)
	if batchSizes {
		commands = append(commands, setBatchSizeOf(o))
	} else {
		for _, name := range []string{ratesField, leaseField} {
			if o.Has(name) {
				o.Fault(name, "goes with %s, which is missing", sizesField)
			}
		}
	}
	for _, shift := range o.Objects(shiftsField) {
		commands = append(commands, decodeShiftReplicas(shift))
	}
	return commands, batchSizes
}
