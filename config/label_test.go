package config

import (
	"strings"
	"testing"
)

func TestLabelsThatDifferOnlyInCase(t *testing.T) {
	model := func(label string) string {
		return `  - {model_label: "` + label + `", gpus_per_replica: 1, itl_deadline_s: 1, feasible_batch_sizes: [8]}` + "\n"
	}
	for _, labels := range [][3]string{{"Llama-8B", "x", "llama-8b"}, {"É", "x", "é"}, {"straSSe", "x", "STRAsse"}} {
		text := "models:\n" + model(labels[0]) + model(labels[1]) + model(labels[2])
		refused(t, text, nil, `models[2].model_label: "`+labels[2]+`" differs only in case from "`+labels[0]+`", the label of models[0]: `+
			"databases and other readers of the states would take one for the other; choose another (datacenter.allow_labels_differing_in_case lifts this)")
		c := parsed(t, text+"datacenter: {allow_labels_differing_in_case: true}\n")
		if len(c.Models) != 3 {
			t.Errorf("%q: %d models", labels, len(c.Models))
		}
	}
	refused(t, "models:\n"+strings.Repeat(model("m"), 2)+"datacenter: {allow_labels_differing_in_case: true}\n", nil,
		`models[1].model_label: "m" is already the label of models[0]`)
	parsed(t, "models:\n"+model("Llama-8B")+model("Llama-8B ")+model("Llama_8B"))
}
