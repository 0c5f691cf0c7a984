// Command commandlatency runs the agent on a simulated host, commands batch sizes
// over HTTP at random times within a step, and measures how long each takes until
// the vLLM server has it, until it is answered, and until a state shows it.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gorilla/websocket"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/backoff"
	"github.com/g2g-agent/g2g-agent/scripts/internal/measuring"
	"github.com/g2g-agent/g2g-agent/sim"
)

const (
	dtS     = 0.1
	modelID = "meta-llama/Llama-3.1-8B-Instruct"
	label   = "Llama-3.1-8B"
	// goalS is for the server, 99 of 100 commands.
	goalS       = 0.15
	patience    = 30 * time.Second // for anything
	page        = "docs/performance.md"
	beginMarker = "<!-- command latency:begin -->"
	endMarker   = "<!-- command latency:end -->"
)

func main() {
	commands := flag.Int("commands", 1000, "how many commands to send")
	write := flag.Bool("write", false, "put the result into "+page)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := measure(ctx, *commands, *write)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "commandlatency:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, commands int, write bool) (err error) {
	if commands < 1 {
		return fmt.Errorf("-commands %d: want 1 or more", commands)
	}
	dir, err := os.MkdirTemp("", "g2g-commandlatency-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left is temporary
	binary, err := measuring.Build(ctx, dir)
	if err != nil {
		return err
	}
	h, err := startHost() //nolint:contextcheck // it lives until it is closed
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.vllm.Close(), h.zeusd.Close()) }()
	config := filepath.Join(dir, "run.yaml")
	if err := os.WriteFile(config, []byte(h.config()), 0o600); err != nil {
		return err
	}
	port, err := measuring.FreePort(ctx)
	if err != nil {
		return err
	}
	address := net.JoinHostPort("127.0.0.1", port)
	ctx, agent, err := measuring.Start(ctx, measuring.Program{
		Binary: binary, Args: []string{"run", "--config", config}, Env: []string{"G2G_AGENT_API__LISTEN=" + address},
	})
	if err != nil {
		return err
	}
	defer func() { _ = agent.Stop() }() // it told all that it was asked for
	latencies, err := h.commandAll(ctx, address, commands)
	if err != nil {
		return cmp.Or(context.Cause(ctx), err) // the agent may have failed
	}
	text := latencies.report()
	fmt.Println(text)
	if !write {
		return nil
	}
	return measuring.Publish(page, beginMarker, endMarker, text)
}

// host is a simulated one: its clock is ours, so that its stamps can be compared.
type host struct {
	zeusd *sim.Zeusd
	vllm  *sim.VLLM
}

// sizes are the batch sizes commanded.
func sizes() []int { return []int{8, 16, 32, 64} }

func startHost() (*host, error) {
	gpu := sim.NewGPU("NVIDIA H100 80GB HBM3 (simulated)", 70)
	profile, _ := sim.LookUpProfile(modelID)
	zeusd, err := sim.StartZeusd(sim.ZeusdConfig{Listen: "127.0.0.1:0", GPUs: []*sim.GPU{gpu}, NoiseFraction: 0.01})
	if err != nil {
		return nil, err
	}
	vllm, err := sim.StartVLLM(sim.VLLMConfig{
		Listen: "127.0.0.1:0", ModelID: modelID, Profile: profile, GPUs: []*sim.GPU{gpu}, EarlyStop: true, TruthChunks: 1,
	})
	if err != nil {
		return nil, errors.Join(err, zeusd.Close())
	}
	return &host{zeusd, vllm}, nil
}

func (h *host) config() string {
	_, port, _ := net.SplitHostPort(h.zeusd.Addr())
	return fmt.Sprintf(`
dt_s: %v
models:
  - model_label: %s
    model_id: %s
    gpus_per_replica: 1
    itl_deadline_s: 0.1
    feasible_batch_sizes: [%s]
    live:
      vllm_base_url: %q
      simulated_num_replicas: 720
      gpu_endpoints: [{host: 127.0.0.1, port: %s, gpu_indices: [0]}]
live: {stagger_s: 2}
api: {max_requests_per_s: 0}
`, dtS, label, modelID, strings.Trim(strings.ReplaceAll(fmt.Sprint(sizes()), " ", ", "), "[]"), h.vllm.URL(), port)
}

// latencies are those of all commands, since they were sent, in seconds.
type latencies struct {
	serverS, answerS, stateS []float64
}

