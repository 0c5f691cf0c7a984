package api

import (
	"context"
	"net/http"
	"time"

	"github.com/g2g-agent/g2g-agent/api/guard"
	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/internal/strictjson"
)

// lockstep serves the WebSocket by which a replay is driven: each text message is what
// POST /v1/steps takes, or {"reset": …} with what POST /v1/reset takes, and is answered by
// one with what they answer, or with a problem.
func (s *Server) lockstep(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Lockstep == nil {
		notLockstep().Write(w)
		return
	}
	caller := context.WithoutCancel(r.Context()) // who asks; the request ends when the WebSocket begins
	s.talks.Serve(w, r, func(message []byte, text bool, b []byte) []byte { return s.lockstepAnswer(caller, message, text, b) })
}

// lockstepAnswer appends the answer to a message.
func (s *Server) lockstepAnswer(caller context.Context, message []byte, text bool, b []byte) (answer []byte) {
	start := time.Now()
	done := guard.AuditEntry{Command: stepsCommand, Status: http.StatusOK}
	defer func() {
		if cause := recover(); cause != nil {
			done.Status = http.StatusInternalServerError
			answer = s.failed(http.MethodGet, "/v1/lockstep", cause).AppendJSON(b)
		}
		done.Took = time.Since(start)
		if isAudited(done.Command, done.Status) {
			done.Body = auditBody(message)
			s.guard.Audit(caller, done)
		}
		s.metrics.ObserveCommand(done.Command, outcomeOf(done.Status, false), done.Took)
	}()
	refuse := func(p *problem.Problem) []byte {
		done.Status, done.Result = p.Status, p.Detail
		return p.AppendJSON(b)
	}
	if !text {
		return refuse(problem.New(http.StatusUnsupportedMediaType, "the message is binary; want a JSON object as text"))
	}
	if request, ok := s.knownSteps(message); ok {
		return s.answerSteps(&request, b, refuse)
	}
	o, err := strictjson.Parse(message)
	if err != nil {
		return refuse(bodyProblem(err))
	}
	if o.Has(resetCommand) {
		done.Command = resetCommand
		o.Members([]string{resetCommand})
		inner := o.Within(resetCommand)
		if err := o.Err(); err != nil {
			return refuse(bodyProblem(err))
		}
		info, refused := s.resetAs(s.ending, inner) //nolint:contextcheck // it ends with the agent
		if refused != nil {
			return refuse(refused)
		}
		done.Result = resetResult(info)
		return append(b, mustJSON(info)...)
	}
	request, err := s.readSteps(message, o)
	if err != nil {
		return refuse(bodyProblem(err))
	}
	return s.answerSteps(&request, b, refuse)
}

// answerSteps appends the answer to a request for steps.
func (s *Server) answerSteps(r *stepsRequest, b []byte, refuse func(*problem.Problem) []byte) []byte {
	states, refused := s.advance(s.ending, r)
	if refused != nil {
		return refuse(refused)
	}
	return s.appendStates(b, states, r)
}
