package metrics

import (
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api/guard"
	"github.com/g2g-agent/g2g-agent/api/stream"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/recording"
	"github.com/g2g-agent/g2g-agent/rig"
)

// Config is where the numbers come from. All of it may be asked from any
// goroutine, and answers at once.
type Config struct {
	// Version is the program's.
	Version string
	Site    watchedSite
	Hub     watchedHub
	Guard   watchedGuard
	// LiveStats is nil in a replay.
	LiveStats func() rig.Stats
	// OutputLeftOut counts the states that are missing in the run's output; nil where
	// that is not counted.
	OutputLeftOut func() uint64
	// Recording is how the run's recording goes; nil where nothing is recorded.
	Recording func() recording.Stats
}

// watchedSite is the part of [agent.Controllable] that is watched.
type watchedSite interface{ Status() agent.Status }

// watchedHub is the part of [stream.Hub] that is watched.
type watchedHub interface {
	Latest() *datacenter.State
	Stats() stream.Stats
}

// watchedGuard is the part of [guard.Guard] that is watched.
type watchedGuard interface{ Stats() guard.Stats }

// maxScrapes is how many scrapes are served at once; one more gets status 503.
const maxScrapes = 8

// Metrics is the agent's metrics. Its methods may be called from any goroutine.
type Metrics struct {
	cfg      Config
	registry *prometheus.Registry
	catalog  catalog
	events   *events

	steps    stepInstruments
	requests requestInstruments
}

// New returns the metrics of a run. An error is a mistake in the program: two
// metrics of one name.
func New(cfg Config) (*Metrics, error) {
	m := &Metrics{cfg: cfg, registry: prometheus.NewRegistry(), events: newEvents()}
	c := &m.catalog
	c.addBuild(cfg.Version)
	c.addRun(cfg.LiveStats != nil)
	m.steps = c.addSteps()
	c.addPower()
	c.addLatency()
	c.addThroughput()
	c.addModels()
	c.addServers()
	c.addLoad()
	c.addHistories()
	c.addSources()
	c.addStreams()
	m.requests = c.addRequests()

	own := append(m.steps.collectors(), m.requests.collectors()...)
	own = append(own, m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, collector := range own {
		if err := m.registry.Register(collector); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Handler serves the metrics, as OpenMetrics to those that ask for it.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(prometheus.GathererFunc(m.gather), promhttp.HandlerOpts{
		// One family that fails leaves the others; how often stands in
		// promhttp_metric_handler_errors_total.
		ErrorHandling: promhttp.ContinueOnError, Registry: m.registry,
		EnableOpenMetrics: true, MaxRequestsInFlight: maxScrapes,
	})
}

// gather is the registry's, without what a strict reader would refuse the whole page
// for: in OpenMetrics, where the family of a counter has no _total, Go's gauge
// go_memstats_alloc_bytes and its counter go_memstats_alloc_bytes_total are one
// family twice. The gauge goes: go_memstats_heap_alloc_bytes is the same number.
func (m *Metrics) gather() ([]*dto.MetricFamily, error) {
	families, err := m.registry.Gather()
	families = slices.DeleteFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == "go_memstats_alloc_bytes" })
	return families, err
}

// ObserveStep counts a step and how it kept to its time. It neither waits nor
// allocates.
func (m *Metrics) ObserveStep(t agent.StepTiming) { m.steps.observe(t) }

// ObserveEvent counts an event. It waits for nobody but another ObserveEvent.
func (m *Metrics) ObserveEvent(e datacenter.Event) { m.events.observe(e) }

// ObserveRequest counts an HTTP request by the pattern of its path, not by the
// path, of which there are arbitrarily many. What took so long with status 101 is
// a stream, not an answer, and does not count as one.
func (m *Metrics) ObserveRequest(route, method string, status int, took time.Duration) {
	r := &m.requests
	route, method = r.routes.limit(route), r.methods.limit(method)
	code := other
	if status >= 100 && status <= 599 {
		code = strconv.Itoa(status)
	}
	r.total.WithLabelValues(route, method, code).Inc()
	if status != http.StatusSwitchingProtocols {
		r.duration.WithLabelValues(route, method).Observe(took.Seconds())
	}
}

// ObserveCommand counts a command and what became of it.
func (m *Metrics) ObserveCommand(command, outcome string, took time.Duration) {
	r := &m.requests
	command, outcome = r.commandNames.limit(command), r.outcomes.limit(outcome)
	r.commands.WithLabelValues(command, outcome).Inc()
	r.commandDuration.WithLabelValues(command).Observe(took.Seconds())
}

// addBuild declares what says which program this is.
func (c *catalog) addBuild(version string) {
	revision := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	c.section = "Program"
	c.gauge("g2g_build_info", "version goversion revision",
		"1, labelled with the program's version, the Go version and the source revision it was built from.",
		func(_ *snapshot, out series) {
			out.value(1, version, runtime.Version(), revision)
		})
}
