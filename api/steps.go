package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/strictjson"
)

// Lockstep is a replay that waits to be driven, such as an [*agent.LockstepReplay].
type Lockstep interface {
	// Advance computes the next steps and hands each state to each.
	Advance(ctx context.Context, a agent.Advance, each func(*datacenter.State) error) (steps int, err error)
	// Reset begins the run anew.
	Reset(ctx context.Context, o *config.Override) error
}

const contentTypeLines = "application/x-ndjson"

// stepsRequest is a request for steps.
type stepsRequest struct {
	agent.Advance
	// batchSizes: the first command is of batch sizes, the others are shifts.
	batchSizes bool
	fields     datacenter.StateFields
	// columns: the answer has a list a member in place of an object a state.
	columns bool
}

// stepsOf reads a request for steps; what is wrong with it is the object's to tell.
func (s *Server) stepsOf(o *strictjson.Object) (r stepsRequest) {
	const steps, until, fields, layout = "steps", "until_s", "fields", "layout"
	o.Members(nil, append([]string{steps, until, fields, layout}, datacenter.StepCommandMembers()...)...)
	r.Commands, r.batchSizes = datacenter.DecodeStepCommands(o)
	defaultLeaseS := s.control.Load().DefaultLeaseS
	for i, command := range r.Commands {
		r.Commands[i] = leased(command, defaultLeaseS)
	}
	if o.Has(steps) {
		least := int64(1)
		if len(r.Commands) > 0 {
			least = 0
		}
		r.Steps = o.Whole(steps, least, agent.MaxSteps)
	}
	if o.Has(until) {
		untilS := o.Number(until, "a number of seconds, at least 0", func(f float64) bool { return f >= 0 && !math.IsInf(f, 0) })
		r.UntilS = &untilS
	}
	switch {
	case o.Has(until) && o.Has(steps):
		o.Fault(until, "stands beside steps: one of them says how far to go")
	case !o.Has(until) && !o.Has(steps):
		o.Fault(steps, "is missing; it, or until_s, says how far to go")
	}
	if o.Has(fields) {
		names := o.Texts(fields)
		var unknown int
		if r.fields, unknown = datacenter.StateFieldsOf(names); unknown >= 0 {
			o.Fault(fmt.Sprintf("%s[%d]", fields, unknown), "no state has %q; there are %q", problem.Shorten(names[unknown]), datacenter.StateFieldNames())
		}
	}
	if o.Has(layout) {
		switch text := o.Text(layout); text {
		case "columns":
			r.columns = true
		case "states", "":
		default:
			o.Fault(layout, "must be states or columns, got %q", problem.Shorten(text))
		}
	}
	return r
}

// leased gives a command without a lease the default one.
func leased(command datacenter.Command, leaseS float64) datacenter.Command {
	switch c := command.(type) {
	case datacenter.SetBatchSize:
		if c.LeaseS == 0 {
			c.LeaseS = leaseS
		}
		return c
	case datacenter.ShiftReplicas:
		if c.LeaseS == 0 {
			c.LeaseS = leaseS
		}
		return c
	}
	return command
}

// notLockstep is the answer where nothing is driven by requests.
func notLockstep() *problem.Problem {
	return problem.New(http.StatusConflict, "this run steps by itself; only a replay started with --pace step is advanced by requests").
		Coded(problem.CodeNotLockstep)
}

