package vllm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/g2g-agent/g2g-agent/internal/credential"
)

// Actuator is a way to change how many sequences a server runs at once.
type Actuator string

// The actuators, best first.
const (
	// ActuatorSetMaxNumSeqs is POST /set_max_num_seqs, which servers patched for
	// OpenG2G have. Only it knows a ramp-up rate.
	ActuatorSetMaxNumSeqs Actuator = "set_max_num_seqs"
	// ActuatorRuntimeConfig is PATCH /v1/runtime_config, as proposed in vLLM's pull
	// request 54816; servers have it in development mode at best. They reject batch
	// sizes above the max_num_seqs that they were started with.
	ActuatorRuntimeConfig Actuator = "runtime_config"
	// ActuatorConcurrency leaves the server alone: the load generator holds at most
	// as many requests in flight. It works with every server.
	ActuatorConcurrency Actuator = "concurrency"
)

const (
	setMaxNumSeqsPath = "/set_max_num_seqs"
	runtimeConfigPath = "/v1/runtime_config"
)

// Outcome is what became of a command that failed.
type Outcome string

// The outcomes.
const (
	// OutcomeRefused: the server said no, or the command was one that it cannot be
	// asked. Nothing changed.
	OutcomeRefused Outcome = "refused"
	// OutcomeUnreachable: there was no connection, so the command was not sent.
	// Nothing changed.
	OutcomeUnreachable Outcome = "unreachable"
	// OutcomeUnknown: the command was sent, or a part of it, and there was no answer
	// or a 5xx, with which a server says that it failed, not that nothing happened.
	// The batch size may have changed.
	OutcomeUnknown Outcome = "unknown"
)

// CommandError is the error of [Server.SetBatchSize].
type CommandError struct {
	// Actuator and BatchSize are the command.
	Actuator  Actuator
	BatchSize int
	// URL is the server's base URL.
	URL string
	// Status is the HTTP status, 0 without an answer.
	Status int
	// Detail is what the server said, shortened to 200 bytes; without an answer,
	// what went wrong.
	Detail string
	// Outcome says whether the batch size may have changed.
	Outcome Outcome
	// Err is the cause if there was no answer, else nil.
	Err error
}

// Error says what was commanded and what became of it.
func (e *CommandError) Error() string {
	text := fmt.Sprintf("batch size %d by %s on vLLM server %s: ", e.BatchSize, e.Actuator, e.URL)
	reason := e.Detail
	if e.Status != 0 {
		reason = "the server answered " + statusAndDetail(e.Status, e.Detail)
	}
	switch e.Outcome {
	case OutcomeRefused:
		return text + "refused: " + reason
	case OutcomeUnreachable:
		return text + "not sent: " + reason
	default:
		return text + "sent, but it may or may not have taken effect: " + reason
	}
}

// Unwrap returns the cause.
func (e *CommandError) Unwrap() error { return e.Err }

// NoSuchActuator reports whether the server refused because it does not have the
// actuator.
func (e *CommandError) NoSuchActuator() bool {
	return e.Outcome == OutcomeRefused && (saysGone(e.Status) || e.Status == http.StatusMethodNotAllowed)
}

// Evidence is what a server's answers to GET tell of an actuator.
type Evidence string

// The kinds of evidence.
const (
	// EvidencePresent: the server has it.
	EvidencePresent Evidence = "present"
	// EvidenceAbsent: the server says that there is no such path.
	EvidenceAbsent Evidence = "absent"
	// EvidenceNone: the answer is one that a server without it may give too, such as
	// one that it gives for every path.
	EvidenceNone Evidence = "none"
)

// ProbeActuator returns the best actuator of which there is evidence, leaving out
// those of except. It changes nothing there: it asks with GET alone, which no
// server takes for a command. A server with neither of the two that it can have
// leaves concurrency.
//
// What says nothing about the server's routes (no answer, 401, 403, 429, 5xx) is
// an error rather than a reason to take a lesser actuator, unless a server that is
// well answers so to whatever it does not know. Each question is tried three times.
func (s *Server) ProbeActuator(ctx context.Context, except ...Actuator) (Actuator, error) {
	for _, actuator := range []Actuator{ActuatorSetMaxNumSeqs, ActuatorRuntimeConfig} {
		if slices.Contains(except, actuator) {
			continue
		}
		evidence, err := s.EvidenceOf(ctx, actuator)
		if err != nil {
			return "", err
		}
		if evidence == EvidencePresent {
			return actuator, nil
		}
	}
	return ActuatorConcurrency, nil
}

