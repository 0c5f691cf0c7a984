package rig

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/completion"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/vllm"
)

// Server is one vLLM server of a model, under load.
type Server struct {
	rig    *Rig
	model  *Model
	server *vllm.Server
	load   *loadgen.Generator
	wanted Actuator // empty: the best there is
	log    zerolog.Logger
	// send tells the server a setting, once.
	send func(context.Context, setting) error

	sizer    atomic.Pointer[vllm.BatchSizer] // how batch sizes are set, chosen at the start
	leave    int                             // the batch size it is to be left with, found at the start; 0: as the others
	leaving  atomic.Bool                     // what it is told now is what it is left with
	scraped  atomic.Pointer[scrape]
	lastLoad lastLoad
	answers  atomic.Bool // when it was last looked at
	// standsSince is when the last token came if that has been too long, else nil or
	// zero.
	standsSince atomic.Pointer[time.Time]

	// The reconcile loop's, from its start on.
	looping  atomic.Bool
	orders   chan order
	looks    chan look
	wake     chan struct{} // holds one when there may be something to reconcile
	applied  applied
	keptRev  int // the revision of what was last kept
	busy     atomic.Bool
	refusals episode
}

// scrape is what the latest look at a server's metrics brought.
type scrape struct {
	page vllm.MetricsPage
	err  error
}

// newServer returns server i of a model.
func newServer(m *Model, i int) (*Server, error) {
	cfg, model := &m.rig.cfg, &m.rig.cfg.Models[m.index]
	c := &model.Servers[i]
	logged := cfg.Log
	if len(model.Servers) > 1 {
		logged = logged.With().Str("vllm", c.VLLMBaseURL).Logger()
	}
	log := logged.With().Str("model_label", model.Label).Logger()
	server, err := vllm.NewServer(vllm.Config{BaseURL: c.VLLMBaseURL, ModelID: model.ModelID, Credential: c.Credential, Log: log})
	if err != nil {
		return nil, err
	}
	s := &Server{
		rig: m.rig, model: m, server: server, wanted: c.Actuator, log: log,
		orders: make(chan order), looks: make(chan look), wake: make(chan struct{}, 1),
	}
	s.send = func(ctx context.Context, want setting) error {
		return server.SetBatchSize(ctx, s.actuator(), want.batchSize, want.rampUpRate)
	}
	if c.Actuator != "" {
		if _, err := server.BatchSizer(c.Actuator); err != nil {
			server.Close()
			return nil, err
		}
	}
	s.load, err = loadgen.New(loadgen.Config{
		BaseURL: c.VLLMBaseURL, ModelID: model.ModelID, ModelLabel: model.Label, Credential: c.Credential,
		Concurrency: s.concurrencyFor(model.InitialBatchSize), Requests: model.Requests, MaxOutputTokens: cfg.MaxOutputTokens,
		MinimalRequestText: cfg.MinimalRequestText,
		ExtraBody:          c.RequestExtraBody, ITLWindow: cfg.ITLWindow, Log: logged, Seed: cfg.Seed + uint64(m.index) + uint64(i)<<32,
	})
	if err != nil {
		server.Close()
		return nil, err
	}
	return s, nil
}

// name is the server's, for people: its model's, unless that has several.
func (s *Server) name() string {
	if len(s.model.servers) > 1 {
		return s.model.label + " on " + s.server.String()
	}
	return s.model.label
}

// actuator is how batch sizes are set, empty before the start has found out.
func (s *Server) actuator() vllm.Actuator {
	if b := s.sizer.Load(); b != nil {
		return (*b).Name()
	}
	return ""
}

// byLoad reports whether the load alone holds the batch size.
func (s *Server) byLoad() bool {
	b := s.sizer.Load()
	return b != nil && (*b).ByLoad()
}

// concurrencyFor is the number of requests to keep in flight at a batch size:
// twice the largest there will be, so that the server always has some waiting,
// or just the batch size where the load alone keeps the batch down.
func (s *Server) concurrencyFor(batchSize int) int {
	if s.byLoad() {
		return batchSize
	}
	return 2 * max(s.rig.cfg.Models[s.model.index].MaxBatchSize, batchSize)
}

func (s *Server) checkHealth(ctx context.Context) error {
	if err := s.server.Health(ctx); err != nil {
		return err
	}
	return s.server.CheckModel(ctx)
}

