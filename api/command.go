package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api/guard"
	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/internal/textfile"
	"github.com/g2g-agent/g2g-agent/recording"
)

// stepsCommand is the name of the command that advances a replay.
const stepsCommand = "steps"

// report is what a command's handler says for the log. It travels in the
// request's context.
type report struct{ result any }

type reportKey struct{}

// reportResult says what became of the command that ctx belongs to. The first
// report counts.
func reportResult(ctx context.Context, result any) {
	if r, ok := ctx.Value(reportKey{}).(*report); ok && r.result == nil {
		r.result = result
	}
}

// command puts around the handler of a command what all commands have in common:
// the body is read, a repeated request is answered as before, and who asked for
// what, and got what, is logged and counted.
func (s *Server) command(name string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		answer := &response{ResponseWriter: w}
		done := &report{}
		ctx := context.WithValue(r.Context(), reportKey{}, done)
		var body []byte
		var key string
		replayed := false
		defer func() { // also after a panic
			took := time.Since(start)
			if isAudited(name, answer.status) {
				s.guard.Audit(ctx, guard.AuditEntry{
					Command: name, Body: auditBody(body), Status: answer.status, Result: done.result, Took: took, IdempotencyKey: key, Replayed: replayed,
				})
			}
			s.metrics.ObserveCommand(name, outcomeOf(answer.status, replayed), took)
		}()
		refuse := func(p *problem.Problem) {
			done.result = p.Detail
			p.Write(answer)
		}

		var refused *problem.Problem
		if body, key, refused = readCommand(r); refused != nil {
			refuse(refused)
			return
		}
		ctx = agent.WithOrigin(ctx, originOf(r, body, key))
		r = r.WithContext(ctx)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if key == "" {
			next.ServeHTTP(answer, r)
			return
		}
		if replayed, refused = s.once(answer, r, answerKey{r.URL.Path, key}, body, next); refused != nil {
			refuse(refused)
		}
	})
}

// isAudited reports whether a command leaves a line in the log. A replay in lockstep is
// advanced thousands of times: those are no commands to the datacenter.
func isAudited(command string, status int) bool {
	return command != stepsCommand || status >= http.StatusBadRequest
}

// originOf is where a command came from.
func originOf(r *http.Request, body []byte, key string) agent.Origin {
	role, address, _ := strings.Cut(guard.ClientOf(r.Context()), " ")
	return agent.Origin{Actor: recording.Actor{Via: "api", Role: role, Address: address}, IdempotencyKey: key, Body: body}
}

// once answers a request with a key as before, if it was answered before; else next
// answers it, and its answer is remembered.
func (s *Server) once(w *response, r *http.Request, key answerKey, body []byte, next http.Handler) (replayed bool, refused *problem.Problem) {
	before, refused := s.answers.begin(key, body, time.Now())
	switch {
	case refused != nil:
		return false, refused
	case before != nil:
		before.write(w)
		return true, nil
	}
	w.keep, w.keepBytes = &bytes.Buffer{}, maxAnswerBytes
	whole := false
	defer func() {
		if !whole { // a panic broke it off
			w.keep = nil
		}
		s.answers.finish(key, w)
	}()
	// Who gives a key asks again when the connection is lost: the answer is to be
	// there then.
	ctx, cancel := s.running(r.Context())
	defer cancel()
	next.ServeHTTP(w, r.WithContext(ctx))
	whole = true
	return false, nil
}

// readCommand returns a request's body and Idempotency-Key, or what is wrong with
// the request around its body.
func readCommand(r *http.Request) (body []byte, key string, refused *problem.Problem) {
	if body, refused = readBody(r); refused != nil {
		return nil, "", refused
	}
	if refused = checkQuery(r, nil); refused != nil {
		return body, "", refused
	}
	key, refused = checkKey(r)
	return body, key, refused
}

// readBody returns a request's JSON body, not yet looked into. The guard has seen
// to its size, and that it is whole.
func readBody(r *http.Request) ([]byte, *problem.Problem) {
	if contentType := r.Header.Get("Content-Type"); !isJSON(contentType) {
		return nil, problem.New(http.StatusUnsupportedMediaType, "the body must be sent with Content-Type: %s, got %q",
			contentTypeJSON, problem.Shorten(contentType)).
			At("header.Content-Type", "must be "+contentTypeJSON)
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return nil, problem.New(http.StatusUnsupportedMediaType, "the body must be sent as it is, got Content-Encoding: %q",
			problem.Shorten(encoding)).
			At("header.Content-Encoding", "must not be there")
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, problem.New(http.StatusBadRequest, "the body could not be read: %v", err).At("body", "did not come whole")
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, problem.New(http.StatusBadRequest, "the body is empty, want a JSON object").At("body", "is empty, want a JSON object")
	}
	return body, nil
}

// isJSON reports whether a content type is that of JSON.
func isJSON(contentType string) bool {
	if contentType == contentTypeJSON { // as nearly all send it
		return true
	}
	kind, parameters, err := mime.ParseMediaType(contentType)
	charset := strings.ToLower(parameters["charset"])
	return err == nil && kind == contentTypeJSON && (charset == "" || charset == "utf-8")
}

// auditBody is a body as the log has it: JSON as it came, anything else as text.
func auditBody(body []byte) any {
	if len(body) == 0 {
		return nil
	}
	if text, err := textfile.Strip(body); err == nil && json.Valid(text) {
		return json.RawMessage(text)
	}
	return string(body)
}

// outcomeOf is the outcome of a command, for metrics.
func outcomeOf(status int, replayed bool) string {
	switch {
	case replayed:
		return "replayed"
	case status == http.StatusBadGateway:
		return "server_failed"
	case status == 0 || status >= http.StatusInternalServerError:
		return "failed"
	case status >= http.StatusBadRequest:
		return "refused"
	}
	return "accepted"
}
