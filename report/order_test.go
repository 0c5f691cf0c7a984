package report

import (
	"bytes"
	"regexp"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// The models of each object by label are in the order of the states, not the alphabet's.
func TestModelsAreInTheOrderOfStates(t *testing.T) {
	s := NewSummary(datacenter.Seconds{}, []datacenter.ModelSpec{{ModelLabel: "z"}, {ModelLabel: "a"}})
	s.Add(&datacenter.State{Models: []datacenter.ModelState{{ModelLabel: "z"}, {ModelLabel: "a"}}})
	var text bytes.Buffer
	if err := s.WriteJSON(&text); err != nil {
		t.Fatal(err)
	}
	if n := len(regexp.MustCompile(`_by_model[a-z_]*": \{\s*"z": [^,]*,\s*"a": `).FindAll(text.Bytes(), -1)); n != 5 {
		t.Errorf("%d objects have the models in order, want 5: %s", n, text.Bytes())
	}
}
