package api

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// FuzzCommand sends anything at all to the commands: nothing makes the agent fail,
// and nothing is changed by what is not answered with success.
func FuzzCommand(f *testing.F) {
	paths := []string{"/v1/batch-sizes", "/v1/replica-shifts", "/v1/steps"}
	const contentType = "application/json"
	f.Add(uint8(0), []byte(`{"batch_size_by_model": {"small": 8}, "ramp_up_rate_by_model": {"small": 1.5}, "lease_s": 5}`), contentType, "", "")
	f.Add(uint8(0), []byte(`{"batch_size_by_model": {"small": 6.4e1, "large": 1e400}}`), contentType, "key", "a=b")
	f.Add(uint8(1), []byte(`{"model_label": "small", "replica_delta": -0}`), contentType+"; charset=utf-8", "key", "")
	f.Add(uint8(1), []byte(`{"model_label": "small", "replica_delta": 3, "lease_s": 1e-9}`), contentType, "", "%zz")
	f.Add(uint8(2), []byte(`{"steps": 2}`), contentType, "k k", "")
	f.Add(uint8(2), []byte("{\"\xff\": [[[{\"steps\": null}]]]}"), "text/plain", "", "")
	site := newFakeSite()
	advanced := 0
	s, err := New(Config{
		Site: site, Settings: config.API{Listen: "127.0.0.1:0", MaxConnections: 1, HistoryStates: 1}, Log: zerolog.Nop(),
		Lockstep: stepsFunc(func(_ context.Context, steps int) ([]*datacenter.State, error) {
			advanced++
			return []*datacenter.State{replayState(int64(steps))}, nil
		}),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte, contentType, key, query string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, paths[int(which)%len(paths)], bytes.NewReader(body))
		r.Host, r.URL.RawQuery = "127.0.0.1", query
		r.Header["Content-Type"] = []string{contentType}
		if key != "" {
			r.Header[idempotencyHeader] = []string{key}
		}
		w := httptest.NewRecorder()
		before, steps := len(site.given()), advanced
		s.handler.ServeHTTP(w, r)
		if w.Code >= http.StatusInternalServerError {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
		changed := len(site.given()) != before || advanced != steps
		if changed != (w.Code == http.StatusOK && w.Header().Get(replayedHeader) == "") {
			t.Errorf("status %d, changed: %v: %s", w.Code, changed, w.Body)
		}
		site.mu.Lock()
		site.commands = site.commands[:0]
		site.mu.Unlock()
	})
}

// FuzzRead asks for anything at all.
func FuzzRead(f *testing.F) {
	for _, target := range []string{"/v1/state", "/v1/history?n=3", "/v1/events?after=1&n=2", "/v1/events?follow", "/v1/models", "/metrics", "/", "/assets/../v1", "/readyz?x"} {
		path, query, _ := bytes.Cut([]byte(target), []byte("?"))
		f.Add(http.MethodGet, string(path), string(query), "application/json")
	}
	f.Add("BREW", "/v1/state", "", "")
	s, err := New(Config{Site: newFakeSite(), Settings: config.API{Listen: "127.0.0.1:0", HistoryStates: 10}, Log: zerolog.Nop()})
	if err != nil {
		f.Fatal(err)
	}
	s.Publish(replayState(0))
	for _, e := range allEvents() {
		s.PublishEvent(e)
	}
	f.Fuzz(func(t *testing.T, method, path, query, accept string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.Method, r.Host, r.URL.Path, r.URL.RawQuery = method, "127.0.0.1", path, query
		r.Header["Accept"] = []string{accept}
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		if w.Code >= http.StatusInternalServerError {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
	})
}