// EvidenceOf returns what the server's answers to GET tell of an actuator. Of
// concurrency there always is evidence. As for errors it is as
// [Server.ProbeActuator].
//
// A server with POST /set_max_num_seqs has a route by that name for POST only, and
// answers GET with 405 Method Not Allowed, one without the route with 404. (OPTIONS
// would do as well, but is answered in the place of vLLM by whatever there is for
// cross-origin requests.) Some gateways answer 405 to GET of whatever they do not
// know, so a path that surely is not there is asked for as well, and one that has
// GET if it is there: 405 counts if those answers differ from it. PATCH
// /v1/runtime_config has a GET beside it, which tells the value of
// max_num_running_seqs.
//
// Commands follow no redirects, so what lies behind one is of no use.
func (s *Server) EvidenceOf(ctx context.Context, actuator Actuator) (evidence Evidence, err error) {
	switch actuator {
	case ActuatorSetMaxNumSeqs:
		evidence, err = s.evidenceOfPost(ctx, setMaxNumSeqsPath)
	case ActuatorRuntimeConfig:
		evidence, err = s.evidenceOfRuntimeConfig(ctx)
	default:
		return EvidencePresent, nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot tell whether the server has %s: %w", actuator, err)
	}
	return evidence, nil
}

// evidenceOfPost tells of a path that has POST alone.
func (s *Server) evidenceOfPost(ctx context.Context, path string) (Evidence, error) {
	ours, err := s.routeOf(ctx, path)
	if err != nil {
		return s.evidenceOfRefusal(ctx, path, err)
	}
	if ours.status != http.StatusMethodNotAllowed || ours.redirected || ours.allow != "" && !allows(ours.allow, http.MethodPost) {
		return ours.evidence(), nil
	}
	for _, control := range []string{controlOf(path), runtimeConfigPath} {
		other, err := s.routeOf(ctx, control)
		switch {
		case err != nil && ours.allow != "" && ctx.Err() == nil:
			return EvidencePresent, nil // the server is busy, and has said enough
		case err != nil:
			return "", err
		case other == ours:
			return EvidenceNone, nil
		}
	}
	return EvidencePresent, nil
}

// controlOf is a path that surely is not there, like another.
func controlOf(path string) string { return fmt.Sprintf("%s_%016x", path, rand.Uint64()) }

// evidenceOfRefusal tells of a path whose answer, refused, says nothing about the
// server's routes by itself. If a server that is well, as it lists its models, gives
// the same answer for what surely is not there, it is one that does not say 404.
func (s *Server) evidenceOfRefusal(ctx context.Context, path string, refused error) (Evidence, error) {
	var ours, other *StatusError
	if !errors.As(refused, &ours) {
		return "", refused
	}
	if _, err := s.Models(ctx); err != nil {
		return "", refused
	}
	if _, err := s.routeOf(ctx, controlOf(path)); !errors.As(err, &other) || other.Status != ours.Status {
		return "", refused
	}
	return EvidenceNone, nil
}

// allows reports whether a header Allow names a method.
func allows(header, method string) bool {
	for name := range strings.SplitSeq(header, ",") {
		if strings.EqualFold(strings.TrimSpace(name), method) {
			return true
		}
	}
	return false
}

// evidenceOfRuntimeConfig tells of GET /v1/runtime_config and, with it, of PATCH.
func (s *Server) evidenceOfRuntimeConfig(ctx context.Context) (Evidence, error) {
	var raw []byte
	r, err := s.route(ctx, runtimeConfigPath, func(body io.Reader) (err error) {
		raw, err = readAnswer(body)
		return err
	})
	if err != nil {
		return s.evidenceOfRefusal(ctx, runtimeConfigPath, err)
	}
	var config struct {
		MaxNumRunningSeqs *float64 `json:"max_num_running_seqs"`
	}
	// A page of something else, as some gateways have for every path, is none.
	if !r.redirected && json.Unmarshal(raw, &config) == nil && config.MaxNumRunningSeqs != nil {
		return EvidencePresent, nil
	}
	return r.evidence(), nil
}

// route is how a server answers to a GET, as far as that tells what it has.
type route struct {
	status     int
	allow      string // the header
	redirected bool
}

// evidence is what the answer says by itself of something that is not there for
// GET.
func (r route) evidence() Evidence {
	if saysGone(r.status) {
		return EvidenceAbsent
	}
	return EvidenceNone
}

// saysGone reports whether an answer's status means that there is no such thing on
// the server.
func saysGone(status int) bool {
	switch status {
	case http.StatusNotFound, http.StatusGone, http.StatusNotImplemented:
		return true
	default:
		return false
	}
}

func (s *Server) routeOf(ctx context.Context, path string) (route, error) {
	return s.route(ctx, path, func(io.Reader) error { return nil })
}

// route asks for a path and has read look at the body of a 200. An answer that
// says nothing about the server's routes is an error.
func (s *Server) route(ctx context.Context, path string, read func(io.Reader) error) (route, error) {
	var header http.Header
	redirected := false
	err := s.getAnswer(ctx, s.retry, path, func(a *answer) error {
		header, redirected = a.Header, a.redirects > 0
		if a.StatusCode != http.StatusOK {
			return a.err(s.base + path)
		}
		return read(a.Body)
	})
	r := route{http.StatusOK, header.Get("Allow"), redirected}
	if status := (*StatusError)(nil); errors.As(err, &status) && saysRoute(status.Status) {
		r.status = status.Status
		return r, nil
	}
	return r, err
}

