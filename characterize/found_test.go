package characterize

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/sim"
)

// runUntilLoaded runs a characterization until it is about to measure, and interrupts it.
func (s *simSite) runUntilLoaded(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	begun := false
	s.cfg.OnProgress = func(Progress) {
		if !begun {
			begun = true
			stop()
		}
	}
	if _, err := Run(ctx, s.cfg); !errors.Is(err, ErrIncomplete) || !begun {
		t.Errorf("begun: %v, %v", begun, err)
	}
}

// setBatchSize sets that of a server with runtime_config.
func (s *simSite) setBatchSize(t *testing.T, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, s.vllms[0].URL()+"/v1/runtime_config", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
}

// TestLeftAsFound: a server that tells its batch size has it again in the end, not its
// model's initial one, and also if the call that found it was killed.
func TestLeftAsFound(t *testing.T) {
	t.Parallel()
	s := newSimSiteOf(t, sim.RuntimeConfig)
	file := filepath.Join(s.cfg.Dir, characterizationFolder, foundFile)
	check := func(want int) {
		t.Helper()
		if n := s.vllms[0].Truth().MaxNumSeqs; n != want {
			t.Errorf("the batch size left behind is %d, want %d", n, want)
		}
		if _, err := os.Stat(file); err == nil {
			t.Error("what was found is still on the disk")
		}
	}
	s.setBatchSize(t, `{"max_num_running_seqs": 48}`)
	s.runUntilLoaded(t)
	check(48)
	told := 0
	for _, c := range s.vllms[0].Truth().Commands {
		if c.MaxNumSeqs != 48 {
			told++
		}
	}
	if told == 0 {
		t.Error("it never had another batch size")
	}

	s.setBatchSize(t, `{"max_num_running_seqs": 16}`) // as a killed call leaves it
	if err := os.WriteFile(file, []byte(`{"`+s.vllms[0].URL()+`": 32, "http://elsewhere": 5}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s.runUntilLoaded(t)
	if raw, err := os.ReadFile(file); err != nil || string(raw) != "{\"http://elsewhere\":5}\n" {
		t.Errorf("that of a server that was not asked is %q, %v", raw, err)
	}
	os.Remove(file)
	check(32)

	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), s.cfg); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), file) {
		t.Errorf("a damaged file: %v", err)
	}
}
