package datacenter

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Go's maps would put them in alphabetical order.
func TestByModelKeepsItsOrder(t *testing.T) {
	const text = `{"Llama-3.1-8B":16,"Llama-3.1-70B":8,"Llama-3.1-405B":32,"a \"b\" \u003c":1}`
	var sizes ByModel[int]
	if err := json.Unmarshal([]byte(text), &sizes); err != nil {
		t.Fatal(err)
	}
	want := ByModel[int]{{"Llama-3.1-8B", 16}, {"Llama-3.1-70B", 8}, {"Llama-3.1-405B", 32}, {`a "b" <`, 1}}
	if diff := cmp.Diff(want, sizes); diff != "" {
		t.Errorf("what was read (-want +got):\n%s", diff)
	}
	if got, err := json.Marshal(sizes); err != nil || string(got) != text {
		t.Errorf("what was written: %s (%v), want %s", got, err, text)
	}
	if v, ok := sizes.Get("Llama-3.1-70B"); v != 8 || !ok {
		t.Errorf("Get gives %d, %v", v, ok)
	}
	if v, ok := sizes.Get("Llama-3.1-7B"); v != 0 || ok {
		t.Errorf("Get of a model that is not there gives %d, %v", v, ok)
	}
	specs := []ModelSpec{{ModelLabel: "b", GPUsPerReplica: 4}, {ModelLabel: "a", GPUsPerReplica: 1}}
	gpus := ByModelOf(specs, func(m *ModelSpec) (string, int) { return m.ModelLabel, m.GPUsPerReplica })
	if diff := cmp.Diff(ByModel[int]{{"b", 4}, {"a", 1}}, gpus); diff != "" {
		t.Errorf("of specs (-want +got):\n%s", diff)
	}
}

func TestByModelWithoutModels(t *testing.T) {
	for _, none := range []ByModel[*float64]{nil, {}} {
		if got, err := json.Marshal(none); err != nil || string(got) != "{}" {
			t.Errorf("%s (%v)", got, err)
		}
	}
	sizes := ByModel[int]{{"a", 1}}
	if err := json.Unmarshal([]byte("{}"), &sizes); err != nil || len(sizes) != 0 {
		t.Errorf("%v (%v)", sizes, err)
	}
	for text, want := range map[string]string{
		"[]": "want an object", `{"a": 1, "b": 2, "a": 3}`: `"a" stands there twice`, `{"a": "x"}`: "a: ",
	} {
		if err := json.Unmarshal([]byte(text), &sizes); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", text, err, want)
		}
	}
	if _, err := json.Marshal(ByModel[any]{{"a", func() {}}}); err == nil || !strings.Contains(err.Error(), "a: ") {
		t.Errorf("a value that JSON has not: %v", err)
	}
}
