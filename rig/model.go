package rig

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/vllm"
)

// Model is the real servers of one model, which run one batch size. Its methods
// may be called from any goroutine.
type Model struct {
	rig              *Rig
	index            int
	label            string
	initialBatchSize int
	gpus             []GPU
	servers          []*Server
	loads            []*loadgen.Generator // of the servers
	steps            *loadgen.StepTaker

	turn chan struct{} // holds one while a command is under way

	mu        sync.Mutex
	desired   setting
	keeping   kept
	commanded bool // as the turn tells
}

// kept is a batch size that is to be set until it is accepted.
type kept struct {
	batchSize int
	revision  int // rises; 0: none
}

func newModel(r *Rig, m int, gpus []GPU) (*Model, error) {
	cfg := &r.cfg.Models[m]
	model := &Model{
		rig: r, index: m, label: cfg.Label, initialBatchSize: cfg.InitialBatchSize, gpus: gpus,
		turn: make(chan struct{}, 1), desired: setting{batchSize: cfg.InitialBatchSize},
	}
	for i := range cfg.Servers {
		s, err := newServer(model, i)
		if err != nil {
			for _, s := range model.servers {
				s.server.Close()
			}
			return nil, err
		}
		model.servers = append(model.servers, s)
		model.loads = append(model.loads, s.load)
	}
	model.steps = loadgen.NewStepTaker(model.loads...)
	return model, nil
}

// CheckBatchSize returns why the batch size cannot be set at the ramp-up rate, nil
// if it can.
func (m *Model) CheckBatchSize(batchSize int, rampUpRate float64) error {
	if batchSize > vllm.MaxBatchSize {
		return fmt.Errorf("a live run has batch sizes of at most %d", vllm.MaxBatchSize)
	}
	for _, s := range m.servers {
		if b := s.sizer.Load(); rampUpRate != 0 && b != nil && !(*b).Ramps() {
			return fmt.Errorf("ramp_up_rate needs the actuator %s, this server has %s", vllm.ActuatorSetMaxNumSeqs, (*b).Name())
		}
	}
	return nil
}

// Result is what became of a command to a model.
type Result struct {
	// Accepted says that a server took it; the others are told until they do.
	Accepted bool
	// Told says that one of those was told, which did not surely run it already, or
	// that it is another one than the model's so far.
	Told bool
	// Err is what went wrong, nil if nothing did: the error of the only server, or a
	// [*ServersError].
	Err error
}

// ServersError says which of a model's several servers did not do as they were
// told.
type ServersError struct {
	// Servers is the number of all, Failed the errors by URL, in config order.
	Servers int
	Failed  []ServerError
}

// ServerError is the error of one server.
type ServerError struct {
	URL string
	Err error
}

func (e *ServersError) Error() string {
	texts := make([]string, len(e.Failed))
	for i, f := range e.Failed {
		texts[i] = fmt.Sprintf("%s: %v", f.URL, f.Err)
	}
	return fmt.Sprintf("%d of %d vLLM servers: %s", len(e.Failed), e.Servers, strings.Join(texts, "; "))
}

// Unwrap returns the servers' errors.
func (e *ServersError) Unwrap() []error {
	errs := make([]error, len(e.Failed))
	for i, f := range e.Failed {
		errs[i] = f.Err
	}
	return errs
}

// SetBatchSize tells all servers a batch size, each once, waits for their answers,
// and calls commit with what became of it while no other command to the model is
// under way. A server that surely runs it already is not told. Nothing is told
// after ctx is done, or the rig takes no more commands.
func (m *Model) SetBatchSize(ctx context.Context, batchSize int, rampUpRate float64, commit func(Result)) Result {
	commands := m.rig.commands.Load()
	if commands == nil {
		return Result{Err: errors.New("not sent: the run has not begun")}
	}
	ctx, cancel := withCommandTimeout(ctx)
	defer cancel()
	// The end of the run is the end of its commands: whoever gets his turn after it
	// finds his context done.
	defer context.AfterFunc(*commands, cancel)() //nolint:contextcheck // either of two ends it
	if err := m.begin(ctx); err != nil {
		return Result{Err: fmt.Errorf("not sent: the server has not answered the command before: %w", err)}
	}
	defer m.end()
	if (*commands).Err() != nil { // ctx may not have heard of it yet
		return Result{Err: errors.New("not sent: the run is over")}
	}
	result := m.tell(ctx, setting{batchSize, rampUpRate})
	if commit != nil {
		commit(result)
	}
	return result
}

