package agent

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// What is said of several models at once is said in config order, which is not the
// alphabet's.
func TestModelsAreInConfigOrder(t *testing.T) {
	p := &Pipeline{cfg: Config{Models: []datacenter.ModelSpec{{ModelLabel: "z"}, {ModelLabel: "m"}, {ModelLabel: "a"}}}}
	byModel := map[string]int{"a": 1, "other": 2, "another": 3, "z": 4}
	if diff := cmp.Diff([]string{"z", "a", "another", "other"}, inConfigOrder(p, byModel)); diff != "" {
		t.Errorf("the labels (-want +got):\n%s", diff)
	}
	no, none := errors.New("no"), errors.New("none")
	failed := &ServersError{ByModel: map[string]error{"a": no, "z": none, "b": no}, Order: []string{"z", "m", "a"}}
	if got, want := failed.Error(), `model "z": none; model "a": no; model "b": no`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if errs := failed.Unwrap(); len(errs) != 3 || !errors.Is(errs[0], none) || !errors.Is(errs[1], no) {
		t.Errorf("the errors are %v", errs)
	}
	err := p.checkBatchSizes(datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"a": 8, "b": 8, "m": 8}}, func(int, int, float64) error { return nil })
	var refused *datacenter.CommandError
	if !errors.As(err, &refused) || refused.Field != "batch_size_by_model.m" {
		t.Errorf("the first model in the config is not the one named: %v", err)
	}
}
