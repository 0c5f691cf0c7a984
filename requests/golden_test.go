package requests

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/g2g-agent/g2g-agent/internal/pyjson"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func golden(path ...string) string {
	return filepath.Join(append([]string{"..", "testdata", "golden", "requests"}, path...)...)
}

// TestGolden: every byte of what OpenG2G's RequestStore writes.
func TestGolden(t *testing.T) {
	raw, err := os.ReadFile(golden("expected", "cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index struct {
		Models map[string]string          `json:"models"`
		Extra  map[string]json.RawMessage `json:"extra_body_by_model"`
		Cases  []struct {
			Dir    string `json:"dir"`
			Config struct {
				Dataset             string `json:"dataset"`
				NumRequests         int    `json:"num_requests"`
				MaxCompletionTokens int    `json:"max_completion_tokens"`
				Seed                uint64 `json:"seed"`
				SystemPrompt        string `json:"system_prompt"`
			} `json:"config"`
		} `json:"cases"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		t.Fatal(err)
	}
	var models []Model
	for label, id := range index.Models {
		m := Model{Label: label, ID: id}
		if extra, found := index.Extra[label]; found {
			value, err := pyjson.Decode(extra)
			if err != nil {
				t.Fatal(err)
			}
			m.ExtraBody = value.(pyjson.Object)
		}
		models = append(models, m)
	}
	if len(index.Cases) != 5 || len(models) != 2 {
		t.Fatalf("there are %d cases and %d models", len(index.Cases), len(models))
	}
	for _, c := range index.Cases {
		t.Run(c.Dir, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "out")
			config := Config{c.Config.NumRequests, c.Config.MaxCompletionTokens, c.Config.Seed, c.Config.SystemPrompt}
			_, warnings, err := Generate(t.Context(), dir, models, openDataset(t, c.Config.Dataset), config)
			if err != nil || len(warnings) > 0 {
				t.Fatalf("%v, warnings %q", err, warnings)
			}
			for label := range index.Models {
				got, err := os.ReadFile(filepath.Join(dir, label+".jsonl"))
				if err != nil {
					t.Fatal(err)
				}
				want, err := os.ReadFile(golden("expected", c.Dir, label+".jsonl"))
				if err != nil {
					t.Fatal(err)
				}
				sameLines(t, label, got, want)
			}
		})
	}
}

// openDataset opens the local copy of a data set.
func openDataset(t testing.TB, name string) Source {
	t.Helper()
	for _, d := range Datasets() {
		if d.Name == name {
			source, err := d.Open(golden("datasets", d.Repository))
			if err != nil {
				t.Fatal(err)
			}
			return source
		}
	}
	t.Fatalf("there is no data set %q", name)
	return nil
}

func sameLines(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if len(want) == 0 {
		t.Fatalf("%s: there is nothing to compare with", what)
	}
	gotLines, wantLines := bytes.SplitAfter(got, []byte("\n")), bytes.SplitAfter(want, []byte("\n"))
	if len(gotLines) != len(wantLines) {
		t.Errorf("%s has %d lines, want %d", what, len(gotLines), len(wantLines))
	}
	for i := range min(len(gotLines), len(wantLines)) {
		if !bytes.Equal(gotLines[i], wantLines[i]) {
			t.Fatalf("%s:%d:\n got %s\nwant %s", what, i+1, gotLines[i], wantLines[i])
		}
	}
}

// TestPermutationIsNumPys: the order of the golden draws.
func TestPermutationIsNumPys(t *testing.T) {
	raw, err := os.ReadFile(golden("expected", "draws.json"))
	if err != nil {
		t.Fatal(err)
	}
	var draws []struct {
		Seed        uint64 `json:"seed"`
		Permutation []int  `json:"permutation_37"`
	}
	if err := json.Unmarshal(raw, &draws); err != nil || len(draws) == 0 {
		t.Fatalf("%v, %d draws", err, len(draws))
	}
	for _, d := range draws {
		got, _ := json.Marshal(permutation(37, d.Seed))
		if want, _ := json.Marshal(d.Permutation); !bytes.Equal(got, want) {
			t.Errorf("seed %d: %s, want %s", d.Seed, got, want)
		}
	}
}
