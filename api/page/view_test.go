package page

import (
	"bytes"
	"fmt"
	"image/png"
	"math"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"

	"github.com/g2g-agent/g2g-agent/api/page/browsertest"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// drawn is what the plots look like.
const drawn = "[...document.querySelectorAll('canvas')].map((c) => c.toDataURL())"

func checkShowsStates(t *testing.T, b *browsertest.Browser) {
	f := threeModels()
	p := open(t, b, startFake(t, f), desktop, "light")
	p.awaitSeq(599)
	before := browsertest.Eval[[]string](p.Tab, drawn)
	if len(before) != 13 {
		t.Fatalf("%d plots, want 13: one of the phases, four of each model", len(before))
	}
	f.step(10, func(s *datacenter.State) {
		s.PowerW = datacenter.ThreePhase{A: 1.1e6, B: 9e5, C: 1e6}
		s.Models[1].PowerW, s.Models[1].Live.ITLPercentilesS.P99 = 345_678, 0.0851
		s.Models[1].Throughput, s.Models[2].Throughput = datacenter.ThroughputOf(1_234_567), datacenter.Throughput{}
	})
	p.awaitSeq(609)
	for i, after := range browsertest.Eval[[]string](p.Tab, drawn) {
		if after == before[i] {
			t.Errorf("plot %d did not move", i)
		}
	}
	for selector, want := range map[string]string{
		"#site": "demo", "#phase": "stepping", "#source": "live", "#connection": "connected", "#dt": "0.1 s", "#time": "60.9 s",
		"#gpus": "40 of 2,304", "#version": "0.3.0", "#power-total": "3.000 MW", "#power-a": "1.100 MW", "#power-b": "900.0 kW",
		"#imbalance": "10.00 %", "#power-measured": "1.503 MW", ".row:nth-child(2) .label": "Llama-3.1-70B",
		".row:nth-child(2) .power-now": "345.7 kW", ".row:nth-child(2) .power-measured": "measured 430 W · factor 216",
		".row:nth-child(2) .tokens-now": "1.23 M tok/s",
		".row:nth-child(3) .tokens-now": "", ".row:nth-child(2) .batch-now": "64", ".row:nth-child(2) .replicas-now": "216", ".row:nth-child(2) .itl-deadline": "p99 85.1 ms · deadline 100 ms",
	} {
		if got := p.Text(selector); got != want {
			t.Errorf("%s shows %q, want %q", selector, got, want)
		}
	}
	f.step(1, func(s *datacenter.State) { s.Models[1].Live.ITLPercentilesS.P99 = 0.1234 })
	p.AwaitText(".row:nth-child(2).is-late .itl-deadline", "⚠ p99 123 ms · deadline 100 ms")
	p.WantNoErrors()
}

func checkPointer(t *testing.T, b *browsertest.Browser) {
	f := threeModels()
	p := open(t, b, startFake(t, f), desktop, "light")
	f.step(1, func(s *datacenter.State) { s.PowerW = datacenter.ThreePhase{A: 1.1e6, B: 9e5, C: 1e6} })
	p.awaitSeq(600)
	box := browsertest.Eval[[]float64](p.Tab, "(({ right, top, height }) => [right, top + height / 2])(document.querySelector('#plot-phases').getBoundingClientRect())")
	p.Run(chromedp.MouseEvent(input.MouseMoved, box[0]-3, box[1]))
	p.Await("document.querySelector('#plot-phases').dataset.pointed?.startsWith('A 1.100 · B 0.900 · C 1.000 MW')")
	p.Await("document.querySelectorAll('canvas[data-pointed]').length === 13") // all tell the same time
	p.Run(chromedp.MouseEvent(input.MouseMoved, 5, 5))
	p.Await("document.querySelector('canvas[data-pointed]') === null")
	p.WantNoErrors()
}

func checkLayout(t *testing.T, b *browsertest.Browser) {
	f := threeModels()
	f.event(datacenter.DataStale{ModelLabel: "Llama-3.1-8B", AgeS: 3, Cause: strings.Repeat("connection-refused ", 20)})
	address := startFake(t, f)
	for _, c := range []struct {
		browsertest.Size
		scrollsDown bool
	}{{desktop, false}, {browsertest.Size{Width: 1920, Height: 1080}, false}, {browsertest.Size{Width: 800, Height: 1000}, true}, {phone, true}, {browsertest.Size{Width: 320, Height: 640}, true}} {
		p := open(t, b, address, c.Size, "light")
		p.awaitSeq(599)
		if width := browsertest.Eval[int64](p.Tab, "document.documentElement.scrollWidth"); width > c.Width {
			t.Errorf("at %v the page is %d wide", c.Size, width)
		}
		if height := browsertest.Eval[int64](p.Tab, "document.documentElement.scrollHeight"); !c.scrollsDown && height > c.Height {
			t.Errorf("at %v the page is %d high", c.Size, height)
		}
		// Text that does not fit its box is cut off or lies over its neighbour.
		if cut := browsertest.Eval[[]string](p.Tab, `[...document.querySelectorAll('header *, .panel-head, .panel-head *, .section-head *, .cell, .cell-head, .sub, .cell button, .cell label, #events')]
			.filter((e) => e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1).map((e) => e.className + ' ' + e.textContent)`); len(cut) > 0 {
			t.Errorf("at %v this does not fit: %q", c.Size, cut)
		}
		if small := browsertest.Eval[[]string](p.Tab, `[...document.querySelectorAll('canvas')].filter((c) => c.clientHeight < 60 || c.clientWidth < 100)
			.map((c) => c.className + ' ' + c.clientWidth + 'x' + c.clientHeight)`); len(small) > 0 {
			t.Errorf("at %v these plots are too small: %q", c.Size, small)
		}
		p.WantNoErrors()
	}
}

// lowContrast finds texts that stand out less from what is behind them than
// WCAG's level AA asks for.
const lowContrast = `(() => {
	const luminance = (c) => {
		const [r, g, b] = c.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const parse = (text) => text.match(/[\d.]+/g).map(Number);
	const behind = (e) => {
		for (; e; e = e.parentElement) {
			const c = parse(getComputedStyle(e).backgroundColor);
			if (c.length < 4 || c[3] === 1) return c.slice(0, 3);
		}
		return [255, 255, 255];
	};
	const bad = [];
	let seen = 0;
	for (const e of document.querySelectorAll('body *')) {
		const own = [...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.textContent.trim());
		if (!own || !e.checkVisibility() || e.matches('option, .skip-link')) continue;
		seen++;
		const [x, y] = [luminance(parse(getComputedStyle(e).color).slice(0, 3)), luminance(behind(e))];
		const ratio = (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
		if (ratio < 4.5) bad.push(e.textContent.trim() + ': ' + ratio.toFixed(2));
	}
	return seen > 40 ? bad : ['only ' + seen + ' texts were found'];
})()`

func checkThemes(t *testing.T, b *browsertest.Browser) {
	f := threeModels()
	f.event(datacenter.DataStale{ModelLabel: "Llama-3.1-8B", AgeS: 3, Cause: "connection refused"})
	f.step(1, func(s *datacenter.State) {
		s.Models[0].Live.Stale, s.Models[0].Live.StaleAgeS = true, 3
		s.Models[2].ObservedITLS, s.Models[2].Live.ITLPercentilesS.P99 = 0.3, 0.4
	})
	address := startFake(t, f)
	brightness := map[string]float64{}
	var p tab
	for _, scheme := range []string{"light", "dark"} {
		p = open(t, b, address, desktop, scheme)
		p.awaitSeq(600)
		p.Await("document.querySelector('.badge.stale').checkVisibility()")
		if bad := browsertest.Eval[[]string](p.Tab, lowContrast); len(bad) > 0 {
			t.Errorf("in %s, hard to read: %q", scheme, bad)
		}
		brightness[scheme] = p.brightness()
		p.WantNoErrors()
	}
	if brightness["light"] < 0.85 || brightness["dark"] > 0.25 {
		t.Errorf("mean brightness is %v", brightness)
	}
	// The button overrides the system, and the plots follow.
	before := browsertest.Eval[[]string](p.Tab, drawn)
	p.Run(chromedp.Click("#theme-button"))
	p.AwaitText("#theme-button", "Theme: light")
	p.Await(fmt.Sprintf("document.querySelector('canvas').toDataURL() !== %q", before[0]))
	if got := p.brightness(); math.Abs(got-brightness["light"]) > 0.05 {
		t.Errorf("brightness is %v once light was chosen, want about %v", got, brightness["light"])
	}
	p.Run(chromedp.Reload())
	p.AwaitText("#theme-button", "Theme: light") // it is remembered
}

// brightness is the mean brightness of what is on the screen, from 0 to 1.
func (p tab) brightness() float64 {
	var shot []byte
	p.Run(chromedp.CaptureScreenshot(&shot))
	img, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		panic(err)
	}
	sum, n := 0.0, 0.0
	for y := img.Bounds().Min.Y; y < img.Bounds().Max.Y; y += 3 {
		for x := img.Bounds().Min.X; x < img.Bounds().Max.X; x += 3 {
			r, g, b, _ := img.At(x, y).RGBA()
			sum, n = sum+float64(r+g+b)/(3*0xffff), n+1
		}
	}
	return sum / n
}