// saysRoute reports whether an answer's status tells something of what paths and
// methods a server has.
func saysRoute(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	case http.StatusNotImplemented:
		return true
	default:
		return status < 500
	}
}

// SetBatchSize has the server run at most n sequences at once. rampUpRate, in
// sequences per second, makes a higher batch size take effect little by little; 0
// is at once, and only [ActuatorSetMaxNumSeqs] knows others. n is at least 1.
//
// The command is exactly one request, never repeated: neither here nor by
// net/http nor along a redirect. Only one that the server refused because of its
// key is sent once more if there is a new key. With [ActuatorConcurrency] it is
// none: that it returns nil leaves the rest to the load generator. Every error is
// a [*CommandError].
func (s *Server) SetBatchSize(ctx context.Context, actuator Actuator, n int, rampUpRate float64) error {
	failed := &CommandError{Actuator: actuator, BatchSize: n, URL: s.base}
	if why := checkCommand(actuator, n, rampUpRate); why != "" {
		failed.Outcome, failed.Detail = OutcomeRefused, why
		return failed
	}
	var c wireCommand
	switch actuator {
	case ActuatorSetMaxNumSeqs:
		query := url.Values{"max_num_seqs": {strconv.Itoa(n)}}
		if rampUpRate != 0 {
			query.Set("ramp_up_rate", strconv.FormatFloat(rampUpRate, 'f', -1, 64))
		}
		c = wireCommand{http.MethodPost, s.base + setMaxNumSeqsPath + "?" + query.Encode(), ""}
	case ActuatorRuntimeConfig:
		c = wireCommand{http.MethodPatch, s.base + runtimeConfigPath, fmt.Sprintf(`{"max_num_running_seqs": %d}`, n)}
	default:
		return nil
	}
	ctx, cancel := s.withTimeout(ctx)
	defer cancel()
	key := s.credential.Key()
	ok := s.send(ctx, c, key, failed)
	if !ok && credential.Refuses(failed.Status) {
		var renewed bool
		if renewed, failed.Detail = s.credential.RenewAfter(key, failed.Detail); renewed {
			ok = s.send(ctx, c, s.credential.Key(), failed)
		}
		failed.Detail = shorten(failed.Detail)
	}
	if ok {
		return nil
	}
	return failed
}

// checkCommand returns why a command cannot be given, empty if it can.
func checkCommand(actuator Actuator, n int, rampUpRate float64) string {
	switch {
	case n < 1:
		return "want a batch size of at least 1"
	case !(rampUpRate >= 0) || math.IsInf(rampUpRate, 1):
		return fmt.Sprintf("the ramp-up rate is %v per second; want a finite number from 0 on", rampUpRate)
	case rampUpRate != 0 && (actuator == ActuatorRuntimeConfig || actuator == ActuatorConcurrency):
		return fmt.Sprintf("the ramp-up rate is %v per second, which %s cannot do; want 0, or the actuator %s", rampUpRate, actuator, ActuatorSetMaxNumSeqs)
	case actuator != ActuatorSetMaxNumSeqs && actuator != ActuatorRuntimeConfig && actuator != ActuatorConcurrency:
		return fmt.Sprintf("there is no such actuator; want %s, %s or %s", ActuatorSetMaxNumSeqs, ActuatorRuntimeConfig, ActuatorConcurrency)
	default:
		return ""
	}
}

// wireCommand is a command as it is sent; the body, if there is one, is JSON.
type wireCommand struct{ method, target, body string }

// send sends a command once. If it does not succeed, failed says why.
func (s *Server) send(ctx context.Context, c wireCommand, key string, failed *CommandError) (ok bool) {
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	var body io.Reader
	if c.body != "" {
		body = strings.NewReader(c.body)
	}
	failed.Status, failed.Err = 0, nil
	req, err := newRequest(ctx, c.method, c.target, body, key)
	if err != nil {
		failed.Outcome, failed.Detail = OutcomeRefused, err.Error()
		return false
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.commands.Do(req)
	if err != nil {
		failed.Err = reason(ctx, err)
		failed.Detail, failed.Outcome = failed.Err.Error(), OutcomeUnreachable
		if connected.Load() {
			failed.Outcome = OutcomeUnknown
		}
		return false
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 == 2 {
		return true
	}
	failed.Status, failed.Detail, failed.Outcome = resp.StatusCode, detail(resp), OutcomeRefused
	if !answersNo(resp.StatusCode) {
		failed.Outcome = OutcomeUnknown
	}
	return false
}

// answersNo reports whether a status other than 2xx means that the server did not
// do what it was told.
func answersNo(status int) bool { return status < 500 || status == http.StatusNotImplemented }
