package strictjson

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLists(t *testing.T) {
	o, err := Parse([]byte(`{"jobs": [{"n": 1}, {"n": "x", "m": {"k": 2}}, 7], "names": ["a", 1, null, ""], "no": 3, "none": null, "in": {"b": 8}}`))
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int
	for _, job := range o.Objects("jobs") {
		job.Members([]string{"n"})
		numbers = append(numbers, job.Whole("n", 0, 9))
	}
	if diff := cmp.Diff([]int{1, 0}, numbers); diff != "" {
		t.Errorf("the objects (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"a", ""}, o.Texts("names")); diff != "" {
		t.Errorf("the texts (-want +got):\n%s", diff)
	}
	if n := len(o.Objects("missing")) + len(o.Texts("missing")) + len(o.Objects("no")); n != 0 || o.Within("missing") != nil || o.Within("no") != nil {
		t.Errorf("what is not there gives %d values", n)
	}
	if n := o.Within("in").Whole("b", 0, 9); n != 8 {
		t.Errorf("within it is %d", n)
	}
	if in := o.Within("in").Path(); in != ".in" || o.Path() != "" {
		t.Errorf("the object within stands at %q, the whole at %q", in, o.Path())
	}
	if !o.IsNull("none") || o.IsNull("no") || o.IsNull("missing") {
		t.Error("null is what is null")
	}
	if diff := cmp.Diff([]string{
		".jobs[2] must be an object, got 7",
		`.jobs[1].m unknown member; there are ["n"]`,
		`.jobs[1].n must be a whole number from 0 to 9, got the string "x"`,
		".names[1] must be a string, got 1",
		".names[2] must be a string, got null",
		".no must be a list of objects, got 3",
		".no must be an object, got 3",
	}, faultsOf(t, o.Err())); diff != "" {
		t.Errorf("the faults (-want +got):\n%s", diff)
	}
}