// colouredColumns are, for the latency plot of the first model, the parts of its
// width (from 0 to 1) where the line of the mean is.
const colouredColumns = `(() => {
	const canvas = document.querySelector('.plot-itl');
	const probe = document.createElement('i');
	probe.style.color = 'var(--main)';
	document.body.append(probe);
	const [r, g, b] = getComputedStyle(probe).color.match(/\d+/g).map(Number);
	probe.remove();
	const { data, width, height } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
	const found = [];
	for (let x = 0; x < width; x++) {
		for (let y = 0; y < height; y++) {
			const i = 4 * (y * width + x);
			if (data[i + 3] > 128 && Math.hypot(data[i] - r, data[i + 1] - g, data[i + 2] - b) < 60) { found.push(x / width); break; }
		}
	}
	return found;
})()`

func checkGaps(t *testing.T, b *browsertest.Browser) {
	f := newFakeAgent("one")
	f.step(1200, func(s *datacenter.State) {
		if s.Seq >= 500 && s.Seq < 700 {
			s.Models[0].ObservedITLS = math.NaN()
		}
	})
	p := open(t, b, startFake(t, f), desktop, "light")
	p.awaitSeq(1199)
	left, middle, right := 0, 0, 0
	for _, x := range browsertest.Eval[[]float64](p.Tab, colouredColumns) {
		switch {
		case x < 0.45:
			left++
		case x > 0.53 && x < 0.63:
			middle++
		case x > 0.7:
			right++
		}
	}
	if left == 0 || right == 0 || middle != 0 {
		t.Errorf("the line is in %d columns before the gap, %d in it, %d after it; want none in it", left, middle, right)
	}
	f.step(1, func(s *datacenter.State) { s.Models[0].ObservedITLS = math.NaN(); s.Models[0].Live.Server = nil })
	p.awaitSeq(1200)
	if got := p.Text(".batch-achieved"); got != "running: not known" {
		t.Errorf("without metrics of the server it shows %q", got)
	}
	f.step(1, func(s *datacenter.State) {
		nan := math.NaN()
		s.Models[0].Live.Server = &datacenter.ServerLoad{NumRequestsRunning: nan, NumRequestsWaiting: 3, KVCacheUsagePerc: nan, NumPreemptionsTotal: nan}
	})
	p.awaitSeq(1201)
	if got := p.Text(".batch-achieved"); got != "3 waiting · running: not known" {
		t.Errorf("with some of the metrics alone it shows %q", got)
	}
	p.WantNoErrors()
}

