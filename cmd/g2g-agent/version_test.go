package main

import (
	"encoding/json"
	"net/http"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
)

// TestVersionIsTheSameEverywhere: of the command, the API, and check --json.
func TestVersionIsTheSameEverywhere(t *testing.T) {
	t.Parallel()
	urlFile := filepath.Join(t.TempDir(), "url")
	p := startProgram(t, nil, lockstepArgs(t, urlFile)...)
	r, err := http.Get(awaitURL(t, urlFile) + "/v1/info") //nolint:noctx // it answers at once, or the test ends
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var info struct{ Version string }
	if err := json.NewDecoder(r.Body).Decode(&info); err != nil {
		t.Fatal(err)
	}
	p.terminate(t)
	if info.Version == "" || !strings.HasPrefix(info.Version, strings.TrimSpace(number)) {
		t.Errorf("the API has version %q, want %q", info.Version, number)
	}
	said, err := exec.CommandContext(t.Context(), "g2g-agent", "version").Output()
	if err != nil || !strings.HasPrefix(string(said), "g2g-agent "+info.Version+" (go") {
		t.Errorf("g2g-agent version says %q (%v), the API %s", said, err, info.Version)
	}
	checked, err := exec.CommandContext(t.Context(), "g2g-agent", "check", "--json", "--config", oneModelConfig(t)).Output()
	if err != nil || !strings.Contains(string(checked), `"version":"`+info.Version+`"`) {
		t.Errorf("check --json says %.200q (%v), the API %s", checked, err, info.Version)
	}
}

func TestCommitOfAProgram(t *testing.T) {
	const commit = "0123456789abcdef0123456789abcdef01234567"
	set := func(pairs ...string) (settings []debug.BuildSetting) {
		for i := 0; i < len(pairs); i += 2 {
			settings = append(settings, debug.BuildSetting{Key: pairs[i], Value: pairs[i+1]})
		}
		return settings
	}
	for want, settings := range map[string][]debug.BuildSetting{
		"":                     set("vcs.modified", "true", "GOOS", "linux"), // go install of a version, or no clone
		"+g0123456789ab":       set("vcs", "git", "vcs.revision", commit, "vcs.modified", "false"),
		"+g0123456789ab.dirty": set("vcs.modified", "true", "vcs.revision", commit),
	} {
		if got := commitOf(settings); got != want {
			t.Errorf("%v: %q, want %q", settings, got, want)
		}
	}
}