// begin waits for the right to command the model, until end.
func (m *Model) begin(ctx context.Context) error {
	select {
	case m.turn <- struct{}{}:
		m.setCommanded(true)
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (m *Model) end() {
	m.setCommanded(false)
	<-m.turn
	m.wakeServers()
}

// ErrNotRestored says that a model's servers may not have the batch size that they were
// to be left with.
var ErrNotRestored = errors.New("not restored")

// restore sets the batch size that is to be left behind, if there is one.
func (m *Model) restore(ctx context.Context, restore func(model int) (which string, batchSize int, ok bool)) error {
	err := m.begin(ctx)
	which, batchSize, ok := restore(m.index)
	if err == nil {
		defer m.end()
		if !ok {
			return nil
		}
		for _, s := range m.servers {
			s.leaving.Store(true)
		}
		found := false
		result := m.tellEach(ctx, setting{batchSize: batchSize}, func(s *Server) setting {
			if s.leave > 0 {
				found = true
				return setting{batchSize: s.leave}
			}
			return setting{batchSize: batchSize}
		})
		if err = result.Err; err == nil && result.Told {
			line := m.rig.cfg.Log.Info().Str("model_label", m.label)
			if found {
				line.Msg("batch sizes restored as they were found")
			} else {
				line.Int("batch_size", batchSize).Msg(which + " batch size restored")
			}
		}
	}
	if err != nil {
		return fmt.Errorf("model %q: the %s batch size was %w: %w", m.label, which, ErrNotRestored, err)
	}
	return nil
}

// tell tells all servers at once.
func (m *Model) tell(ctx context.Context, want setting) Result {
	return m.tellEach(ctx, want, func(*Server) setting { return want })
}

// tellEach tells each server what wantOf says, with want as the model's.
func (m *Model) tellEach(ctx context.Context, want setting, wantOf func(*Server) setting) Result {
	told, errs := make([]bool, len(m.servers)), make([]error, len(m.servers))
	var group sync.WaitGroup
	for i, s := range m.servers {
		own := wantOf(s)
		group.Go(func() { told[i], errs[i] = s.order(ctx, own) })
	}
	group.Wait()
	var result Result
	failed := &ServersError{Servers: len(m.servers)}
	for i, s := range m.servers {
		if errs[i] != nil {
			failed.Failed = append(failed.Failed, ServerError{s.server.String(), errs[i]})
			continue
		}
		result.Accepted = true
		result.Told = result.Told || told[i]
	}
	switch {
	case len(failed.Failed) > 0 && failed.Servers == 1:
		result.Err = failed.Failed[0].Err
	case len(failed.Failed) > 0:
		result.Err = failed
	}
	if result.Accepted {
		m.mu.Lock()
		result.Told = result.Told || m.desired.batchSize != want.batchSize
		m.desired = want
		m.keeping.batchSize = 0 // a server that is just being told it is too late
		m.mu.Unlock()
	}
	return result
}

func (m *Model) setCommanded(is bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.commanded = is
}

func (m *Model) wakeServers() {
	for _, s := range m.servers {
		select {
		case s.wake <- struct{}{}:
		default: // it will look anyway
		}
	}
}

// Keep has all servers set to a batch size, however long they take to accept it,
// until [Model.Release] or a server accepts a command. It does not wait.
func (m *Model) Keep(batchSize int) {
	m.mu.Lock()
	m.keeping = kept{batchSize, m.keeping.revision + 1}
	m.mu.Unlock()
	m.wakeServers()
}

// Release ends what Keep began.
func (m *Model) Release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keeping.batchSize = 0
}

// wants is what the servers should run, what is to be kept, and whether a command
// is under way.
func (m *Model) wants() (desired setting, keep kept, commanded bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	keep = m.keeping
	if keep.batchSize == 0 {
		keep.revision = 0
	}
	return m.desired, keep, m.commanded
}

// kept notes that a server runs what was to be kept.
func (m *Model) kept(revision int, told bool) {
	m.mu.Lock()
	current := m.keeping.revision == revision && m.keeping.batchSize != 0
	if current {
		told = told || m.desired.batchSize != m.keeping.batchSize
		m.desired = setting{batchSize: m.keeping.batchSize}
	}
	m.mu.Unlock()
	if current && m.rig.cfg.OnKept != nil {
		m.rig.cfg.OnKept(m.index, told)
	}
}

// TakeStep sets s to what came of the tokens of all servers since the last call, see
// [loadgen.StepTaker]. It is for the goroutine that steps.
func (m *Model) TakeStep(now time.Time, s *loadgen.StepITL) { m.steps.Take(now, s) }

// ITL is the latency over the window, over the tokens of all servers.
func (m *Model) ITL() loadgen.ITLWindow { return loadgen.ITLOf(time.Now(), m.loads...) }

// Load is what the load generators of all servers have done and measured since they
// were made.
func (m *Model) Load() loadgen.Stats { return loadgen.StatsOf(m.loads...) }

// ServerStatus is one server as it was seen last.
type ServerStatus struct {
	URL string
	// Actuator is how its batch size is set, empty before the start has found out.
	Actuator Actuator
	// Answers says that it answered as it should when it was last looked at.
	Answers bool
	// AchievedBatchSize is the number of requests that it runs, NaN when that is not
	// known.
	AchievedBatchSize float64
	// NoTokenS is for how long, in seconds, it has made no token although it should;
	// 0 if it makes some.
	NoTokenS float64
	// Commanded says that a command to it is under way.
	Commanded bool
}

// Servers are the model's servers, in config order.
func (m *Model) Servers() []ServerStatus {
	all := make([]ServerStatus, len(m.servers))
	now := time.Now()
	for i, s := range m.servers {
		all[i] = ServerStatus{s.server.String(), s.actuator(), s.answers.Load(), s.running(), s.noTokenS(now), s.busy.Load()}
	}
	return all
}

// ActuatorOf is how the servers' batch sizes are set: the one way of all, or each
// once; empty before the start has found out.
func ActuatorOf(servers []ServerStatus) string {
	var names []string
	for i := range servers {
		if name := string(servers[i].Actuator); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, "+")
}

// PowerAgeS is for how long, in seconds, the power of the GPU heard of least
// recently has been taken on trust.
func (m *Model) PowerAgeS() float64 { return m.rig.feed.AgeS(m.index) }