func checkBounded(t *testing.T, b *browsertest.Browser) {
	p := open(t, b, startFake(t, newFakeAgent("one")), desktop, "light")
	got := browsertest.Eval[[]float64](p.Tab, `import('/assets/recent.js').then(({ Recent, modelColumn }) => {
		const recent = new Recent(['one', '__proto__', 'constructor'], 100);
		let longest = 0;
		for (let seq = 0; seq < 1e4; seq++) {
			recent.append({ seq, time_s: seq / 10, power_by_model_w: JSON.parse('{"one": ' + seq + ', "__proto__": 7}') });
			longest = Math.max(longest, recent.length);
		}
		const first = recent.firstAtOrAfter(999);
		return [longest, recent.length >= 100 ? 1 : 0, recent.column('time')[first], recent.column(modelColumn(0, 'power'))[first],
			recent.column(modelColumn(1, 'power'))[first], Number.isNaN(recent.column(modelColumn(2, 'power'))[first]) ? 1 : 0];
	})`)
	if want := []float64{200, 1, 999, 9990, 7, 1}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func checkTicks(t *testing.T, b *browsertest.Browser) {
	p := open(t, b, startFake(t, newFakeAgent("one")), desktop, "light")
	for _, c := range []struct{ arguments, want string }{
		{"0, 64, 3", "0 25 50 75"},
		{"0, 1, 4", "0.00 0.25 0.50 0.75 1.00"},
		{"812, 947, 5", "800 850 900 950"},
		{"1.613, 1.681, 4", "1.60 1.62 1.64 1.66 1.68 1.70"},
		{"-3, 4, 4", "-4 -2 0 2 4"},
		{"0.0799, 0.0801, 2", "0.0799 0.0800 0.0801"},
	} {
		got := browsertest.Eval[string](p.Tab, "import('/assets/plot.js').then(({ niceTicks }) => { const { ticks, decimals } = niceTicks("+c.arguments+
			"); return ticks.map((tick) => tick.toFixed(decimals)).join(' '); })")
		if got != c.want {
			t.Errorf("ticks for %s are %s, want %s", c.arguments, got, c.want)
		}
	}
}

func checkStale(t *testing.T, b *browsertest.Browser) {
	f := threeModels()
	p := open(t, b, startFake(t, f), desktop, "light")
	p.awaitSeq(599)
	if browsertest.Eval[bool](p.Tab, "document.querySelector('.is-stale') !== null") {
		t.Error("a fresh model is shown as stale")
	}
	f.step(1, func(s *datacenter.State) { s.Models[1].Live.Stale, s.Models[1].Live.StaleAgeS = true, 3.25 })
	p.Await("document.querySelector('.row:nth-child(2).is-stale .badge.stale')?.checkVisibility()")
	if got := p.Text(".row:nth-child(2) .badge.stale"); got != "stale for 3.3 s" && got != "stale for 3.2 s" {
		t.Errorf("the badge says %q", got)
	}
	if plain, red := browsertest.Eval[string](p.Tab, "getComputedStyle(document.querySelector('.row:nth-child(1) h3')).color"),
		browsertest.Eval[string](p.Tab, "getComputedStyle(document.querySelector('.row:nth-child(2) h3')).color"); plain == red {
		t.Errorf("the name of a stale model has the color of the others, %s", red)
	}
	f.step(1, nil)
	p.Await("document.querySelector('.is-stale') === null")
	p.WantNoErrors()
}

func checkEvents(t *testing.T, b *browsertest.Browser) {
	f := newFakeAgent("one", "two")
	f.event(datacenter.BatchSizesUpdated{BatchSizeByModel: datacenter.ByModel[int]{{ModelLabel: "one", Value: 64}, {ModelLabel: "two", Value: 64}}})
	p := open(t, b, startFake(t, f), desktop, "light")
	p.AwaitText("#events", "one 64, two 64")
	for _, c := range []struct {
		data        datacenter.EventData
		title, tell string
	}{
		{datacenter.BatchSizesUpdated{BatchSizeByModel: datacenter.ByModel[int]{{ModelLabel: "one", Value: 16}, {ModelLabel: "two", Value: 64}}}, "Batch sizes set", "one 64 → 16"},
		{datacenter.ReplicasShifted{ModelLabel: "two", ReplicaDelta: -20, EffectiveReplicas: 1700}, "Replicas shifted", "two −20, now 1,700"},
		{datacenter.BatchSizeLeaseExpired{ModelLabel: "one", FailsafeBatchSize: 8}, "Batch size not renewed in time", "one returns to 8"},
		{datacenter.ReplicaLeaseExpired{ModelLabel: "two", ReplicaDelta: -20}, "Replica shift not renewed in time", "two: −20 taken back"},
		{datacenter.DataStale{ModelLabel: "one", AgeS: 2.1, Cause: "connection refused"}, "Power readings missing", "one, for 2.1 s: connection refused"},
		{datacenter.DataFresh{ModelLabel: "one"}, "Power readings back", "one"},
		{unknownEvent{Answer: 42}, "datacenter.unheard.of", `{"answer":42}`},
	} {
		f.event(c.data)
		p.AwaitText("#events li:first-child strong", c.title)
		p.AwaitText("#events li:first-child .event-detail", c.tell)
	}
	if got := browsertest.Eval[int](p.Tab, "document.querySelectorAll('#events li').length"); got != 8 {
		t.Errorf("%d events are listed, want 8", got)
	}
	for range 300 {
		f.event(datacenter.DataFresh{ModelLabel: "two"})
	}
	p.Await("document.querySelectorAll('#events li').length === 200")
	p.WantNoErrors()
}

// unknownEvent is of a later version.
type unknownEvent struct {
	Answer int `json:"answer"`
}

func (unknownEvent) Topic() string { return "datacenter.unheard.of" }

func checkInjection(t *testing.T, b *browsertest.Browser) {
	const evil = `<img src=x onerror="document.title='owned'">`
	f := newFakeAgent(evil, "__proto__", "constructor")
	f.step(3, nil)
	f.event(datacenter.DataStale{ModelLabel: evil, AgeS: 2, Cause: "<script>document.title='owned'</script>" + evil})
	f.answer = func(post) (int, any) { return 422, problemOf(422, "no such size: "+evil) }
	p := open(t, b, startFake(t, f), desktop, "light")
	p.awaitSeq(2)
	p.AwaitText("#events", evil)
	p.Run(chromedp.Click(".row:first-child .set-batch button"))
	p.AwaitText(".row:first-child .answer", evil)
	if got := p.Text(".row:first-child h3"); got != evil {
		t.Errorf("the label is shown as %q", got)
	}
	if got := p.Text(".row:nth-child(2) .power-now"); !strings.HasPrefix(got, "31") {
		t.Errorf("the power of a model called __proto__ is shown as %q", got)
	}
	if got := browsertest.Eval[int](p.Tab, "document.images.length + document.querySelectorAll('script').length"); got != 1 {
		t.Errorf("the page has %d scripts and images, want its own script", got)
	}
	if got := browsertest.Eval[string](p.Tab, "document.title"); got == "owned" {
		t.Error("text became a script")
	}
	p.WantNoErrors("422 (Unprocessable Entity)")
}

func checkPhases(t *testing.T, b *browsertest.Browser) {
	f := newFakeAgent("one")
	f.live, f.phase = false, "starting"
	p := open(t, b, startFake(t, f), desktop, "light")
	p.AwaitText("#phase", "starting")
	p.Await("document.querySelector('#plot-phases').dataset.empty === 'true'")
	f.setPhase("waiting")
	f.step(1, nil)
	p.AwaitText("#phase", "waiting for steps")
	p.AwaitText("#source", "replay, in lockstep")
	p.awaitSeq(0)
	f.step(1000, nil) // a batch of steps
	p.awaitSeq(1000)
	if browsertest.Eval[bool](p.Tab, "document.querySelector('#measured-stat').checkVisibility()") {
		t.Error("a replay has measured power")
	}
	f.setPhase("ended")
	p.AwaitText("#phase", "ended")
	p.WantNoErrors()
}

func checkSkipped(t *testing.T, b *browsertest.Browser) {
	f := threeModels()
	p := open(t, b, startFake(t, f), desktop, "light")
	p.awaitSeq(599)
	f.send(map[string]int{"skipped": 7})
	f.send(map[string]int{"skipped": 5})
	f.step(1, nil)
	p.AwaitText("#skipped", "12 states")
	p.WantNoErrors()
}
