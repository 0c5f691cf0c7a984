package zeusd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/internal/backoff"
)

// scripted is a daemon for tests in fake time: it answers over pipes in memory,
// and its clock, its silence and its presence are the test's to say. It behaves
// as the real ones: a stream begins with what was sent last, and the older daemon
// answers get_power with its next snapshot.
type scripted struct {
	conns chan net.Conn

	mu       sync.Mutex
	absent   bool          // no connection comes about
	mute     chan struct{} // if not nil, nothing is answered before it is closed
	refuse   int           // status of every answer, unless 0
	ahead    time.Duration // its clock less ours
	delay    time.Duration // before each answer
	powerMW  int           // of GPU 0
	power1MW int           // of GPU 1
	hung     bool          // the driver does not return from questions about GPU 0
	lost     bool          // GPU 0 cannot be read
	noMeter  bool          // GPUs have no energy counters
	meterMW  int           // what the energy counter of GPU 0 rises by, unless 0; else by its power
	deaf     bool          // the loop of the older daemon stands still, though its driver answers
	gpuIDs   []int         // what it says it has
	limitMW  int           // the largest power limit of its GPUs; 0: it does not tell
	lag      time.Duration // how old what it answers about power is
	raw0     string        // what stands for GPU 0's power in snapshots and answers, unless empty
	// old is a daemon of one loop: it sends snapshots, also to others if there are
	// any.
	old    bool
	others bool
	loop   map[int]int // what the loop read last, while it runs
	told   string      // what was sent last

	streams map[chan string]bool
	asks    map[string]int
	pending int      // questions about GPU 0 that hang
	order   []string // the first paths asked for
	dials   []time.Time
}

func (d *scripted) Accept() (net.Conn, error) {
	conn, ok := <-d.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (d *scripted) Close() error   { return nil }
func (d *scripted) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (d *scripted) dial(context.Context, string, string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dials = append(d.dials, time.Now())
	if d.absent {
		return nil, errors.New("nobody there")
	}
	ours, its := net.Pipe()
	d.conns <- its
	return ours, nil
}

func (d *scripted) asked(path string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asks[path]
}

func (d *scripted) dialled() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.dials)
}

func (d *scripted) set(change func(*scripted)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

func (d *scripted) nowMS() int64 { return time.Now().Add(d.ahead).UnixMilli() }

// send tells the streams of a new power of GPU 0.
func (d *scripted) send(powerMW int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.powerMW = powerMW
	if !d.old {
		d.told = fmt.Sprintf("data: {\"timestamp_ms\":%d,\"gpu_id\":0,\"power_mw\":%d}\n\n", d.nowMS(), powerMW)
		d.tell(d.told)
	}
}

func (d *scripted) tell(event string) {
	for s := range d.streams {
		select {
		case s <- event:
		default: // it is not read
		}
	}
}

// drop ends all streams, as when the network breaks.
func (d *scripted) drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for s := range d.streams {
		delete(d.streams, s)
		close(s)
	}
}

// poll is the one loop of the older daemon, until done.
func (d *scripted) poll(done <-chan struct{}) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		d.set((*scripted).pollOnce)
	}
}

func (d *scripted) pollOnce() {
	switch {
	case !d.old || d.hung || d.deaf:
		return
	case len(d.streams) == 0 && !d.others:
		d.loop = nil
		return
	}
	first, changed := len(d.loop) == 0, false
	now := map[int]int{1: d.power1MW}
	if !d.lost {
		now[0] = d.powerMW
	} else if last, ok := d.loop[0]; ok {
		now[0] = last
	}
	var readings []string
	for i := range 2 {
		if mw, ok := now[i]; ok {
			changed = changed || d.loop[i] != mw
			raw := fmt.Sprint(mw)
			if i == 0 {
				raw = cmp.Or(d.raw0, raw)
			}
			readings = append(readings, fmt.Sprintf(`"%d":%s`, i, raw))
		}
	}
	d.loop = now
	if first || changed {
		d.told = fmt.Sprintf("data: {\"timestamp_ms\":%d,\"power_mw\":{%s}}\n\n", d.nowMS(), strings.Join(readings, ","))
		d.tell(d.told)
	}
}