// plainSteps reads {"steps": n}, which nearly all requests are; ok is false for all others.
func plainSteps(raw []byte) (n int, ok bool) {
	digits, isSteps := bytes.CutPrefix(raw, []byte(`{"steps":`))
	digits, ends := bytes.CutSuffix(digits, []byte("}"))
	digits = bytes.TrimPrefix(digits, []byte(" "))
	if !isSteps || !ends || len(digits) == 0 || len(digits) > 5 || digits[0] == '0' {
		return 0, false
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, n <= agent.MaxSteps
}

// decodeSteps reads the body of a request for steps.
func (s *Server) decodeSteps(raw []byte) (r stepsRequest, refused *problem.Problem) {
	if r, ok := s.knownSteps(raw); ok {
		return r, nil
	}
	o, err := strictjson.Parse(raw)
	if err == nil {
		r, err = s.readSteps(raw, o)
	}
	if err != nil {
		return r, bodyProblem(err)
	}
	return r, nil
}

// knownSteps is a request for steps that need not be read with all care: a plain one, or
// the latest one again, as controllers send.
func (s *Server) knownSteps(raw []byte) (r stepsRequest, ok bool) {
	if r.Steps, ok = plainSteps(raw); ok {
		return r, true
	}
	if last := s.latestSteps.Load(); last != nil && bytes.Equal(raw, last.raw) {
		return last.stepsRequest, true
	}
	return r, false
}

// readSteps reads a request for steps, which raw says, and keeps it.
func (s *Server) readSteps(raw []byte, o *strictjson.Object) (stepsRequest, error) {
	r := s.stepsOf(o)
	if err := o.Err(); err != nil {
		return r, err
	}
	if len(r.Commands) == 0 { // what commands mean depends on the config in force, too
		s.latestSteps.Store(&keptSteps{r, bytes.Clone(raw)})
	}
	return r, nil
}

// keptSteps is a request for steps, and the body that it was read from.
type keptSteps struct {
	stepsRequest
	raw []byte
}

// advance computes the states that a request asks for.
func (s *Server) advance(ctx context.Context, r *stepsRequest) ([]*datacenter.State, *problem.Problem) {
	states := make([]*datacenter.State, 0, r.Steps)
	n, err := s.cfg.Lockstep.Advance(ctx, r.Advance, func(state *datacenter.State) error {
		states = append(states, state)
		return nil
	})
	if err != nil {
		return nil, s.stepsFailed(r, n, err)
	}
	return states, nil
}

// stepsFailed is the answer where a replay could not be advanced as far as asked.
func (s *Server) stepsFailed(r *stepsRequest, computed int, err error) *problem.Problem {
	var refused *agent.AdvanceError
	if errors.As(err, &refused) {
		field := refused.Field
		if shift := refused.Index; field != "command" && (!r.batchSizes || shift > 0) {
			if r.batchSizes {
				shift--
			}
			field = fmt.Sprintf("replica_shifts[%d].%s", shift, field)
		}
		return commandProblem(&datacenter.CommandError{Field: field, Reason: refused.Reason, Detail: refused.Detail})
	}
	if p := commandProblem(err); p != nil {
		return p
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return problem.New(http.StatusServiceUnavailable, "the request ended after %d steps: %v", computed, err)
	}
	s.cfg.Log.Error().Err(err).Int("steps", computed).Msg("API: the replay failed")
	return problem.New(http.StatusInternalServerError, "the replay failed after %d steps: %v", computed, err)
}

// steps serves POST /v1/steps.
func (s *Server) steps(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body) // Server.command has read it
	request, refused := s.decodeSteps(raw)
	if refused == nil && s.cfg.Lockstep == nil {
		refused = notLockstep()
	}
	asLines := strings.Contains(r.Header.Get("Accept"), contentTypeLines)
	if refused == nil && asLines && !request.columns {
		s.streamSteps(w, r, &request)
		return
	}
	var states []*datacenter.State
	if refused == nil {
		states, refused = s.advance(r.Context(), &request)
	}
	if refused != nil {
		reportResult(r.Context(), refused.Detail)
		refused.Write(w)
		return
	}
	w.Header().Set("Content-Type", contentTypeJSON)
	if asLines {
		w.Header().Set("Content-Type", contentTypeLines)
	}
	if len(states)*stateBytes > writeChunk && !request.columns {
		_, _ = writeStates(w, states, request.fields, func(work func()) error { work(); return nil })
		return
	}
	buffer := s.buffers.get()
	defer s.buffers.put(buffer)
	*buffer = append(s.appendStates((*buffer)[:0], states, &request), '\n')
	w.Header().Set("Content-Length", strconv.Itoa(len(*buffer)))
	_, _ = w.Write(*buffer) // a client that is gone cannot be told
}

// appendStates appends the answer to a request for steps.
func (s *Server) appendStates(b []byte, states []*datacenter.State, r *stepsRequest) []byte {
	if r.columns {
		return datacenter.AppendStateColumns(b, states, s.labels(states), r.fields)
	}
	b = append(b, '[')
	for i, state := range states {
		if i > 0 {
			b = append(b, ',')
		}
		b = state.AppendFields(b, r.fields)
	}
	return append(b, ']')
}

// labels are those of the models, also where there are no states.
func (s *Server) labels(states []*datacenter.State) (labels []string) {
	if len(states) > 0 {
		for i := range states[0].Models {
			labels = append(labels, states[0].Models[i].ModelLabel)
		}
		return labels
	}
	status := s.cfg.Site.Status()
	for i := range status.Models {
		labels = append(labels, status.Models[i].Spec.ModelLabel)
	}
	return labels
}

// streamSteps answers with a line for each state, as they are computed: computing does not
// wait for whoever reads them. Where it fails after the first line, the last one is the
// problem.
func (s *Server) streamSteps(w http.ResponseWriter, r *http.Request, request *stepsRequest) {
	states := make(chan *datacenter.State, agent.MaxSteps)
	var failed *problem.Problem
	ctx := r.Context()
	go func() {
		defer close(states)
		defer func() {
			if cause := recover(); cause != nil {
				failed = s.failed(http.MethodPost, "/v1/"+stepsCommand, cause)
			}
		}()
		n, err := s.cfg.Lockstep.Advance(ctx, request.Advance, func(state *datacenter.State) error {
			states <- state
			return nil
		})
		if err != nil {
			failed = s.stepsFailed(request, n, err)
		}
	}()
	buffer := s.buffers.get()
	defer s.buffers.put(buffer)
	b, begun := (*buffer)[:0], false
	flush := func() {
		if !begun {
			w.Header().Set("Content-Type", contentTypeLines)
			begun = true
		}
		_, _ = w.Write(b) // a client that is gone ends the request's context
		b = b[:0]
	}
	for state := range states {
		b = append(state.AppendFields(b, request.fields), '\n')
		if len(b) >= writeChunk || len(states) == 0 && !begun {
			flush()
			_ = http.NewResponseController(w).Flush() // it cannot be flushed: it is sent later
		}
	}
	if failed != nil {
		reportResult(r.Context(), failed.Detail)
		if !begun && len(b) == 0 {
			failed.Write(w)
			return
		}
		b = append(failed.AppendJSON(b), '\n')
	}
	flush()
	*buffer = b
}
