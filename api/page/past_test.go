package page

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/g2g-agent/g2g-agent/api/page/browsertest"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/recording"
)

// recordedPast are points of the time before noon of the fake agent's first day, with a gap.
func recordedPast(labels []string, n int, pointMs int64) *recording.Decimated {
	noon := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC).UnixMilli()
	d := &recording.Decimated{PointMs: pointMs}
	for i := range n {
		if i > n/2 && i < n*6/10 {
			continue
		}
		t := float64(i) / float64(n)
		values := func(off float64) recording.Values {
			at := func(v float64) *float64 { return &v }
			by := func(v float64) datacenter.ByModel[*float64] {
				return datacenter.ByModelOf(labels, func(label *string) (string, *float64) { return *label, at(v) })
			}
			wave := math.Sin(20*t) + off
			return recording.Values{
				PowerW:        recording.Phases{A: at(8e5 + 8e4*wave), B: at(7.5e5 + 7e4*wave), C: at(7e5 + 6e4*wave)},
				PowerByModelW: by(3e5 + 3e4*wave), BatchSizeByModel: by(math.Round(40 + 10*wave)), AchievedByModel: by(38 + 10*wave), ActiveReplicas: by(700),
				ObservedITLSByModel: by(0.05 + 0.01*wave), ITLPercentile99ModelS: by(0.07 + 0.01*wave),
			}
		}
		d.Points = append(d.Points, recording.Point{TMs: noon - int64(n-i)*pointMs, States: 2, Mean: values(0), Min: values(-0.5), Max: values(0.5)})
	}
	return d
}

func checkPast(t *testing.T, b *browsertest.Browser) {
	f := threeModels()
	f.recording = recordedPast(f.labels, 270, 80_000)
	p := open(t, b, startFake(t, f), desktop, "light")
	p.awaitSeq(599)
	choose := func(value string) {
		p.Run(chromedp.Evaluate(fmt.Sprintf("{ const range = document.querySelector('#range'); range.value = %q; range.dispatchEvent(new Event('change')); }", value), nil))
	}
	before := browsertest.Eval[[]string](p.Tab, drawn)
	choose("21600")
	p.awaitSeq(len(f.recording.Points) - 1)
	for i, after := range browsertest.Eval[[]string](p.Tab, drawn) {
		if after == before[i] {
			t.Errorf("plot %d does not look back", i)
		}
	}
	f.mu.Lock()
	asked := f.asked
	f.mu.Unlock()
	latest := f.states[599].WallTime.UnixMilli()
	if len(asked) != 1 || asked[0].Get("from_ms") != fmt.Sprint(latest-21_600_000) || asked[0].Get("points") != "300" {
		t.Errorf("it asks for %v", asked)
	}
	// The numbers are the latest ones still, and states that come leave the plots as they are.
	f.step(1, func(s *datacenter.State) { s.PowerW = datacenter.ThreePhase{A: 1.1e6, B: 9e5, C: 1e6} })
	p.AwaitText("#power-total", "3.000 MW")
	p.awaitSeq(len(f.recording.Points) - 1)
	if note := browsertest.Eval[bool](p.Tab, "document.querySelector('#range-note').hidden"); !note {
		t.Errorf("it says %q", p.Text("#range-note"))
	}
	f.mu.Lock()
	f.damages, f.recording = 2, &recording.Decimated{PointMs: 10_000, Points: f.recording.Points[:1]}
	f.mu.Unlock()
	choose("all")
	p.AwaitText("#range-note", "2 parts of the recording cannot be read")
	p.awaitSeq(0)
	f.mu.Lock()
	f.recording = &recording.Decimated{PointMs: 10_000, Points: []recording.Point{}}
	f.mu.Unlock()
	choose("600")
	p.AwaitText("#range-note", "nothing was recorded in that time")
	p.Await("[...document.querySelectorAll('canvas')].every((c) => c.dataset.empty === 'true')")
	choose("latest")
	p.awaitSeq(600)
	p.WantNoErrors()
}

func checkNoPast(t *testing.T, b *browsertest.Browser) {
	f := threeModels()
	p := open(t, b, startFake(t, f), desktop, "light")
	p.awaitSeq(599)
	p.Await("document.querySelector('#range').disabled && document.querySelector('#range').title.includes('--record')")
	p.WantNoErrors()
}
