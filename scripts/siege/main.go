// Command siege runs the demo and besieges its API from one address: thousands of
// connections that idle, wrong tokens, readers of the whole history. It tells how
// long probes and authorized commands then take, each over a new connection from
// that same address, how many steps were late, and what memory the agent had. It
// needs Linux, for /proc.
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/g2g-agent/g2g-agent/internal/backoff"
	"github.com/g2g-agent/g2g-agent/scripts/internal/measuring"
)

// plan is what the siege is made of.
type plan struct {
	connections, readers int
	wrongTokensPerS      float64
	idle, siege          time.Duration // before and while it is besieged
}

// The goals, on an idle machine.
const (
	goalLatency = time.Second
	goalRSS     = 300e6 // bytes
	token       = "siege-5b1f0c9e7d3a2468"
	patience    = 15 * time.Second // for one answer
	comeBack    = 5 * time.Second  // of a connection that was closed
)

func main() {
	var p plan
	flag.IntVar(&p.connections, "connections", 2100, "connections that ask once and then idle; those closed come again after 5 s")
	flag.IntVar(&p.readers, "readers", 8, "clients that ask for the whole history again and again")
	flag.Float64Var(&p.wrongTokensPerS, "wrong-tokens-per-s", 20, "commands a second with a wrong token, another each")
	flag.DurationVar(&p.idle, "idle", 20*time.Second, "how long the steps are watched before")
	flag.DurationVar(&p.siege, "siege", 30*time.Second, "how long it lasts")
	binary := flag.String("binary", "", "the g2g-agent to run; without it, it is built")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, p, *binary)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "siege:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, p plan, binary string) error {
	dir, err := os.MkdirTemp("", "g2g-siege-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left is temporary
	if binary == "" {
		if binary, err = measuring.Build(ctx, dir); err != nil {
			return err
		}
	}
	r, err := p.besiege(ctx, binary, dir)
	if err != nil {
		return err
	}
	fmt.Print(r)
	return r.check(goalLatency, 0)
}

// report is what was seen.
type report struct {
	probes, commands        answers
	idle, siege             steps
	rssBefore, rss          float64 // bytes; the most while besieged
	held, histories, denied int
	// evicted is the connections that made room.
	evicted float64
}

// answers are how long those of one kind took.
type answers struct {
	took   []time.Duration
	failed []error
}

func (a *answers) add(took time.Duration, err error) {
	a.took = append(a.took, took)
	if err != nil {
		a.failed = append(a.failed, err)
	}
}

func (a *answers) String() string {
	if len(a.took) == 0 {
		return "none"
	}
	return fmt.Sprintf("%d, %d failed, the longest took %.1f ms", len(a.took), len(a.failed), 1e3*slices.Max(a.took).Seconds())
}

// steps is how many there were, and how many were late.
type steps struct{ all, late float64 }

func (r *report) String() string {
	return fmt.Sprintf(`probes: %v
authorized commands: %v
steps late by more than 5 ms: %.0f of %.0f, before %.0f of %.0f
resident memory: %.0f MB at most, before %.0f MB
connections held at the end: %d, %.0f made room; histories read: %d, refused: %d
`, &r.probes, &r.commands, r.siege.late, r.siege.all, r.idle.late, r.idle.all, r.rss/1e6, r.rssBefore/1e6, r.held, r.evicted, r.histories, r.denied)
}

// check holds the report to the goals; late is the share of steps that may be late
// beyond those that were before.
func (r *report) check(latency time.Duration, late float64) error {
	var problems []error
	for name, a := range map[string]*answers{"probe": &r.probes, "command": &r.commands} {
		switch {
		case len(a.took) == 0:
			problems = append(problems, fmt.Errorf("no %s was sent", name))
		case len(a.failed) > 0:
			problems = append(problems, fmt.Errorf("a %s failed: %w", name, a.failed[0]))
		case slices.Max(a.took) > latency:
			problems = append(problems, fmt.Errorf("a %s took %v, want %v at most", name, slices.Max(a.took), latency))
		}
	}
	if r.siege.late > r.siege.all*(late+r.idle.late/max(r.idle.all, 1)) {
		problems = append(problems, fmt.Errorf("%.0f of %.0f steps were late", r.siege.late, r.siege.all))
	}
	if r.rss > goalRSS {
		problems = append(problems, fmt.Errorf("the agent took %.0f MB, want %.0f at most", r.rss/1e6, goalRSS/1e6))
	}
	return errors.Join(problems...)
}

// besiege runs the demo and the siege.
func (p plan) besiege(ctx context.Context, binary, dir string) (*report, error) {
	file := filepath.Join(dir, "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		return nil, err
	}
	port, err := measuring.FreePort(ctx)
	if err != nil {
		return nil, err
	}
	ctx, demo, err := measuring.Start(ctx, measuring.Program{
		Binary: binary, Args: []string{"demo"},
		Env: []string{"G2G_AGENT_API__LISTEN=127.0.0.1:" + port, "G2G_AGENT_API__TOKEN_FILE=" + file, "G2G_AGENT_LOG__FORMAT=json"},
	})
	if err != nil {
		return nil, err
	}
	s := &siege{plan: p, address: "127.0.0.1:" + port, report: &report{}}
	err = s.run(ctx, demo)
	if err != nil {
		err = cmp.Or(context.Cause(ctx), err) // the demo may have failed
	}
	if stopErr := demo.Stop(); err == nil {
		err = stopErr
	}
	return s.report, err
}

