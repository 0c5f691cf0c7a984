package page

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/api/page/browsertest"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// choose sets a batch size on the page and applies it.
func (p tab) choose(row int, size string) {
	form := fmt.Sprintf(".row:nth-child(%d) .set-batch ", row)
	p.Await(fmt.Sprintf("document.querySelector(%q)?.options.length > 1", form+"select"))
	// As a person would: a value set by script alone is no change.
	p.Run(chromedp.Focus(form+"select"), chromedp.SetValue(form+"select", size),
		chromedp.Evaluate(fmt.Sprintf("document.querySelector(%q).dispatchEvent(new Event('change'))", form+"select"), nil),
		chromedp.Click(form+"button[type=submit]"))
}

func checkCommands(t *testing.T, b *browsertest.Browser) {
	f := threeModels()
	p := open(t, b, startFake(t, f), desktop, "light")
	p.awaitSeq(599)
	p.choose(1, "16")
	p.AwaitText(".row:nth-child(1) .answer", "Accepted: batch size 16 from the step at 60 s")
	f.step(1, nil)
	p.AwaitText(".row:nth-child(1) .batch-now", "16")

	// A lease goes with every command; replicas by the keyboard alone.
	p.Run(chromedp.SendKeys("#lease", "45"), chromedp.Focus(".row:nth-child(2) .delta"),
		chromedp.KeyEvent("a", chromedp.KeyModifiers(2)), chromedp.KeyEvent("-19"),
		chromedp.Click(".row:nth-child(2) .less"), chromedp.Focus(".row:nth-child(2) .delta"), chromedp.KeyEvent(kb.Enter))
	p.AwaitText(".row:nth-child(2) .answer", "Accepted: −20, 196 replicas from the step at 60.1 s, held for 45 s")
	f.step(1, nil)
	p.AwaitText(".row:nth-child(2) .replicas-now", "196")
	p.AwaitText(".row:nth-child(2) .replicas-shift", "shifted −20")
	p.choose(3, "8")
	p.AwaitText(".row:nth-child(3) .answer", "held for 45 s")

	posts := f.received()
	keys := map[string]bool{}
	for i, want := range []post{
		{path: "/v1/batch-sizes", body: map[string]any{"batch_size_by_model": map[string]any{"Llama-3.1-8B": 16.0}}},
		{path: "/v1/replica-shifts", body: map[string]any{"model_label": "Llama-3.1-70B", "replica_delta": -20.0, "lease_s": 45.0}},
		{path: "/v1/batch-sizes", body: map[string]any{"batch_size_by_model": map[string]any{"Llama-3.1-405B": 8.0}, "lease_s": 45.0}},
	} {
		if i >= len(posts) {
			t.Fatalf("%d commands arrived, want 3", len(posts))
		}
		got := posts[i]
		if got.path != want.path || !cmp.Equal(got.body, want.body) || got.contentType != "application/json" || got.authorization != "" {
			t.Errorf("command %d is %+v, want %+v", i, got, want)
		}
		if keys[got.key] || len(got.key) < 32 {
			t.Errorf("command %d has the key %q", i, got.key)
		}
		keys[got.key] = true
	}
	p.WantNoErrors()
}

func checkRefusals(t *testing.T, b *browsertest.Browser) {
	f := threeModels()
	status, body := 0, any(nil)
	f.answer = func(post) (int, any) { return status, body }
	p := open(t, b, startFake(t, f), desktop, "light")
	p.awaitSeq(599)
	for _, c := range []struct {
		status int
		body   map[string]any
		want   string
	}{
		{422, map[string]any{"title": "Unprocessable Entity", "detail": "the command was not carried out", "errors": []any{
			map[string]any{"message": "must be one of 8, 16", "location": "body.batch_size_by_model.Llama-3.1-8B", "value": 64},
		}}, "Refused: the command was not carried out; batch_size_by_model.Llama-3.1-8B: must be one of 8, 16"},
		{409, problemOf(409, "the run has not begun"), "Refused: the run has not begun"},
		{503, nil, "Refused: the agent answered with status 503"},
		{502, map[string]any{"title": "Bad Gateway", "detail": "1 of 1 servers failed", "results": []any{
			map[string]any{"model_label": "Llama-3.1-8B", "outcome": "unreachable", "detail": "dial tcp: connection refused"},
		}}, "The server is out of reach: dial tcp: connection refused"},
		{502, map[string]any{"title": "Bad Gateway", "results": []any{
			map[string]any{"model_label": "Llama-3.1-8B", "outcome": "refused", "detail": "status 400"},
		}}, "The server refused: status 400"},
	} {
		f.mu.Lock()
		status, body = c.status, c.body
		f.mu.Unlock()
		p.choose(1, "8")
		p.AwaitText(".row:nth-child(1) .answer.bad", c.want)
	}
	// What is not a number does not leave the page.
	p.Run(chromedp.SetValue(".row:nth-child(1) .delta", ""), chromedp.Click(".row:nth-child(1) .shift-replicas button[type=submit]"))
	p.AwaitText(".row:nth-child(1) .answer.bad", "give a whole number of replicas")
	if n := len(f.received()); n != 5 {
		t.Errorf("%d commands arrived, want 5", n)
	}
}