// chooseActuator finds out how batch sizes can be set, unless the config says so;
// refused are ways that the server seemed to have.
func (s *Server) chooseActuator(ctx context.Context, refused ...vllm.Actuator) (vllm.Actuator, error) {
	if s.wanted != "" {
		return s.wanted, nil
	}
	actuator, err := s.server.ProbeActuator(ctx, refused...)
	if err != nil {
		return "", fmt.Errorf("no way to set batch sizes was found: %w; batch_size_actuator: %s needs none of the server's", err, vllm.ActuatorConcurrency)
	}
	return actuator, nil
}

// setUp sets the initial batch size in the way that the config says, or in the
// best there is: one that the server seemed to have and that it does not know when
// it is commanded makes way for the next.
func (s *Server) setUp(ctx context.Context) error {
	batchSize := s.model.initialBatchSize
	var refused []vllm.Actuator
	for {
		actuator, err := s.tryActuator(ctx, batchSize, refused)
		if err == nil {
			s.log.Info().Str("batch_size_actuator", string(actuator)).Int("batch_size", batchSize).
				Int("requests_in_flight", s.concurrencyFor(batchSize)).Msg("vLLM server set up")
			return nil
		}
		failed := (*vllm.CommandError)(nil)
		if !errors.As(err, &failed) || !failed.NoSuchActuator() {
			return err
		}
		if s.wanted != "" {
			return fmt.Errorf("%w; %w", err, s.missesActuator(ctx))
		}
		s.log.Warn().Err(err).Str("batch_size_actuator", string(actuator)).
			Msg("the vLLM server seemed to have this way to set batch sizes and does not know it; the next best is taken")
		refused = append(refused, actuator)
	}
}

// tryActuator takes the best way to set batch sizes but those refused, and sets
// the initial one.
func (s *Server) tryActuator(ctx context.Context, batchSize int, refused []vllm.Actuator) (vllm.Actuator, error) {
	ctx, cancel := withCommandTimeout(ctx)
	defer cancel()
	actuator, err := s.chooseActuator(ctx, refused...)
	if err != nil {
		return "", err
	}
	sizer, err := s.server.BatchSizer(actuator)
	if err != nil {
		return "", err
	}
	s.sizer.Store(&sizer)
	if err := s.find(ctx, actuator); err != nil {
		return "", err
	}
	want := setting{batchSize: batchSize}
	err = s.send(ctx, want)
	s.note(want, err)
	return actuator, err
}

// find reads the batch size that the server has before it is told one, where somebody
// wants to know.
func (s *Server) find(ctx context.Context, actuator Actuator) error {
	if s.rig.cfg.OnFound == nil {
		return nil
	}
	found, err := s.server.BatchSize(ctx, actuator)
	if err != nil {
		return err
	}
	s.leave, err = s.rig.cfg.OnFound(s.server.String(), found)
	return err
}

// requests sums up what became of the load's requests.
func (s *Server) requests() string {
	stats := s.load.Stats()
	text := fmt.Sprintf("%d requests completed", stats.Completed)
	for kind, n := range stats.FailedByKind {
		if n > 0 {
			text += fmt.Sprintf(", %d failed (%s)", n, completion.ErrorKind(kind))
		}
	}
	return text
}

// lostConnections counts the requests that failed as they do when a server dies.
func (s *Server) lostConnections() uint64 {
	failed := s.load.Stats().FailedByKind
	return failed[completion.KindConnect] + failed[completion.KindCut]
}

// scrape reads the server's metrics once.
func (s *Server) scrape(ctx context.Context) error {
	page, err := s.server.Metrics(ctx)
	s.scraped.Store(&scrape{page, err})
	if err == nil {
		s.lastLoad.set(datacenter.ServerLoad(page.Metrics), time.Now())
	}
	return err
}

// polled says whether the server's metrics are read.
func (s *Server) polled() bool { return s.rig.cfg.PrometheusPollInterval > 0 }

// runningErr is why it is not known how many requests run, as of the latest look
// at the server's metrics.
func (s *Server) runningErr() error {
	last := s.scraped.Load()
	switch {
	case last == nil:
		return errors.New("its metrics have not been read yet")
	case last.err != nil:
		return last.err
	default:
		return last.page.Err(vllm.MetricRunning)
	}
}
