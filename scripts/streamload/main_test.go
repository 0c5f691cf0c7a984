package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/g2g-agent/g2g-agent/api/stream"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve publishes states of which every nth has its number skipped; 0: none.
func serve(t *testing.T, nth int64) string {
	hub := stream.NewHub(10)
	sockets := stream.NewSockets(hub, func(*http.Request) bool { return true }, zerolog.Nop())
	server := httptest.NewServer(sockets.States())
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for seq := int64(0); ctx.Err() == nil; seq++ {
			if nth > 0 && seq%nth == nth-1 {
				continue
			}
			hub.Publish(&datacenter.State{Seq: seq, WallTime: time.Now(), Source: datacenter.SourceLive})
			<-tick.C
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		sockets.Close()
		server.Close()
	})
	return server.URL
}

func TestHealthy(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), []string{"-url", serve(t, 0), "-clients", "20", "-stalled", "5", "-duration-s", "0.5"}, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"15 clients follow", "15 clients,", " 0 missed, 0 announced as skipped, 0 connections lost", "p99", "stalled: 5 clients"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// TestMissed: a number that no state has is missed by everyone.
func TestMissed(t *testing.T) {
	var out strings.Builder
	err := run(t.Context(), []string{"-url", serve(t, 10), "-clients", "3", "-stalled", "1", "-duration-s", "0.5"}, &out)
	if err == nil || !strings.Contains(err.Error(), "missed") {
		t.Errorf("error %v, want one about missed states\n%s", err, out.String())
	}
}

func TestTake(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var r reader
	var announced int64
	for _, m := range []string{
		`{"seq":3,"time_s":0.3,"wall_time":null}`, `{"seq":4,"wall_time":"2026-01-02T03:04:04.5Z"}`,
		`{"skipped": 2}`, `{"seq":7,"wall_time":null}`, `{"seq":10,"wall_time":null}`,
	} {
		if err := r.take([]byte(m), now, &announced); err != nil {
			t.Fatal(err)
		}
	}
	if r.received != 4 || r.skipped != 2 || r.missed != 2 || len(r.delaysS) != 1 || r.delaysS[0] != 0.5 {
		t.Errorf("%+v", &r)
	}
	for _, m := range []string{`{"seq":10}`, `{"seq":x}`, `[]`, ``} {
		if err := r.take([]byte(m), now, &announced); err == nil {
			t.Errorf("%q was taken", m)
		}
	}
}

func TestStreamURL(t *testing.T) {
	for in, want := range map[string]string{
		"http://h:1": "ws://h:1/v1/stream", "https://h:1/": "wss://h:1/v1/stream", "ws://h:1/x/v1/stream": "ws://h:1/x/v1/stream", "h:1": "", "": "",
	} {
		if got, _ := streamURL(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}
