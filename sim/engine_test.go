package sim

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http/httputil"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestIterationsDeriveFromTheSeed(t *testing.T) {
	lengths := func(seed, life uint64) []time.Duration {
		p := steady(time.Millisecond)
		p.ITLSigma = 0.2
		e := newEngine(&VLLM{cfg: VLLMConfig{Seed: seed, Profile: p, TokensPerChunk: []float64{1}, Engines: 1}}, life)
		var all []time.Duration
		for range 100 {
			all = append(all, e.iteration(0))
		}
		return all
	}
	one := lengths(1, 1)
	if !slices.Equal(one, lengths(1, 1)) {
		t.Error("the same seed, other iterations")
	}
	if slices.Equal(one, lengths(2, 1)) || slices.Equal(one, lengths(1, 2)) || one[0] == one[1] {
		t.Error("another seed or life, the same iterations")
	}
	var sum time.Duration
	for _, d := range one {
		sum += d
	}
	if mean := sum / 100; mean < 900*time.Microsecond || mean > 1100*time.Microsecond {
		t.Error(mean)
	}
}

func TestFrame(t *testing.T) {
	for _, n := range []int{0, 1, 15, 16, 255, 256, 4095, 70000} {
		payload := strings.Repeat("x", n)
		framed := string(frame(append(room(nil), payload...)))
		if n > 0 {
			got, err := io.ReadAll(httputil.NewChunkedReader(strings.NewReader(framed + lastChunk)))
			if err != nil || string(got) != payload {
				t.Error(n, err)
			}
		}
		if want := string(appendChunk(nil, []byte(payload))); framed != want {
			t.Errorf("%d: %.20q, want %.20q", n, framed, want)
		}
	}
}

// pair returns both ends of a socket.
func pair(t *testing.T) (*conn, net.Conn) {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	far, err := (&net.Dialer{}).DialContext(t.Context(), "unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	c, err := newConn(nc, uvicornHeaders)
	if err != nil {
		t.Fatal(err)
	}
	return c, far
}

func TestChunksCostNoMemory(t *testing.T) {
	v := startVLLM(t, VLLMConfig{})
	c, far := pair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(io.Discard, far)
	}()
	e := newEngine(v, 1)
	e.batch = make([]itlSample, 0, 4096)
	s := &sequence{conn: c, sink: newSink(c), done: make(chan struct{}), stream: true, usageChunks: true,
		maxTokens: maxOutputTokens, promptTokens: 5, id: "chatcmpl-0"}
	var faults VLLMFaults
	e.step(s, &faults)
	if n := testing.AllocsPerRun(1000, func() { e.step(s, &faults) }); n != 0 {
		t.Errorf("%v allocations a chunk", n)
	}
	if s.sent != 1002 || len(e.batch) != 1001 || s.finished {
		t.Error(s.sent, len(e.batch), s.finished)
	}
	c.Close()
	<-done
}

func TestSinkKeepsWhatDoesNotFit(t *testing.T) {
	c, far := pair(t)
	s := newSink(c)
	line := []byte(strings.Repeat("x", 999) + "\n")
	var lines int
	for !s.pending() {
		if err := s.write(line); err != nil {
			t.Fatal(err)
		}
		lines++
	}
	for range 50 {
		if err := s.write(line); err != nil {
			t.Fatal(err)
		}
		lines++
	}
	r := bufio.NewReader(far)
	for range lines {
		got, err := r.ReadString('\n')
		if err != nil || got != string(line) {
			t.Fatalf("%q %v", got, err)
		}
		if err := s.flush(); err != nil {
			t.Fatal(err)
		}
	}
	if s.pending() {
		t.Error("not everything is gone")
	}
	var err error
	for n := 0; err == nil; n++ {
		if err = s.write(line); n > 100_000 {
			t.Fatal("no bound")
		}
	}
	if !errors.Is(err, errBacklog) || len(s.backlog) > maxBacklog+len(line) {
		t.Error(err, len(s.backlog))
	}
	if s.pending() || s.flush() == nil || s.write(line) == nil {
		t.Error("an error is not final")
	}
	c.Close()
	if err := newSink(c).write(line); !errors.Is(err, errGone) {
		t.Error(err)
	}
}
