package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/reread"
	"github.com/g2g-agent/g2g-agent/internal/service"
)

// serving is what stands around a run: its control API, and what the service
// manager is told.
type serving struct {
	log      zerolog.Logger
	logLevel *logLevel
	// load reads the config again.
	load    func() (*config.Config, error)
	service *service.Notifier
	server  *api.Server // nil without an API
	run     agent.Controllable
	// keepsConfig tells that the config cannot be read again.
	keepsConfig bool
	urlFile     *urlFile // of the API; nil for none
	urlErr      error    // of writing it, once it has ended
	// hangups are the SIGHUPs since the beginning; nil if they end the program.
	hangups chan os.Signal

	mu     sync.Mutex
	config *config.Config // in force, as far as it can be reloaded
	// rereading waits, not for ever, for what is to be reloaded.
	rereading reread.Patience[reloaded]

	ready bool // the goroutine's that steps
	end   context.CancelFunc
	ended sync.WaitGroup
	err   error // of the API, once it has ended
}

func newServing(c *config.Config, load func() (*config.Config, error), log zerolog.Logger, level *logLevel, environ []string) (*serving, error) {
	notifier, err := service.New(environ, log)
	if err != nil {
		return nil, err
	}
	s := &serving{log: log, logLevel: level, load: load, config: c, service: notifier}
	if !isTerminal(os.Stderr) {
		s.hangups = make(chan os.Signal, 1)
		signal.Notify(s.hangups, syscall.SIGHUP)
	}
	return s, nil
}

// observer lets the API and the service manager see a run.
func (s *serving) observer(onEvent func(datacenter.Event)) agent.Observer {
	return agent.Observer{
		OnEvent: func(e datacenter.Event) {
			onEvent(e)
			if s.server != nil {
				s.server.PublishEvent(e)
			}
		},
		OnStep: func(t agent.StepTiming) {
			s.service.Stepped()
			if s.server != nil {
				s.server.ObserveStep(t)
			}
		},
	}
}

// startMargin is what the start of a live run takes at most beside its warm-up.
const startMargin = time.Minute

// open starts the API, unless the config has none, and the notifications. They
// outlive ctx, the run's, until [serving.close]. A failure of the API calls fail.
func (s *serving) open(ctx context.Context, cfg api.Config, fail context.CancelCauseFunc) error {
	s.run = cfg.Site
	warnOfFileLimit(s.log, filesNeeded(s.config, cfg.LiveStats != nil))
	s.service.Starting(seconds(s.config.Live.WarmupTimeoutS)+startMargin, seconds(s.config.DT.Float64()))
	context.AfterFunc(ctx, s.service.Stopping)
	ctx, s.end = context.WithCancel(context.WithoutCancel(ctx))
	if cfg.Settings.Listen != "" {
		var err error
		if cfg.Token, cfg.ReadToken, err = cfg.Settings.Tokens(); err != nil {
			return err
		}
		cfg.Version, cfg.Log = programVersion(), s.log
		if cfg.ConfigDigest, err = s.config.Digest(); err != nil {
			return err
		}
		if s.server, err = api.New(cfg); err != nil {
			return err
		}
		if err := s.server.Listen(ctx); err != nil {
			return err
		}
		s.log.Info().Str("url", s.server.URL()).Msg("live page and control API")
		if status := s.run.Status(); status.Phase == agent.PhaseWaiting {
			s.ready = true
			s.service.OnDemand()
		}
		s.ended.Go(func() {
			if s.err = s.server.Serve(ctx); s.err != nil {
				fail(s.err)
			}
		})
		if err := s.tellURL(ctx, fail); err != nil {
			return err
		}
	}
	s.ended.Go(func() {
		if err := s.service.Run(ctx, s.hangups, s.reload); err != nil {
			s.log.Error().Err(err).Msg("the service manager is no longer told")
		}
	})
	return nil
}

// tellURL writes the API's URL to where it is wanted.
func (s *serving) tellURL(ctx context.Context, fail context.CancelCauseFunc) error {
	waiting, err := s.urlFile.write(s.server.URL(), s.log)
	if err != nil || waiting == nil {
		return err
	}
	s.ended.Go(func() {
		if s.urlErr = waiting(ctx); s.urlErr != nil {
			fail(s.urlErr)
		}
	})
	return nil
}

// publish shows a state to those who watch.
func (s *serving) publish(state *datacenter.State) {
	if s.server != nil {
		s.server.Publish(state)
	}
	if s.service.Heard() {
		s.service.Status(stepStatus(state))
	}
	if s.ready {
		return
	}
	if status := s.run.Status(); len(status.Unready(time.Now())) == 0 {
		s.ready = true
		s.service.Ready()
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// stepStatus says in one line how the run is going.
func stepStatus(state *datacenter.State) string {
	text := fmt.Sprintf("Stepping, t = %.1f s, %.3f MW", state.TimeS, state.PowerW.Total()/1e6)
	stale := "; power is stale: "
	for i := range state.Models {
		if m := &state.Models[i]; m.Live.Stale {
			text += stale + m.ModelLabel
			stale = ", "
		}
	}
	return text
}

// close ends the API and the notifications, and waits for them.
func (s *serving) close() error {
	if s.hangups != nil {
		defer signal.Stop(s.hangups)
	}
	if s.end == nil {
		return nil
	}
	s.urlFile.remove(s.log)
	s.end()
	s.ended.Wait()
	return errors.Join(s.err, s.urlErr)
}

// reloaded is what was read anew.
type reloaded struct {
	config           *config.Config
	token, readToken string
}

// readAnew reads the config and the tokens that it names.
func (s *serving) readAnew() (r reloaded, err error) {
	if r.config, err = s.load(); err != nil {
		return r, err
	}
	if s.server != nil {
		r.token, r.readToken, err = r.config.API.RereadTokens()
	}
	return r, err
}

// reload puts into force what may change in a running agent.
func (s *serving) reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.rereading.Within(reread.Limit, s.readAnew)
	if err != nil {
		return err
	}
	c := r.config
	changed, restart := config.Changes(s.config, c)
	if s.server != nil {
		if err := s.server.Reload(c.Control, r.token, r.readToken); err != nil {
			return err
		}
	}
	s.logLevel.set(c.Log)
	s.config.Log.Level, s.config.API.TokenFile, s.config.API.ReadTokenFile, s.config.Control.DefaultLeaseS =
		c.Log.Level, c.API.TokenFile, c.API.ReadTokenFile, c.Control.DefaultLeaseS
	if s.keepsConfig {
		s.log.Warn().Msg("the config came from standard input and stays as it is; the files of tokens and certificates that it names were read again")
		return nil
	}
	s.log.Info().Strs("changed", changed).Msg("config reloaded")
	if len(restart) > 0 {
		s.log.Warn().Strs("keys", restart).Msg("these keys differ from what runs; they need a restart")
	}
	return nil
}
