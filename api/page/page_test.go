package page

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func request(t *testing.T, method, path, ifNoneMatch string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
	if ifNoneMatch != "" {
		r.Header.Set("If-None-Match", ifNoneMatch)
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	return w
}

func TestHandler(t *testing.T) {
	for path, contentType := range map[string]string{
		"/": "text/html; charset=utf-8", "/assets/app.js": "text/javascript; charset=utf-8", "/assets/style.css": "text/css; charset=utf-8",
	} {
		response := request(t, http.MethodGet, path, "")
		size := response.Body.Len()
		if response.Code != http.StatusOK || size == 0 {
			t.Fatalf("%s: status %d, %d bytes", path, response.Code, size)
		}
		for name, want := range map[string]string{
			"Content-Type": contentType, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache",
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
		} {
			if got := response.Header().Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		tag := response.Header().Get("ETag")
		if again := request(t, http.MethodGet, path, tag); again.Code != http.StatusNotModified {
			t.Errorf("%s: status %d for what the browser has (%s)", path, again.Code, tag)
		}
		head := request(t, http.MethodHead, path, "")
		if got := head.Header().Get("Content-Length"); head.Code != http.StatusOK || head.Body.Len() != 0 || got != strconv.Itoa(size) {
			t.Errorf("%s: HEAD gives status %d, length %s and %d bytes; GET gives %d bytes", path, head.Code, got, head.Body.Len(), size)
		}
	}
	for _, path := range []string{"/index.html", "/assets", "/assets/", "/assets/index.html", "/assets/../page.go", "/assets/none.js", "//", "/v1/none"} {
		if response := request(t, http.MethodGet, path, ""); response.Code != http.StatusNotFound {
			t.Errorf("%s: status %d, want 404", path, response.Code)
		}
	}
	if response := request(t, http.MethodPost, "/", ""); response.Code != http.StatusMethodNotAllowed || response.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: status %d, Allow %q", response.Code, response.Header().Get("Allow"))
	}
}

// The page works without internet: it names no other host, and what it names of
// its own is there.
func TestNothingFromElsewhere(t *testing.T) {
	entries, err := assets.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := regexp.MustCompile(`\b(https?|wss?):?//[^'"\s]*|@import|\burl\(["']?[^d]`)
	reference := regexp.MustCompile(`(?:from|src=|href=)\s*["'](\./|assets/)([^"']+)["']`)
	found := 0
	for _, entry := range entries {
		content, err := assets.ReadFile(folder + "/" + entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(content), "http://www.w3.org/2000/svg", "") // a name, not an address
		if foreign := elsewhere.FindString(text); foreign != "" {
			t.Errorf("%s names %q", entry.Name(), foreign)
		}
		for _, match := range reference.FindAllStringSubmatch(text, -1) {
			found++
			if response := request(t, http.MethodGet, "/assets/"+match[2], ""); response.Code != http.StatusOK {
				t.Errorf("%s names %s: status %d", entry.Name(), match[2], response.Code)
			}
		}
	}
	if found < 10 {
		t.Errorf("only %d references were found", found)
	}
}

// The page tells every event in plain words, and marks those that call for attention.
func TestPageKnowsAllEvents(t *testing.T) {
	script := request(t, http.MethodGet, "/assets/events.js", "").Body.String()
	_, script, _ = strings.Cut(script, "\nconst topics = {\n")
	script, _, _ = strings.Cut(script, "\n};\n")
	attention := map[string]bool{}
	for _, entry := range regexp.MustCompile(`(?m)^  '`).Split(script, -1)[1:] {
		topic, rest, _ := strings.Cut(entry, "'")
		attention[topic] = strings.Contains(rest, "\n    attention: true,\n")
	}
	want := map[string]bool{}
	for _, kind := range datacenter.EventKinds() {
		want[kind.Topic()] = kind.Attention
	}
	if diff := cmp.Diff(want, attention); diff != "" {
		t.Errorf("the topics of events.js, and whether they call for attention (-want +got):\n%s", diff)
	}
}
