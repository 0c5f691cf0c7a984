package metrics

import (
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

// openMetricsNames are the names of all samples that a family of a type may have:
// in OpenMetrics no two families may share one, and strict readers refuse a page
// where they do.
func openMetricsNames(t *testing.T, family, kind string) []string {
	t.Helper()
	suffixes := map[string][]string{
		"gauge": {""}, "unknown": {""}, "info": {"_info"}, "stateset": {""}, "counter": {"_total", "_created"},
		"summary": {"", "_count", "_sum", "_created"}, "histogram": {"_bucket", "_count", "_sum", "_created"},
	}[kind]
	if suffixes == nil {
		t.Errorf("%s is a %q, of which OpenMetrics knows nothing", family, kind)
	}
	names := []string{family} // the family's own is taken, too
	for _, s := range suffixes {
		if s != "" {
			names = append(names, family+s)
		}
	}
	return names
}

// checkOpenMetrics checks what a strict reader would refuse a page for.
func checkOpenMetrics(t *testing.T, page string) {
	t.Helper()
	if !strings.HasSuffix(page, "\n# EOF\n") {
		t.Errorf("the page ends with %q, want # EOF", page[max(0, len(page)-40):])
	}
	taken, kinds, current := map[string]string{}, map[string]string{}, ""
	line := regexp.MustCompile(`^(# (TYPE|HELP|UNIT) )?([a-zA-Z_:][a-zA-Z0-9_:]*)(.*)$`)
	for text := range strings.Lines(strings.TrimSuffix(page, "# EOF\n")) {
		text = strings.TrimSuffix(text, "\n")
		parts := line.FindStringSubmatch(text)
		if parts == nil {
			t.Errorf("no line of OpenMetrics: %q", text)
			continue
		}
		name, rest := parts[3], strings.TrimSpace(parts[4])
		if parts[1] != "" && name != current {
			if _, again := kinds[name]; again {
				t.Errorf("family %s stands there twice", name)
			}
			current, kinds[name] = name, ""
		}
		switch {
		case parts[2] == "TYPE":
			kinds[name] = rest
			for _, sample := range openMetricsNames(t, name, rest) {
				if other, is := taken[sample]; is {
					t.Errorf("families %s and %s both have %s", other, name, sample)
				}
				taken[sample] = name
			}
		case parts[1] == "" && taken[name] != current:
			t.Errorf("sample %s stands in family %s", name, current)
		}
	}
	if len(kinds) < 50 {
		t.Errorf("%d families, want all", len(kinds))
	}
}

func TestOpenMetricsThatStrictReadersTake(t *testing.T) {
	for name, r := range map[string]*run{"live": liveRun(t), "replay": replayRun(t)} {
		t.Run(name, func(t *testing.T) {
			m := r.metrics(t)
			use(m)
			server := httptest.NewServer(m.Handler())
			defer server.Close()
			for range 2 { // a scrape counts itself only in the next
				page := getOpenMetrics(t, server)
				checkOpenMetrics(t, page)
				for _, want := range []string{"\ngo_memstats_alloc_bytes_total ", "\ngo_memstats_heap_alloc_bytes "} {
					if !strings.Contains(page, want) {
						t.Errorf("no line begins with %q", want[1:])
					}
				}
			}
		})
	}
}

func getOpenMetrics(t *testing.T, server *httptest.Server) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if kind := resp.Header.Get("Content-Type"); err != nil || !strings.HasPrefix(kind, "application/openmetrics-text") {
		t.Fatalf("content type %q, %v", kind, err)
	}
	return string(body)
}
