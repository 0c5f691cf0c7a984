package metrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// addStreams declares who watches over WebSockets, and who is refused.
func (c *catalog) addStreams() {
	c.section = "API"
	c.gauge("g2g_stream_clients", "stream",
		"WebSockets open, by what goes over them: states, events or, both ways, lockstep.", func(s *snapshot, out series) {
			out.value(float64(s.stream.StateClients), "states")
			out.value(float64(s.stream.EventClients), "events")
			out.value(float64(s.stream.Conversations), "lockstep")
		})
	c.counter("g2g_stream_connections_total", "",
		"WebSockets opened.", func(s *snapshot, out series) { out.count(s.stream.ClientsTotal) })
	c.counter("g2g_stream_skipped_total", "stream",
		"States and events that slow readers were not sent, and were told so.", func(s *snapshot, out series) {
			out.count(s.stream.SkippedStates, "states")
			out.count(s.stream.SkippedEvents, "events")
		})
	c.counter("g2g_stream_closed_clients_total", "reason",
		"WebSockets closed by the agent: slow (took nothing for too long), silent (did not answer), unruly (sent too much "+
			"or nonsense).", func(s *snapshot, out series) {
			out.count(s.stream.SlowClientsClosed, "slow")
			out.count(s.stream.SilentClientsClosed, "silent")
			out.count(s.stream.UnrulyClientsClosed, "unruly")
		})
	c.counter("g2g_stream_refused_requests_total", "",
		"Requests for a WebSocket that were no handshake, or came from a wrong origin.", func(s *snapshot, out series) {
			out.count(s.stream.RefusedRequests)
		})
	c.counter("g2g_stream_published_total", "stream",
		"States and events published to those who watch.", func(s *snapshot, out series) {
			out.count(s.stream.States, "states")
			out.count(s.stream.Events, "events")
		})
	c.counter("g2g_stream_bad_events_total", "",
		"Events that have no JSON and were not published: a fault of the agent.", func(s *snapshot, out series) {
			out.count(s.stream.BadEvents)
		})
	c.counter("g2g_http_rejections_total", "reason",
		"Requests and connections refused before the API saw them, by reason.", func(s *snapshot, out series) {
			g := &s.guard
			out.count(g.Unauthorized, "unauthorized")
			out.count(g.Forbidden, "forbidden")
			out.count(g.Rate, "rate")
			out.count(g.Connections, "connections")
			out.count(g.Origin, "origin")
			out.count(g.Host, "host")
			out.count(g.TooLarge, "too_large")
		})
	c.gauge("g2g_http_open_connections", "",
		"Connections open.", func(s *snapshot, out series) { out.value(float64(s.guard.OpenConnections)) })
	c.counter("g2g_http_evicted_connections_total", "",
		"Idle connections closed to make room for new ones, since too many were open.",
		func(s *snapshot, out series) { out.count(s.guard.EvictedConnections) })
	c.counter("g2g_http_accept_errors_total", "",
		"Times that a connection could not be taken, as when no more files may be opened.",
		func(s *snapshot, out series) { out.count(s.guard.AcceptErrors) })
}

// requestInstruments count requests and commands as they are answered.
type requestInstruments struct {
	total           *prometheus.CounterVec
	duration        *prometheus.HistogramVec
	commands        *prometheus.CounterVec
	commandDuration *prometheus.HistogramVec

	// How many label values there may be. There are fewer: a caller that hands on
	// what clients have made up would not fill the memory with it.
	routes, methods, commandNames, outcomes *limited
}

// addRequests declares how requests and commands are answered.
func (c *catalog) addRequests() requestInstruments {
	total := c.counter("g2g_http_requests_total", "route method status",
		"HTTP requests answered, by the pattern of their path, method and status; 101 is a WebSocket that has ended.", nil)
	duration := c.add(histogram, "g2g_http_request_duration_seconds", "route method",
		"How long answering HTTP requests took, in seconds, WebSockets left out.", nil)
	commands := c.counter("g2g_commands_total", "command outcome",
		"Commands by outcome: accepted, refused, failed, server_failed (a vLLM server did not do as told), replayed (the "+
			"answer to an earlier one, given again).", nil)
	commandDuration := c.add(histogram, "g2g_command_duration_seconds", "command",
		"How long carrying out or refusing commands took, in seconds.", nil)
	bounds := []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30}
	counterOf := func(f *family) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: f.name, Help: f.help}, f.labels)
	}
	histogramOf := func(f *family) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: f.name, Help: f.help, Buckets: bounds}, f.labels)
	}
	return requestInstruments{
		total: counterOf(total), duration: histogramOf(duration), commands: counterOf(commands), commandDuration: histogramOf(commandDuration),
		routes: newLimited(64), methods: newLimited(12), commandNames: newLimited(16), outcomes: newLimited(16),
	}
}

func (r *requestInstruments) collectors() []prometheus.Collector {
	return []prometheus.Collector{r.total, r.duration, r.commands, r.commandDuration}
}

// other stands for the label values beyond a limit.
const other = "other"

// limited bounds the number of a label's values.
type limited struct {
	most int

	mu   sync.Mutex
	seen map[string]bool
}

func newLimited(most int) *limited { return &limited{most: most, seen: map[string]bool{}} }

// limit is value in valid UTF-8, or other once there are too many different ones.
func (l *limited) limit(value string) string {
	value = clean([]string{value})[0]
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.seen[value] {
		if len(l.seen) >= l.most {
			return other
		}
		l.seen[value] = true
	}
	return value
}
