package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

var update = flag.Bool("update", false, "rewrite the expected messages in testdata")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestInvalidFiles loads testdata/invalid-RULE.yaml, each of which breaks one
// rule, and compares the whole message with the .want file beside it.
func TestInvalidFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/invalid-*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no invalid files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			purpose := ForAnything
			switch name := filepath.Base(file); {
			case strings.HasPrefix(name, "invalid-for-replay-"):
				purpose = ForReplay
			case strings.HasPrefix(name, "invalid-for-live-"):
				purpose = ForLive
			}
			c, err := Load(file, nil, purpose)
			var invalid *Error
			if !errors.As(err, &invalid) || !errors.Is(err, datacenter.ErrInvalidInput) || c != nil {
				t.Fatalf("the error is %v with a config %v, want an *Error and none", err, c)
			}
			once(t, invalid.Problems)
			got := strings.TrimPrefix(err.Error(), file+": ") + "\n"
			wantFile := strings.TrimSuffix(file, ".yaml") + ".want"
			if *update {
				if err := os.WriteFile(wantFile, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(wantFile)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("the message differs from %s (-want +got):\n%s", wantFile, diff)
			}
		})
	}
}

// once fails if a key is complained about twice.
func once(t *testing.T, problems []Problem) {
	t.Helper()
	seen := map[string]string{}
	for _, p := range problems {
		if first, again := seen[p.Path]; again {
			t.Errorf("%q is complained about twice: %q and %q", p.Path, first, p.Message)
		}
		seen[p.Path] = p.Message
	}
}
