package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/recording"
)

// goldenRecording is a recording that is known to the last byte, of one run of two
// segments: seconds 0 to 3, and 64.
const (
	goldenRecording = "../recording/testdata/format1"
	goldenStartMs   = 1795565504000
)

func serveRecording(t testing.TB, dir string) *testServer {
	t.Helper()
	return serve(t, func(c *Config) { c.RecordingDir = dir })
}

// saved is a recording of what a segment was answered with.
func saved(t testing.TB, r *reply) *recording.Reader {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, recording.SegmentName(0)), r.body, 0o600); err != nil {
		t.Fatal(err)
	}
	return opened(t, dir)
}

func opened(t testing.TB, dir string) *recording.Reader {
	t.Helper()
	r, err := recording.OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// linesOf are the lines of a recording, of some kinds, as they stand.
func linesOf(t testing.TB, r *recording.Reader, o recording.ReadOptions) (lines []string) {
	t.Helper()
	for entry, err := range r.Lines(t.Context(), o) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(entry.Raw))
	}
	return lines
}

func TestRecordedRuns(t *testing.T) {
	s := serve(t, func(c *Config) {
		c.RecordingDir = goldenRecording
		c.Recording = func() recording.Stats {
			return recording.Stats{DroppedSeconds: 7, Stopped: true, StoppedBy: "no space left on device"}
		}
	})
	var got recordedBody
	s.get("/v1/recording").want(t, http.StatusOK).into(t, &got)
	if got.Segments != 2 || got.DamagedSegments != 0 || got.DroppedSeconds != 7 || got.RunID != "6b0c" || got.StoppedBy == nil || !strings.Contains(*got.StoppedBy, "space") {
		t.Errorf("it says %+v", got)
	}
	if len(got.Runs) != 1 || got.Runs[0].RunID != "run" || got.Runs[0].StartMs != goldenStartMs || got.Runs[0].FromMs != goldenStartMs ||
		got.Runs[0].ToMs < got.Runs[0].FromMs || got.Runs[0].Bytes != got.Bytes || got.Bytes < 5000 {
		t.Errorf("its runs are %+v of %d bytes", got.Runs, got.Bytes)
	}
	var info infoBody
	s.get("/v1/info").into(t, &info)
	if !info.Recording {
		t.Error("the info does not tell that the run is recorded")
	}
}

func TestRecordedLines(t *testing.T) {
	s := serveRecording(t, goldenRecording)
	for _, kind := range []recording.Kind{"", recording.KindHeader, recording.KindPower, recording.KindITL, recording.KindCommand, recording.KindEnd} {
		for query, o := range map[string]recording.ReadOptions{
			"": {}, "run=run": {RunID: "run"}, "from_ms=1795565505000&to_ms=1795565507000": {FromMs: goldenStartMs + 1000, ToMs: goldenStartMs + 3000},
			"from_ms=0&to_ms=9007199254740991": {ToMs: 1<<53 - 1}, "from_ms=9007199254740991": {FromMs: 1<<53 - 1},
		} {
			path := "/v1/recording/lines?" + query
			o.Kinds = []recording.Kind{recording.KindEvent}
			if kind != "" {
				path, o.Kinds = path+"&kind="+string(kind), []recording.Kind{kind}
			}
			r := s.get(strings.ReplaceAll(path, "?&", "?")).want(t, http.StatusOK)
			got := strings.FieldsFunc(string(r.body), func(r rune) bool { return r == '\n' })
			if want := linesOf(t, opened(t, goldenRecording), o); !slices.Equal(got, want) {
				t.Errorf("%s has %d lines, want %d", path, len(got), len(want))
			}
		}
	}
}

func TestRecordedSegment(t *testing.T) {
	s := serveRecording(t, goldenRecording)
	for query, o := range map[string]recording.ReadOptions{
		"": {}, "?run=run": {}, "?from_ms=1795565505000&to_ms=1795565507000": {FromMs: goldenStartMs + 1000, ToMs: goldenStartMs + 3000},
		"?to_ms=9007199254740991": {},
	} {
		got := saved(t, s.get("/v1/recording/segment"+query).want(t, http.StatusOK))
		o.Kinds = []recording.Kind{recording.KindPower, recording.KindITL, recording.KindStateHash, recording.KindCommand}
		if got, want := linesOf(t, got, recording.ReadOptions{Kinds: o.Kinds}), linesOf(t, opened(t, goldenRecording), o); !slices.Equal(got, want) || len(want) == 0 {
			t.Errorf("%s has %d lines, want %d", query, len(got), len(want))
		}
	}
	if r := s.call(http.MethodHead, "/v1/recording/segment", ""); r.status != http.StatusOK || len(r.body) != 0 {
		t.Errorf("HEAD: %d, %d bytes", r.status, len(r.body))
	}
}

