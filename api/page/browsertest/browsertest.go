// Package browsertest looks at web pages in a headless Chromium, for tests.
package browsertest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// soon bounds what a page does at once, on a machine that may be busy elsewhere.
const soon = 20 * time.Second

// Browser is a headless Chromium.
type Browser struct{ ctx context.Context }

// requireTools is the environment variable that, set to 1, makes a missing browser
// a failure.
const requireTools = "G2GTEST_REQUIRE_TOOLS"

// Start starts the browser, which ends with the test. Without one on the machine
// the test is skipped, or fails where G2GTEST_REQUIRE_TOOLS is 1.
func Start(t *testing.T) *Browser {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless-shell"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		if os.Getenv(requireTools) == "1" {
			t.Fatalf("there is no Chromium on the path, and %s=1", requireTools)
		}
		t.Skip("there is no Chromium on the path: the page is not looked at")
	}
	options := slices.Concat(chromedp.DefaultExecAllocatorOptions[:], []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
	})
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // it does not start otherwise
	}
	allocator, stop := chromedp.NewExecAllocator(t.Context(), options...)
	// This Chromium tells of more than chromedp knows, which it reports as errors;
	// what goes wrong is an error of an action, too.
	ctx, quit := chromedp.NewContext(allocator, chromedp.WithErrorf(func(string, ...any) {}))
	t.Cleanup(func() {
		quit()
		stop()
		chromedp.FromContext(ctx).Allocator.Wait()
	})
	if err := chromedp.Run(ctx); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	return &Browser{ctx}
}

// Tab is a page in the browser. What it stores is its own: each agent has another
// port, and so another origin.
type Tab struct {
	t   *testing.T
	ctx context.Context

	mu     sync.Mutex
	errors []string // what the console says is wrong
}

// Size is that of a tab, in CSS pixels.
type Size struct{ Width, Height int64 }

// Open opens an address in a color scheme, light or dark. The tab is closed with
// the test.
func (b *Browser) Open(t *testing.T, address string, s Size, scheme string) *Tab {
	t.Helper()
	ctx, closeTab := chromedp.NewContext(b.ctx)
	p := &Tab{t: t, ctx: ctx}
	t.Cleanup(closeTab)
	chromedp.ListenTarget(ctx, p.listen)
	if err := chromedp.Run(ctx); err != nil { // the tab lives as long as the context of its first run
		t.Fatal(err)
	}
	p.Run(
		log.Enable(),
		chromedp.EmulateViewport(s.Width, s.Height),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
		chromedp.Navigate(address),
	)
	return p
}

func (p *Tab) listen(event any) {
	text := ""
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		text = e.ExceptionDetails.Error()
	case *log.EventEntryAdded: // failed requests and violations of the content security policy are here
		if e.Entry.Level == log.LevelError || e.Entry.Level == log.LevelWarning {
			text = fmt.Sprintf("%s: %s (%s)", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.APITypeError || e.Type == runtime.APITypeWarning {
			text = "console:"
			for _, arg := range e.Args {
				text += fmt.Sprintf(" %s%s", arg.Value, arg.Description)
			}
		}
	}
	if text != "" {
		p.mu.Lock()
		p.errors = append(p.errors, text)
		p.mu.Unlock()
	}
}

// WantNoErrors wants a console that is clean but for lines with the given parts.
func (p *Tab) WantNoErrors(but ...string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.errors {
		if !slices.ContainsFunc(but, func(part string) bool { return strings.Contains(line, part) }) {
			p.t.Errorf("the browser reports: %s", line)
		}
	}
}

// Run does something in the tab.
func (p *Tab) Run(actions ...chromedp.Action) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, soon)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		p.t.Fatal(err)
	}
}

// Await waits until a JavaScript expression is true.
func (p *Tab) Await(expression string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, soon)
	defer cancel()
	err := chromedp.Run(ctx, chromedp.Poll(expression, nil, chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(soon)))
	if err != nil {
		var text string
		ctx, cancel := context.WithTimeout(p.ctx, soon)
		defer cancel()
		_ = chromedp.Run(ctx, chromedp.Evaluate("document.body.innerText", &text))
		p.mu.Lock()
		defer p.mu.Unlock()
		p.t.Fatalf("not so: %s: %v\nthe page shows:\n%s\nand the browser reports:\n%s", expression, err, text, strings.Join(p.errors, "\n"))
	}
}

// AwaitText waits until an element's text has a part.
func (p *Tab) AwaitText(selector, part string) {
	p.t.Helper()
	p.Await(fmt.Sprintf("document.querySelector(%q)?.textContent.replaceAll('\\u00a0', ' ').includes(%q)", selector, part))
}

// Eval returns the value of a JavaScript expression, which may be a promise.
func Eval[T any](p *Tab, expression string) T {
	p.t.Helper()
	var value T
	p.Run(chromedp.Evaluate(expression, &value, func(e *runtime.EvaluateParams) *runtime.EvaluateParams { return e.WithAwaitPromise(true) }))
	return value
}

// Text is what an element shows.
func (p *Tab) Text(selector string) string {
	p.t.Helper()
	return Eval[string](p, fmt.Sprintf("document.querySelector(%q).innerText.replaceAll('\\u00a0', ' ')", selector))
}
