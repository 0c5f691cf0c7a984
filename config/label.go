package config

import (
	"fmt"
	"strings"
)

// validateLabel checks that the label of model i is not that of one before. Many
// that read files hold columns whose names differ only in case for one, and answer
// with the numbers of the other.
func (c *Config) validateLabel(r *rules, i int) {
	label, path := c.Models[i].ModelLabel, fmt.Sprintf("models[%d].model_label", i)
	if label == "" {
		return
	}
	for j := range c.Models[:i] {
		switch other := c.Models[j].ModelLabel; {
		case other == label:
			r.that(false, path, "%q is already the label of models[%d]", label, j)
			return
		case strings.EqualFold(other, label):
			r.that(c.Datacenter.AllowLabelsDifferingInCase, path, "%q differs only in case from %q, the label of models[%d]: databases and other readers "+
				"of the states would take one for the other; choose another (datacenter.allow_labels_differing_in_case lifts this)", label, other, j)
			return
		}
	}
}