func TestRecordedStates(t *testing.T) {
	s := serveRecording(t, goldenRecording)
	points := func(query string) (got recordedStatesBody) {
		s.get("/v1/recording/states"+query).want(t, http.StatusOK).into(t, &got)
		return got
	}
	if all := points(""); len(all.Points) < 2 || all.PointMs != 10_000 || len(all.Points[0].Mean.PowerByModelW) == 0 {
		t.Errorf("all: %+v", all)
	}
	if one := points("?points=1"); len(one.Points) != 1 || one.PointMs <= 10_000 || one.Points[0].States < 2 {
		t.Errorf("in one point: %+v", one)
	}
	if none := points("?from_ms=9007199254740990&to_ms=9007199254740991&points=2000"); none.Points == nil || len(none.Points) != 0 {
		t.Errorf("of a time without any: %+v", none)
	}
}

// wantCode fails the test unless the answer is a problem of this code.
func (r *reply) wantCode(t *testing.T, status int, code string) {
	t.Helper()
	var p problem.Problem
	r.want(t, status).into(t, &p)
	if p.Code != code {
		t.Errorf("the code is %q, want %q: %s", p.Code, code, r.body)
	}
}

func TestWhatIsNotRecorded(t *testing.T) {
	paths := []string{"/v1/recording", "/v1/recording/states", "/v1/recording/lines", "/v1/recording/segment"}
	for _, dir := range []string{"", t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		s := serveRecording(t, dir)
		for _, path := range paths {
			s.get(path).wantCode(t, http.StatusNotFound, problem.CodeNoRecording)
		}
	}
	s := serveRecording(t, goldenRecording)
	for _, path := range paths[1:] {
		s.get(path+"?run=another").wantCode(t, http.StatusNotFound, problem.CodeNoRecording)
		for _, part := range []string{"?from_ms=5&to_ms=4", "?from_ms=5&to_ms=5"} {
			s.get(path+part).wantProblem(t, http.StatusUnprocessableEntity, "query.to_ms")
		}
	}
	for _, part := range []string{"?from_ms=9007199254740991", "?to_ms=1", "?from_ms=1795565604000&to_ms=1795565605000"} {
		r := s.get("/v1/recording/segment" + part)
		r.wantCode(t, http.StatusNotFound, problem.CodeNoRecording)
		if r.header.Get("Content-Disposition") != "" {
			t.Errorf("a problem is to be saved as %q", r.header.Get("Content-Disposition"))
		}
	}
}