// siege is one under way.
type siege struct {
	plan
	address string

	mu     sync.Mutex // guards what several count in the report
	report *report
}

func (s *siege) run(ctx context.Context, demo *measuring.Process) (err error) {
	if err := s.awaitReady(ctx); err != nil {
		return err
	}
	began, err := s.read(ctx)
	if err != nil {
		return err
	}
	if err := backoff.Sleep(ctx, s.idle); err != nil {
		return err
	}
	before, err := s.read(ctx)
	if err != nil {
		return err
	}
	if s.report.rssBefore, err = measuring.RSSBytes(demo.PID()); err != nil {
		return err
	}
	s.attack(ctx, demo)
	if err := ctx.Err(); err != nil {
		return err
	}
	after, err := s.read(ctx)
	if err != nil {
		return err
	}
	s.report.idle = steps{before.all - began.all, before.late - began.late}
	s.report.siege = steps{after.all - before.all, after.late - before.late}
	return nil
}

// attack lasts for as long as is planned, and until all that it began has ended.
func (s *siege) attack(ctx context.Context, demo *measuring.Process) {
	over, end := context.WithTimeout(ctx, s.siege)
	defer end()
	var all sync.WaitGroup
	for range s.connections {
		all.Go(func() { s.hold(over) })
	}
	for range s.readers {
		all.Go(func() { s.readHistory(over) })
	}
	all.Go(func() {
		n := 0
		every(over, time.Duration(float64(time.Second)/s.wrongTokensPerS), func() {
			n++
			_, _ = s.ask(ctx, http.MethodPost, "/v1/batch-sizes", "wrong-token-"+strconv.Itoa(n), commandBody) // 401 or 429
		})
	})
	all.Go(func() {
		n := 0
		every(over, 100*time.Millisecond, func() {
			n++
			s.report.probes.add(s.timed(ctx, http.MethodGet, []string{"/livez", "/readyz"}[n%2], "", ""))
		})
	})
	all.Go(func() {
		every(over, 250*time.Millisecond, func() {
			s.report.commands.add(s.timed(ctx, http.MethodPost, "/v1/batch-sizes", token, commandBody))
		})
	})
	all.Go(func() {
		every(over, 200*time.Millisecond, func() {
			if rss, err := measuring.RSSBytes(demo.PID()); err == nil {
				s.report.rss = max(s.report.rss, rss)
			}
		})
	})
	all.Wait()
}

// commandBody changes nothing: the server runs it already.
const commandBody = `{"batch_size_by_model": {"Llama-3.1-8B": 64}}`

// every calls f at once and then each period, as long as it lasts.
func every(ctx context.Context, period time.Duration, f func()) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for ctx.Err() == nil {
		f()
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

// hold keeps a connection that asks once and then idles.
func (s *siege) hold(ctx context.Context) {
	var dialer net.Dialer
	for ctx.Err() == nil {
		if conn, err := dialer.DialContext(ctx, "tcp", s.address); err == nil {
			stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) }) // it is to end
			_, _ = io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")   // it may be closed
			_, err := io.Copy(io.Discard, conn)
			stop()
			_ = conn.Close() // nothing was written
			if errors.Is(err, os.ErrDeadlineExceeded) {
				s.mu.Lock()
				s.report.held++
				s.mu.Unlock()
			}
		}
		_ = backoff.Sleep(ctx, comeBack) // the loop sees that it is over
	}
}

// readHistory asks for all the history again and again.
func (s *siege) readHistory(ctx context.Context) {
	for ctx.Err() == nil {
		status, err := s.ask(ctx, http.MethodGet, "/v1/history?n=3000", "", "")
		s.mu.Lock()
		if err == nil && status == http.StatusOK {
			s.report.histories++
		} else {
			s.report.denied++
		}
		s.mu.Unlock()
		if status != http.StatusOK {
			_ = backoff.Sleep(ctx, 100*time.Millisecond) // the loop sees that it is over
		}
	}
}

// timed is ask for an answer that must be good.
func (s *siege) timed(ctx context.Context, method, path, token, body string) (time.Duration, error) {
	began := time.Now()
	status, err := s.ask(ctx, method, path, token, body)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s is answered with status %d", path, status)
	}
	return time.Since(began), err
}

// ask sends a request over a connection of its own, and returns the status.
func (s *siege) ask(ctx context.Context, method, path, token, body string) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	resp, err := s.open(ctx, method, path, token, body)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func (s *siege) open(ctx context.Context, method, path, token, body string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+s.address+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return nil, err
	}
	r.Close = true
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return http.DefaultClient.Do(r)
}

func (s *siege) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if status, err := s.ask(ctx, http.MethodGet, "/readyz", "", ""); err == nil && status == http.StatusOK {
			return nil
		}
		if err := backoff.Sleep(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("the demo does not get ready: %w", err)
		}
	}
}

// read takes the steps so far, and the connections that made room, from the metrics.
func (s *siege) read(ctx context.Context) (steps, error) {
	resp, err := s.open(ctx, http.MethodGet, "/metrics", token, "")
	if err != nil {
		return steps{}, err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		return steps{}, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(page)))
	if err != nil {
		return steps{}, err
	}
	value := func(name string) float64 {
		for _, m := range families[name].GetMetric() {
			return m.GetCounter().GetValue()
		}
		return 0
	}
	s.report.evicted = value("g2g_http_evicted_connections_total")
	return steps{value("g2g_steps_total"), value("g2g_late_steps_total")}, nil
}
