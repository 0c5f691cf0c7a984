package page

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"github.com/g2g-agent/g2g-agent/api/page/browsertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	desktop = browsertest.Size{Width: 1440, Height: 900}
	phone   = browsertest.Size{Width: 390, Height: 844}
)

// tab is a tab with the page.
type tab struct{ *browsertest.Tab }

// open opens the page in a color scheme, light or dark.
func open(t *testing.T, b *browsertest.Browser, address string, s browsertest.Size, scheme string) tab {
	t.Helper()
	return tab{b.Open(t, address, s, scheme)}
}

// awaitSeq waits until the plots show the state of a step.
func (p tab) awaitSeq(seq int) {
	p.Await(fmt.Sprintf("[...document.querySelectorAll('canvas')].every((c) => c.dataset.seq === '%d')", seq))
}

// TestInBrowser looks at the page in one browser: starting it takes long.
func TestInBrowser(t *testing.T) {
	b := browsertest.Start(t)
	for _, c := range []struct {
		name  string
		check func(*testing.T, *browsertest.Browser)
	}{
		{"shows the states as they come", checkShowsStates},
		{"tells the values pointed at", checkPointer},
		{"keeps to one screen", checkLayout},
		{"is legible in light and dark", checkThemes},
		{"draws gaps as gaps", checkGaps},
		{"keeps a bounded number of states", checkBounded},
		{"writes round numbers on its axes", checkTicks},
		{"tells stale models", checkStale},
		{"tells events in plain words", checkEvents},
		{"shows text as text", checkInjection},
		{"tells how far the run is", checkPhases},
		{"tells of skipped states", checkSkipped},
		{"looks back over the recording", checkPast},
		{"says that nothing is recorded", checkNoPast},
		{"sends commands", checkCommands},
		{"tells what was refused", checkRefusals},
		{"asks for the control token", checkControlToken},
		{"asks for the read token", checkReadToken},
		{"comes back after the agent does", checkRestart},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t, b) })
	}
}

// startFake starts an agent that ends with the test.
func startFake(t *testing.T, f *fakeAgent) string {
	t.Helper()
	address := f.start(t)
	t.Cleanup(f.stop)
	return address
}

// threeModels is an agent like the demo's, with a minute behind it.
func threeModels() *fakeAgent {
	f := newFakeAgent("Llama-3.1-8B", "Llama-3.1-70B", "Llama-3.1-405B")
	f.step(600, nil)
	return f
}