// commandAll sends the commands, one after the other.
func (h *host) commandAll(ctx context.Context, address string, commands int) (*latencies, error) {
	if err := awaitReady(ctx, "http://"+address+"/readyz"); err != nil {
		return nil, err
	}
	shown, err := follow(ctx, "ws://"+address+"/v1/stream")
	if err != nil {
		return nil, err
	}
	defer shown.close()
	var l latencies
	draw := rand.New(rand.NewPCG(1, 2))
	now := slices.Min(sizes()) // what the server runs; the initial one is the first
	for range commands {
		if err := backoff.Sleep(ctx, time.Duration(draw.Float64()*dtS*float64(time.Second))); err != nil {
			return nil, err
		}
		next := now
		for next == now { // the same one again would not be sent
			next = sizes()[draw.IntN(len(sizes()))]
		}
		now = next
		command := datacenter.SetBatchSize{BatchSizeByModel: map[string]int{label: next}, LeaseS: 60}
		body, err := datacenter.EncodeCommandBody(command)
		if err != nil {
			return nil, err
		}
		sent := time.Now()
		if err := post(ctx, "http://"+address+"/v1/"+command.Name(), body); err != nil {
			return nil, err
		}
		answered := time.Since(sent)
		commands := h.vllm.Truth().Commands
		last := commands[len(commands)-1]
		if last.MaxNumSeqs != next || last.At.Before(sent) {
			return nil, fmt.Errorf("the answer came and the server has not been told: its last command is %+v, want %d", last, next)
		}
		seen, err := shown.await(ctx, next)
		if err != nil {
			return nil, err
		}
		l.serverS = append(l.serverS, last.At.Sub(sent).Seconds())
		l.answerS = append(l.answerS, answered.Seconds())
		l.stateS = append(l.stateS, seen.Sub(sent).Seconds())
	}
	return &l, nil
}

// awaitReady asks until the agent is ready.
func awaitReady(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close() // its status is all that matters
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return errors.New("the agent is not ready after a minute")
		}
	}
}

func post(ctx context.Context, url string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, answer)
	}
	return err
}

// follower reads the stream of states.
type follower struct {
	ws   *websocket.Conn
	done sync.WaitGroup
	seen chan sighting
	err  error // why it ended; read it once seen is closed
}

// sighting is a state with another batch size than the one before.
type sighting struct {
	batchSize int
	at        time.Time
}

func follow(ctx context.Context, url string) (*follower, error) {
	ws, resp, err := websocket.DefaultDialer.DialContext(ctx, url, nil)
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close()                                // a WebSocket has none
	f := &follower{ws: ws, seen: make(chan sighting, 8)} // one command is under way at a time
	f.done.Go(f.read)
	return f, nil
}

func (f *follower) read() {
	defer close(f.seen)
	for before := 0; ; {
		_, raw, err := f.ws.ReadMessage()
		at := time.Now()
		var state struct {
			BatchSizes map[string]int `json:"batch_size_by_model"`
		}
		if err == nil {
			err = json.Unmarshal(raw, &state)
		}
		if err != nil {
			f.err = err
			return
		}
		if n := state.BatchSizes[label]; n != 0 && n != before {
			before = n
			f.seen <- sighting{n, at}
		}
	}
}

// await returns when a state with the batch size came.
func (f *follower) await(ctx context.Context, batchSize int) (time.Time, error) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case s, ok := <-f.seen:
			switch {
			case !ok:
				return time.Time{}, fmt.Errorf("the stream ended: %w", f.err)
			case s.batchSize == batchSize:
				return s.at, nil
			}
		case <-timeout.C:
			return time.Time{}, fmt.Errorf("no state shows the batch size %d after %v", batchSize, patience)
		case <-ctx.Done():
			return time.Time{}, context.Cause(ctx)
		}
	}
}

func (f *follower) close() {
	_ = f.ws.Close() // which ends the reading
	for range f.seen {
	}
	f.done.Wait()
}

func (l *latencies) report() string {
	var b strings.Builder
	b.WriteString("| from the command's sending until | p50 | p99 | slowest | required p99 | |\n| --- | ---: | ---: | ---: | ---: | --- |\n")
	for _, row := range []struct {
		name   string
		tookS  []float64
		boundS float64
	}{
		{"the server has changed its limit", l.serverS, goalS},
		{"the answer is there", l.answerS, 0},
		{"a state of the stream shows it", l.stateS, 0},
	} {
		q := measuring.Quantiles(row.tookS, 0.5, 0.99, 1)
		ms := func(s float64) string { return strconv.FormatFloat(1e3*s, 'f', 1, 64) + " ms" }
		required, verdict := "", ""
		if row.boundS > 0 {
			required, verdict = "less than "+ms(row.boundS), "met"
			if q[1] >= row.boundS {
				verdict = "missed"
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", row.name, ms(q[0]), ms(q[1]), ms(q[2]), required, verdict)
	}
	fmt.Fprintf(&b, "\nMeasured on %s, %d cores, %s: %d commands at random times within a step of %v s, over HTTP with kept "+
		"connections; up to %d streams in flight, the simulated host and the client on the same cores.",
		time.Now().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(), len(l.serverS), dtS, 2*slices.Max(sizes()))
	return b.String()
}
