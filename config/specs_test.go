package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func specsFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "specs")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func loadSpecs(t *testing.T, text string) (*Config, error) {
	t.Helper()
	f, err := ReadFile(specsFile(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return f.LoadSpecs(nil)
}

// A list of specs means the same in every spelling, and has OpenG2G's defaults.
func TestLoadSpecs(t *testing.T) {
	const items = "- model_label: A\n  itl_deadline_s: 0.08\n  batch_sizes: [8, 16]\n" +
		"- {model_label: B, itl_deadline_s: 0.1, batch_sizes: [8, 16], feasible_batch_sizes: [16], gpus_per_replica: 2}\n"
	const compact = `[{"model_label": "A", "itl_deadline_s": 0.08, "batch_sizes": [8, 16]},
		{"model_label": "B", "itl_deadline_s": 0.1, "batch_sizes": [8, 16], "feasible_batch_sizes": [16], "gpus_per_replica": 2}]`
	for name, text := range map[string]string{
		"YAML": items, "with a marker": "---\n" + items, "with a directive": "%YAML 1.2\n--- # specs\n" + items, "with comments": "# a\n\n" + items + "...\n",
		"indented": "  " + strings.ReplaceAll(items, "\n", "\n  "), "with a byte order mark": "\ufeff" + items, "JSON": compact, "JSON after a comment": "# a\n" + compact,
		"a config": "models:\n" + strings.Replace(items, "label: A", "label: A\n  gpus_per_replica: 1\n  feasible_batch_sizes: [8, 16]", 1),
	} {
		c, err := loadSpecs(t, text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := []Model{
			{ModelLabel: "A", GPUsPerReplica: 1, ITLDeadlineS: 0.08, BatchSizes: []int{8, 16}, FeasibleBatchSizes: []int{8, 16}},
			{ModelLabel: "B", GPUsPerReplica: 2, ITLDeadlineS: 0.1, BatchSizes: []int{8, 16}, FeasibleBatchSizes: []int{16}},
		}
		for i := range c.Models { // no spec has any
			c.Models[i].Replicas = want[0].Replicas
		}
		if diff := cmp.Diff(want, c.Models, sameSeconds); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}

func TestLoadSpecsRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`[null]`:      "models[0]: want an object",
		"- \n":        "models[0]: want an object",
		`[{}, "x"]`:   "models[1]: want an object",
		`[[1]]`:       "models[0]: want an object",
		`[]`:          "models: must list at least one model",
		`null`:        "models: must list at least one model",
		`[{}]`:        "models[0].model_label: is missing",
		"- a: 1\n- }": "line 2",
		"models: []":  "models: must list at least one model",
		"- a\n---\nb": "a second YAML document begins",
		"- model_label: A\n  itl_deadline_s: 0.08\n": "models[0].feasible_batch_sizes: must list at least one batch size",
		// A config has no defaults of a list's.
		"models:\n- {model_label: A, itl_deadline_s: 0.08, batch_sizes: [8]}\n": "models[0].feasible_batch_sizes",
	} {
		_, err := loadSpecs(t, text)
		if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: the error is %v, want %s", text, err, want)
		}
	}
	if _, err := Load(specsFile(t, "- {model_label: A, itl_deadline_s: 0.08, batch_sizes: [8]}"), nil, ForAnything); err == nil {
		t.Error("a list is taken for a config")
	}
}