func (d *scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	d.asks[r.URL.Path]++
	if len(d.order) < 16 {
		d.order = append(d.order, r.URL.Path)
	}
	mute, delay, refuse := d.mute, d.delay, d.refuse
	d.mu.Unlock()
	if mute != nil {
		select {
		case <-mute:
		case <-r.Context().Done():
			return
		}
	}
	if backoff.Sleep(r.Context(), delay) != nil {
		return
	}
	if refuse != 0 {
		w.WriteHeader(refuse)
		return
	}
	d.mu.Lock()
	nowMS, ids, old, limitMW := d.nowMS(), strings.ReplaceAll(fmt.Sprint(d.gpuIDs), " ", ","), d.old, d.limitMW
	d.mu.Unlock()
	switch path := r.URL.Path; {
	case path == "/discover" && old:
		fmt.Fprintf(w, `{"gpu_ids":%s,"cpu_ids":[],"enabled_api_groups":["gpu-read"]}`, ids)
	case path == "/discover":
		gpus := strings.NewReplacer("[", `[{"id":`, ",", `},{"id":`, "]", "}]").Replace(ids)
		fmt.Fprintf(w, `{"gpus":%s,"cpus":[],"enabled_api_groups":["gpu-read"]}`, gpus)
	case path == "/time":
		fmt.Fprintf(w, `{"timestamp_ms":%d}`, nowMS)
	case path == "/gpu/get_power" && old:
		<-r.Context().Done() // nobody needs it
	case path == "/gpu/get_power_limit_constraints" && limitMW > 0:
		fmt.Fprintf(w, `{"0":{"max_power_limit_mw":%d},"1":{"max_power_limit_mw":%d}}`, limitMW, limitMW)
	case path == "/gpu/get_power", path == energyPath:
		d.serveDriver(w, r)
	case path == "/gpu/stream_power":
		d.serveStream(w, r)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// serveDriver answers what needs the driver of the GPUs asked for.
func (d *scripted) serveDriver(w http.ResponseWriter, r *http.Request) {
	about0 := strings.Contains(r.URL.Query().Get("gpu_ids"), "0")
	d.set(func(d *scripted) { d.pending++ })
	defer d.set(func(d *scripted) { d.pending-- })
	for {
		d.mu.Lock()
		hung, lost, noMeter, powerMW, power1MW, nowMS := d.hung, d.lost, d.noMeter, d.powerMW, d.power1MW, d.nowMS()
		meterMW, lag, raw0 := cmp.Or(d.meterMW, powerMW), d.lag, cmp.Or(d.raw0, strconv.Itoa(powerMW))
		d.mu.Unlock()
		switch {
		case about0 && hung:
			if backoff.Sleep(r.Context(), time.Millisecond) != nil {
				return
			}
			continue
		case about0 && lost:
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, `{"errors":{"0":"NVML error: device fell off the bus"}}`)
		case r.URL.Path == energyPath && noMeter:
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, `{"errors":{"0":"NVML error: not available","1":"NVML error: not available"}}`)
		case r.URL.Path == energyPath:
			fmt.Fprintf(w, `{"0":{"energy_mj":%d},"1":{"energy_mj":%d}}`, nowMS*int64(meterMW)/1000, nowMS*int64(power1MW)/1000)
		default:
			fmt.Fprintf(w, `{"timestamp_ms":%d,"power_mw":{"0":%s,"1":%d}}`, nowMS-lag.Milliseconds(), raw0, power1MW)
		}
		return
	}
}

func (d *scripted) serveStream(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	events := make(chan string, 100)
	d.set(func(d *scripted) {
		if d.told != "" {
			events <- d.told
		}
		first := len(d.streams) == 0 && !d.others
		d.streams[events] = true
		if first { // the loop is woken
			d.pollOnce()
		}
	})
	defer d.set(func(d *scripted) { delete(d.streams, events) })
	for {
		select {
		case event, ok := <-events:
			if !ok {
				return
			}
			fmt.Fprint(w, event)
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

// inBubble runs a client against a scripted daemon in fake time.
func inBubble(t *testing.T, cfg Config, script func(t *testing.T, d *scripted, client *client, got *collector)) {
	inBubbleWith(t, cfg, nil, script)
}

// inBubbleWith also prepares the daemon before the client comes.
func inBubbleWith(t *testing.T, cfg Config, prepare func(*scripted), script func(t *testing.T, d *scripted, client *client, got *collector)) {
	synctest.Test(t, func(t *testing.T) {
		d := &scripted{conns: make(chan net.Conn, 16), powerMW: 100_000, power1MW: 2000, gpuIDs: []int{0}, streams: make(map[chan string]bool), asks: make(map[string]int)}
		if prepare != nil {
			prepare(d)
		}
		server := &http.Server{Handler: d}
		served := make(chan error, 1)
		go func() { served <- server.Serve(d) }()
		polled := make(chan struct{})
		go d.poll(polled)
		got := &collector{}
		if cfg.Targets == nil {
			cfg.Targets = []Target{{Endpoint: bubbleEndpoint(), GPUs: []int{0}}}
		}
		cfg.OnReading, cfg.OnStatus, cfg.Log, cfg.dial = got.onReading, got.onStatus, zerolog.New(got).Level(zerolog.InfoLevel), d.dial
		client, err := newClient(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { client.run(ctx) })
		// A script that fails ends its goroutine: what runs beside it ends all the same.
		defer func() {
			cancel()
			running.Wait()
			close(d.conns)
			close(polled)
			server.Close()
			<-served
		}()
		script(t, d, client, got)
	})
}

func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func bubbleEndpoint() Endpoint { return Endpoint{Host: "node1"} }
