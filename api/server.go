package api

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api/guard"
	"github.com/g2g-agent/g2g-agent/api/metrics"
	"github.com/g2g-agent/g2g-agent/api/stream"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/recording"
	"github.com/g2g-agent/g2g-agent/rig"
)

const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	idleTimeout       = 30 * time.Second
	// maxHeaderBytes is what a request's headers may have; net/http grants slop more
	// than it is told.
	maxHeaderBytes, slop = 16 << 10, 4 << 10
	// shutdownTimeout is for how long requests under way may go on at the end,
	// abandonTimeout for how long those that were then told to end may take to.
	shutdownTimeout = 3 * time.Second
	abandonTimeout  = time.Second
)

// Config is what a [Server] serves and how.
type Config struct {
	Site    agent.Controllable
	Version string
	// Settings are the listener's, Control says which lease a command has that
	// names none.
	Settings config.API
	Control  config.Control
	// Token is needed for commands and ReadToken for the rest; empty: none is.
	Token, ReadToken string
	// ConfigDigest is that of the effective config, see [config.Config.Digest].
	ConfigDigest string
	// Lockstep is a replay that waits to be driven, which tells [Server.BeginRun] of each
	// run that is begun anew; nil for a run that steps by itself.
	Lockstep Lockstep
	// LiveStats is nil in a replay.
	LiveStats func() rig.Stats
	// OutputLeftOut counts the states that are missing in the run's output; nil where
	// that is not counted.
	OutputLeftOut func() uint64
	// Recording is how the run's recording goes; nil where nothing is recorded.
	Recording func() recording.Stats
	// RecordingDir is where it is; empty where nothing is recorded.
	RecordingDir string
	Log          zerolog.Logger

	// bodylessTimeout, for tests, is how long the answers that have no body may take
	// to be read.
	bodylessTimeout time.Duration
}

// Server is the HTTP API of one run. Its methods may be called from any
// goroutine.
type Server struct {
	cfg     Config
	hub     *stream.Hub
	sockets *stream.Sockets
	talks   *stream.Conversations
	guard   *guard.Guard
	metrics *metrics.Metrics
	routes  routes
	answers answers
	turns   *turns
	buffers buffers
	// latestSteps is the request for steps that was read last.
	latestSteps atomic.Pointer[keptSteps]
	waiting     *places
	handler     http.Handler

	startedAt  time.Time
	needsToken atomic.Bool
	control    atomic.Pointer[config.Control]
	listener   net.Listener
	address    atomic.Pointer[string]
	requests   sync.RWMutex // held for reading by those under way
	// closing is done when requests that wait for something must end, ending when all
	// under way must.
	closing  context.Context
	stopWait context.CancelFunc
	ending   context.Context
	end      context.CancelFunc
}

// New returns a server that does not listen yet. The error says which setting is
// wrong.
func New(cfg Config) (*Server, error) {
	cfg.Settings.HistoryStates = max(cfg.Settings.HistoryStates, 1)
	if cfg.bodylessTimeout == 0 {
		cfg.bodylessTimeout = writeTimeout
	}
	g, err := newGuard(cfg.Settings, cfg.Token, cfg.ReadToken, cfg.Log)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, startedAt: time.Now(), guard: g, hub: stream.NewHub(cfg.Settings.HistoryStates), turns: newTurns(cfg.Lockstep != nil)}
	s.metrics, err = metrics.New(metrics.Config{
		Version: cfg.Version, Site: cfg.Site, Hub: s.hub, Guard: g, LiveStats: cfg.LiveStats, OutputLeftOut: cfg.OutputLeftOut, Recording: cfg.Recording,
	})
	if err != nil {
		return nil, err
	}
	s.hub.NewRun(cfg.Site.Status().RunID)
	s.sockets = stream.NewSockets(s.hub, g.CheckOrigin, cfg.Log)
	s.talks = stream.NewConversations(s.sockets)
	s.sockets.Turns = s.clientTurns
	s.waiting = newPlaces(cfg.Settings)
	s.address.Store(&cfg.Settings.Listen)
	s.needsToken.Store(cfg.Token != "")
	s.control.Store(&cfg.Control)
	s.closing, s.stopWait = context.WithCancel(context.Background())
	s.ending, s.end = context.WithCancel(context.Background())
	if err := s.addRoutes(); err != nil {
		return nil, err
	}
	s.handler = s.observe(g.Wrap(s.routes.mux))
	return s, nil
}

func newGuard(settings config.API, token, readToken string, log zerolog.Logger) (*guard.Guard, error) {
	return guard.New(guard.Config{
		Listen: settings.Listen, Token: token, ReadToken: readToken,
		TLSCertFile: settings.TLSCertFile, TLSKeyFile: settings.TLSKeyFile, AllowedOrigins: settings.AllowedOrigins,
		MaxRequestsPerS: settings.MaxRequestsPerS, MaxConnections: settings.MaxConnections,
		MaxConnectionsPerAddress: settings.MaxConnectionsPerAddress, AllowedHosts: settings.AllowedHosts, Log: log,
	})
}

