package problem

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWrite(t *testing.T) {
	w := httptest.NewRecorder()
	w.Header().Set("Retry-After", "3")
	w.Header().Set("Content-Length", "9999")
	New(409, `the "run" is %s <&>`, "over").At("body.steps", "too many").With("Allow", "GET").Write(w)
	h := w.Header()
	for name, want := range map[string]string{
		"Content-Type": contentType, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Retry-After": "3", "Allow": "GET", "Content-Length": "",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	var p Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	if w.Code != 409 || p.Status != 409 || p.Title != "Conflict" || p.Detail != `the "run" is over <&>` || len(p.Errors) != 1 || p.Errors[0].Location != "body.steps" || p.Errors[0].Message != "too many" {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}

func TestShorten(t *testing.T) {
	if got := Shorten("short"); got != "short" {
		t.Errorf("%q", got)
	}
	if got := Shorten(strings.Repeat("ü", 1000)); len(got) > maxEcho+3 || !utf8.ValidString(got) {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}