// damaged is a copy of the golden recording with bytes of its first segment zeroed, but for its header.
func damaged(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(goldenRecording)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, recording.SegmentName(0))
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(content[len(content)/2 : len(content)/2+20])
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What cannot be read is left out, and told.
func TestDamagedRecording(t *testing.T) {
	s := serveRecording(t, damaged(t))
	ask := func(path string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.TrimSuffix(s.URL(), "/")+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	for _, path := range []string{"/v1/recording/lines?kind=power", "/v1/recording/segment"} {
		resp := ask(path)
		var body bytes.Buffer
		_, err := body.ReadFrom(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || body.Len() == 0 || resp.Trailer.Get(damagesTrailer) != "1" {
			t.Errorf("%s: %d with %d bytes, %q damages: %v", path, resp.StatusCode, body.Len(), resp.Trailer.Get(damagesTrailer), err)
		}
	}
	all := linesOf(t, opened(t, goldenRecording), recording.ReadOptions{})
	if left := linesOf(t, saved(t, s.get("/v1/recording/segment")), recording.ReadOptions{}); len(left) == 0 || len(left) >= len(all) {
		t.Errorf("%d of %d lines are left", len(left), len(all))
	}
	var states recordedStatesBody
	s.get("/v1/recording/states").want(t, http.StatusOK).into(t, &states)
	if states.Points == nil {
		t.Error("there are no points")
	}
}

// record records steps of a tenth of a second, ten states for each second, until it is
// told to stop, as fast as the disk takes them.
func record(t *testing.T, dir string) (stop func()) {
	t.Helper()
	w, err := recording.Open(recording.Options{Dir: dir, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	dt, err := datacenter.ParseSeconds("0.1")
	if err != nil {
		t.Fatal(err)
	}
	w.Start(recording.Header{RunID: "now", StartMs: goldenStartMs, AgentVersion: "test", DT: dt, Config: json.RawMessage(`{}`), Models: []string{"small", "large"}})
	ended := make(chan struct{})
	var recorder sync.WaitGroup
	recorder.Go(func() {
		const most = 3000 // readers are to come to an end
		for seq := int64(0); seq < most; seq++ {
			select {
			case <-ended:
				return
			default:
			}
			for w.Stats().QueuedSeconds > 1 {
				runtime.Gosched()
			}
			w.BeginStep(seq, goldenStartMs+100*seq, 0)
			w.State(liveState(seq))
		}
	})
	for w.Stats().Seconds < 20 {
		runtime.Gosched()
	}
	return func() {
		close(ended)
		recorder.Wait()
		if err := w.Close(t.Context(), "done"); err != nil {
			t.Error(err)
		}
	}
}

// A recording can be read while it is written, by many at once: whoever is let in has a
// whole answer.
func TestRecordingThatGoesOn(t *testing.T) {
	dir := t.TempDir()
	stop := record(t, dir)
	s := serveRecording(t, dir)
	var clients sync.WaitGroup
	var mu sync.Mutex
	answered := map[string]int{}
	for client := range 12 {
		clients.Go(func() {
			path := []string{"/v1/recording/states", "/v1/recording/lines?kind=state_hash", "/v1/recording/segment", "/v1/recording"}[client%4]
			for range 2 {
				resp, err := http.Get(strings.TrimSuffix(s.URL(), "/") + path) //nolint:noctx // it ends with the server
				if err != nil {
					t.Error(err)
					return
				}
				var body bytes.Buffer
				_, err = body.ReadFrom(resp.Body)
				resp.Body.Close()
				mu.Lock()
				answered[fmt.Sprint(path, " ", resp.StatusCode)]++
				mu.Unlock()
				switch {
				case err != nil:
					t.Errorf("%s breaks off: %v", path, err)
				case resp.StatusCode == http.StatusTooManyRequests:
				case resp.StatusCode != http.StatusOK:
					t.Errorf("%s: %d %.200s", path, resp.StatusCode, body.Bytes())
				case strings.HasPrefix(path, "/v1/recording/lines") && !bytes.HasSuffix(body.Bytes(), []byte("}\n")):
					t.Errorf("the last line is not whole: %q", body.Bytes()[max(0, body.Len()-100):])
				case path == "/v1/recording/segment":
					if report, err := saved(t, &reply{body: body.Bytes()}).Verify(t.Context()); err != nil || report.Segments[0].DamagedFrames+report.Segments[0].DamagedLines+report.Segments[0].Faults > 0 {
						t.Errorf("the segment is not sound: %v, %+v", err, report)
					}
				}
			}
		})
	}
	clients.Wait()
	stop()
	for _, path := range []string{"/v1/recording/states", "/v1/recording/lines?kind=state_hash", "/v1/recording/segment", "/v1/recording"} {
		if answered[path+" 200"] == 0 {
			t.Errorf("nobody was answered on %s: %v", path, answered)
		}
	}
}

// A client that is gone ends the reading for it, and its place is another's.
func TestReaderOfARecordingThatGoes(t *testing.T) {
	s := serveRecording(t, goldenRecording)
	if err := s.turns.take(t.Context(), "the test"); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: 50 * time.Millisecond}
	if resp, err := client.Get(s.URL() + "v1/recording/segment"); err == nil { //nolint:noctx // it has a time limit
		resp.Body.Close()
		t.Error("it was answered without a turn")
	}
	client.CloseIdleConnections()
	s.turns.give()
	s.get("/v1/recording/segment").want(t, http.StatusOK)
	s.turns.mu.Lock()
	defer s.turns.mu.Unlock()
	if s.turns.total > 1 {
		t.Errorf("%d long answers are under way", s.turns.total)
	}
}
