package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/g2g-agent/g2g-agent/api/page/browsertest"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// TestPage looks at the demo's live page: it asks for the token it needs, it moves,
// a command sent from it changes the state, and it recovers when the agent is
// killed and started again.
func TestPage(t *testing.T) {
	browser := browsertest.Start(t)
	const readToken, controlToken = "a-token-for-reading", "a-token-for-commands"
	env := []string{
		"G2G_AGENT_LIVE__STAGGER_S=1",
		"G2G_AGENT_API__READ_TOKEN_FILE=" + writeToken(t, readToken), "G2G_AGENT_API__TOKEN_FILE=" + writeToken(t, controlToken),
	}
	agent := startAPI(t, env, "demo")
	agent.token = readToken
	address := agent.url
	page := browser.Open(t, address+"/", browsertest.Size{Width: 1440, Height: 900}, "light")
	page.AwaitText("#connection", "a token is needed to read")
	enterToken(page, readToken)
	page.AwaitText("#phase", "stepping")
	awaitMoves(page, 13)

	const model, batchSize = "Llama-3.1-405B", 8
	page.AwaitText(".row:nth-child(3) .batch-now", "32")
	setBatchSize(page, 3, batchSize)
	page.AwaitText(".row:nth-child(3) .answer.bad", "Refused") // the token for reading does not do
	enterToken(page, controlToken)
	setBatchSize(page, 3, batchSize)
	page.AwaitText(".row:nth-child(3) .answer", fmt.Sprintf("Accepted: batch size %d", batchSize))
	page.AwaitText(".row:nth-child(3) .batch-now", fmt.Sprint(batchSize)) // of a state that came after it
	var state datacenter.State
	if err := json.Unmarshal(agent.get(t, http.StatusOK, "/v1/state"), &state); err != nil {
		t.Fatal(err)
	}
	if m := state.Models[2]; m.ModelLabel != model || m.BatchSize != batchSize {
		t.Errorf("the state says %s has the batch size %d, want %s and %d", m.ModelLabel, m.BatchSize, model, batchSize)
	}
	page.AwaitText("#events", model+" 8")
	page.WantNoErrors("401 (Unauthorized)", "403 (Forbidden)")

	agent.kill()
	page.AwaitText("#connection", "connection lost")
	again := startAPI(t, append(env, "G2G_AGENT_API__LISTEN="+strings.TrimPrefix(address, "http://")), "demo")
	page.AwaitText("#connection", "connected")
	page.AwaitText("#notice", "began a new run")
	page.AwaitText("#phase", "stepping")
	page.AwaitText(".row:nth-child(3) .batch-now", "32")
	awaitMoves(page, 13)
	again.terminate(t)
}

// enterToken types a token into the dialog that asks for it.
func enterToken(page *browsertest.Tab, token string) {
	page.Run(chromedp.WaitVisible("#token"), chromedp.SendKeys("#token", token+kb.Enter))
	page.Await("!document.querySelector('#token-dialog').open")
}

// setBatchSize chooses a batch size on a model's row and applies it.
func setBatchSize(page *browsertest.Tab, row, size int) {
	form := fmt.Sprintf(".row:nth-child(%d) .set-batch ", row)
	page.Run(
		chromedp.SetValue(form+"select", fmt.Sprint(size)),
		chromedp.Evaluate(fmt.Sprintf("document.querySelector(%q).dispatchEvent(new Event('change'))", form+"select"), nil),
		chromedp.Click(form+"button[type=submit]"),
	)
}

// awaitMoves waits until each of so many plots shows another picture than now.
func awaitMoves(page *browsertest.Tab, plots int) {
	page.Await(fmt.Sprintf("document.querySelectorAll('canvas[data-empty=false]').length === %d", plots))
	page.Await(`(() => {
		const pictures = [...document.querySelectorAll('canvas')].map((c) => c.toDataURL());
		window.picturesBefore ??= pictures;
		if (!pictures.every((picture, i) => picture !== window.picturesBefore[i])) return false;
		window.picturesBefore = undefined;
		return true;
	})()`)
}
