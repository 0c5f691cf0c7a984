package main

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/g2g-agent/g2g-agent/scripts/internal/measuring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A short siege, on a machine that may be busy elsewhere: nobody is locked out.
func TestSiege(t *testing.T) {
	t.Chdir("../..")
	dir := t.TempDir()
	binary, err := measuring.Build(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	p := plan{connections: 2100, readers: 8, wrongTokensPerS: 20, siege: 3 * time.Second}
	r, err := p.besiege(t.Context(), binary, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%v", r)
	if err := r.check(5*time.Second, 1); err != nil {
		t.Error(err)
	}
	if r.evicted == 0 || r.held < 500 {
		t.Errorf("%d connections were held and %.0f made room: was it a siege?", r.held, r.evicted)
	}
}