// Check returns what [New] and [Server.Listen] would refuse of the settings and of the
// files that they name, with the same error, and what they would warn of. It binds
// nothing.
func Check(ctx context.Context, settings config.API, log zerolog.Logger) (warnings []string, err error) {
	token, readToken, err := settings.Tokens()
	if err != nil {
		return nil, err
	}
	g, err := newGuard(settings, token, readToken, log)
	if err == nil {
		err = g.Check(ctx)
	}
	if err != nil {
		return nil, err
	}
	return g.Warnings(), nil
}

// Publish shows a state to everyone who watches. It never waits.
func (s *Server) Publish(state *datacenter.State) { s.hub.Publish(state) }

// BeginRun forgets the states and events of the run before. It is called before any of
// the new one can be published.
func (s *Server) BeginRun(runID string) { s.hub.NewRun(runID) }

// PublishEvent shows an event to everyone who watches. It never waits.
func (s *Server) PublishEvent(e datacenter.Event) {
	s.hub.PublishEvent(e)
	s.metrics.ObserveEvent(e)
}

// ObserveStep counts a step and how late it was.
func (s *Server) ObserveStep(t agent.StepTiming) { s.metrics.ObserveStep(t) }

// Reload takes new tokens and another default lease, and reads the certificate
// anew. After an error everything is as it was.
func (s *Server) Reload(control config.Control, token, readToken string) error {
	if err := s.guard.Reload(token, readToken); err != nil {
		return err
	}
	s.control.Store(&control)
	s.needsToken.Store(token != "")
	return nil
}

// Listen binds the address, so that [Server.Address] is known and connections
// wait for [Server.Serve].
func (s *Server) Listen(ctx context.Context) error {
	l, err := s.guard.Listen(ctx)
	if err != nil {
		return err
	}
	s.listener = l
	address := l.Addr().String()
	s.address.Store(&address)
	for _, warning := range s.guard.Warnings() {
		s.cfg.Log.Warn().Msg(warning)
	}
	return nil
}

// Address is the HOST:PORT that is listened on, before that the configured one.
func (s *Server) Address() string { return *s.address.Load() }

// URL is the address of the live page, as this machine reaches it.
func (s *Server) URL() string {
	scheme := "http"
	if s.cfg.Settings.TLSCertFile != "" {
		scheme = "https"
	}
	address := s.Address()
	if host, port, err := net.SplitHostPort(address); err == nil {
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			address = net.JoinHostPort("localhost", port)
		}
	}
	return scheme + "://" + address + "/"
}

// Serve answers requests until ctx is done. It then says goodbye to the streams,
// lets requests under way end, for at most 3 s, and returns nil.
// [Server.Listen] comes first.
func (s *Server) Serve(ctx context.Context) error {
	if s.listener == nil {
		return errors.New("the API does not listen yet")
	}
	server := &http.Server{
		Handler: s.handler, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes - slop,
		WriteTimeout: s.cfg.bodylessTimeout, // each write of a body begins it anew, see response
		// Broken handshakes and the like are the client's concern.
		ErrorLog:    log.New(debugLog{s.cfg.Log}, "", 0),
		BaseContext: func(net.Listener) context.Context { return s.ending },
	}
	s.guard.Watch(server)
	defer s.end()
	defer s.stopWait()
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(s.listener) }()
	select {
	case err := <-failed:
		s.sockets.Close()
		s.talks.Close()
		return fmt.Errorf("serve the API on %s: %w", s.Address(), err)
	case <-ctx.Done():
	}
	s.close(server) //nolint:contextcheck // ctx is over
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the API on %s: %w", s.Address(), err)
	}
	return nil
}

// close ends what is under way: streams at once, requests after a while.
func (s *Server) close(server *http.Server) {
	s.stopWait()
	var streams sync.WaitGroup
	streams.Go(s.sockets.Close)
	streams.Go(s.talks.Close)
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		s.cfg.Log.Warn().Dur("waited", shutdownTimeout).Msg("API: requests that do not end are cut off")
		s.end()
		server.Close() //nolint:errcheck // the listener is closed already
	}
	streams.Wait()
	done := make(chan struct{})
	go func() {
		s.requests.Lock()
		defer s.requests.Unlock()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(abandonTimeout):
		s.cfg.Log.Error().Msg("API: a request ignores that it was told to end")
	}
}

// debugLog is the destination of net/http's own log.
type debugLog struct{ log zerolog.Logger }

func (d debugLog) Write(line []byte) (int, error) {
	d.log.Debug().Str("component", "net/http").Msg(string(line))
	return len(line), nil
}