func (p tab) enterToken(token string) {
	p.Run(chromedp.WaitVisible("#token"), chromedp.SendKeys("#token", token+kb.Enter))
	p.Await("document.querySelector('#token').value === ''") // it has been taken in
}

func checkControlToken(t *testing.T, b *browsertest.Browser) {
	f := threeModels()
	f.token = "token-for-control"
	p := open(t, b, startFake(t, f), desktop, "light")
	p.awaitSeq(599)
	p.Await("document.querySelector('#control-hint').checkVisibility()")
	if browsertest.Eval[bool](p.Tab, "document.querySelector('.controls').checkVisibility()") {
		t.Error("without a token there are controls")
	}
	p.Run(chromedp.Click("#control-token-button"))
	p.enterToken("wrong")
	p.choose(1, "16")
	p.AwaitText(".row:nth-child(1) .answer.bad", "commands need the control token")
	p.AwaitText("#token-reason", "commands need the control token")
	f.step(1, nil)
	p.awaitSeq(600) // a wrong token for commands does not blind the page
	p.enterToken("token-for-control")
	p.choose(1, "32")
	p.AwaitText(".row:nth-child(1) .answer.good", "Accepted: batch size 32")
	posts := f.received()
	if got := posts[len(posts)-1].authorization; got != "Bearer token-for-control" {
		t.Errorf("the command came with %q", got)
	}
	p.Run(chromedp.Reload())
	p.Await("document.querySelector('.controls')?.checkVisibility()") // the tab remembers
	for what, where := range map[string]string{"the address": "location.href", "storage that outlives the tab": "JSON.stringify(localStorage)", "the text": "document.documentElement.outerHTML"} {
		if strings.Contains(browsertest.Eval[string](p.Tab, where), "token-for-control") {
			t.Errorf("the token is in %s", what)
		}
	}
	p.Run(chromedp.Click("#token-button"), chromedp.Click("#token-forget"))
	p.Await("!document.querySelector('.controls').checkVisibility() && sessionStorage.length === 0")
}

func checkReadToken(t *testing.T, b *browsertest.Browser) {
	f := threeModels()
	f.token, f.readToken = "token-for-control", "for-reading/+?=~"
	p := open(t, b, startFake(t, f), desktop, "light")
	p.AwaitText("#connection", "a token is needed to read")
	p.enterToken("wrong")
	p.Await("document.querySelector('#token-dialog').open")
	p.enterToken(f.readToken)
	p.AwaitText("#connection", "connected")
	p.awaitSeq(599)
	f.step(1, nil)
	p.awaitSeq(600)
	f.mu.Lock()
	seen := f.tokensSeen
	f.mu.Unlock()
	for _, token := range seen {
		if token != f.readToken {
			t.Errorf("a socket came with the token %q", token)
		}
	}
	// It reads, but does not command.
	p.choose(2, "8")
	p.AwaitText(".row:nth-child(2) .answer.bad", "commands need the control token")
	p.enterToken(f.token)
	p.choose(2, "8")
	p.AwaitText(".row:nth-child(2) .answer.good", "Accepted")
}

func checkRestart(t *testing.T, b *browsertest.Browser) {
	f := threeModels()
	address := startFake(t, f)
	p := open(t, b, address, desktop, "light")
	p.awaitSeq(599)
	f.stop()
	p.AwaitText("#connection", "connection lost")
	p.choose(1, "16")
	p.AwaitText(".row:nth-child(1) .answer.bad", "does not answer")
	// Back with the same run: nothing is lost, nothing is told.
	f.step(5, nil)
	f.start(t)
	p.AwaitText("#connection", "connected")
	p.awaitSeq(604)
	if browsertest.Eval[bool](p.Tab, "document.querySelector('#notice').checkVisibility()") {
		t.Error("the same run is taken for a new one")
	}
	// Back as a new run, with other models.
	f.stop()
	p.AwaitText("#connection", "connection lost")
	f.forget()
	f.labels = []string{"Llama-3.1-8B", "Qwen3-30B"}
	f.event(datacenter.DataFresh{ModelLabel: "Qwen3-30B"})
	f.step(3, nil)
	f.start(t)
	p.AwaitText("#connection", "connected")
	p.awaitSeq(2)
	p.AwaitText(".row:nth-child(2) .label", "Qwen3-30B")
	p.AwaitText("#notice", "began a new run")
	p.AwaitText("#events li:first-child", "Qwen3-30B")
	f.step(2, nil)
	p.awaitSeq(4)
	p.WantNoErrors("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "WebSocket connection to")
	if rows := browsertest.Eval[int](p.Tab, "document.querySelectorAll('.row').length"); rows != 2 {
		t.Errorf("%d rows, want 2", rows)
	}
}
