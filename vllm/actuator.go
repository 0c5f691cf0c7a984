package vllm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
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

// ProbeActuator returns the best actuator that the server has. It changes nothing
// there: it asks with GET alone, which no server takes for a command.
//
// A server with POST /set_max_num_seqs has a route by that name for POST only, and
// answers GET with 405 Method Not Allowed, one without the route with 404. (OPTIONS
// would do as well, but is answered in the place of vLLM by whatever there is for
// cross-origin requests.) PATCH /v1/runtime_config has a GET beside it, which
// tells the value of max_num_running_seqs. A server with neither leaves
// concurrency.
//
// What says nothing about the server's routes (no answer, 401, 403, 429, 5xx) is
// an error rather than a reason to take a lesser actuator. Each question is tried
// three times.
func (s *Server) ProbeActuator(ctx context.Context) (Actuator, error) {
	err := s.get(ctx, s.retry, setMaxNumSeqsPath, func(io.Reader) error { return nil })
	var status *StatusError
	if errors.As(err, &status) && status.Status == http.StatusMethodNotAllowed {
		return ActuatorSetMaxNumSeqs, nil
	}
	if err != nil && !saysAbsent(err) {
		return "", fmt.Errorf("cannot tell whether the server has %s: %w", ActuatorSetMaxNumSeqs, err)
	}
	has := false
	err = s.get(ctx, s.retry, runtimeConfigPath, func(body io.Reader) error {
		raw, err := readAnswer(body)
		if err != nil {
			return err
		}
		var config struct {
			MaxNumRunningSeqs *float64 `json:"max_num_running_seqs"`
		}
		// A page of something else, as some gateways have for every path, is none.
		has = json.Unmarshal(raw, &config) == nil && config.MaxNumRunningSeqs != nil
		return nil
	})
	if err != nil && !saysAbsent(err) {
		return "", fmt.Errorf("cannot tell whether the server has %s: %w", ActuatorRuntimeConfig, err)
	}
	if has {
		return ActuatorRuntimeConfig, nil
	}
	return ActuatorConcurrency, nil
}

// saysAbsent reports whether an answer means that the server lacks what it was
// asked for.
func saysAbsent(err error) bool {
	var status *StatusError
	if !errors.As(err, &status) {
		return false
	}
	switch s := status.Status; s {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	case http.StatusNotImplemented:
		return true
	default:
		return s < 500
	}
}

// SetBatchSize has the server run at most n sequences at once. rampUpRate, in
// sequences per second, makes a higher batch size take effect little by little; 0
// is at once, and only [ActuatorSetMaxNumSeqs] knows others. n is at least 1.
//
// The command is exactly one request, never repeated: neither here nor by
// net/http nor along a redirect. With [ActuatorConcurrency] it is none: that it
// returns nil leaves the rest to the load generator. Every error is a
// [*CommandError].
func (s *Server) SetBatchSize(ctx context.Context, actuator Actuator, n int, rampUpRate float64) error {
	failed := &CommandError{Actuator: actuator, BatchSize: n, URL: s.base}
	refuse := func(format string, args ...any) error {
		failed.Outcome, failed.Detail = OutcomeRefused, fmt.Sprintf(format, args...)
		return failed
	}
	switch {
	case n < 1:
		return refuse("want a batch size of at least 1")
	case !(rampUpRate >= 0) || math.IsInf(rampUpRate, 1):
		return refuse("the ramp-up rate is %v per second; want a finite number from 0 on", rampUpRate)
	case rampUpRate != 0 && (actuator == ActuatorRuntimeConfig || actuator == ActuatorConcurrency):
		return refuse("the ramp-up rate is %v per second, which %s cannot do; want 0, or the actuator %s", rampUpRate, actuator, ActuatorSetMaxNumSeqs)
	}

	var method, target string
	var body io.Reader
	switch actuator {
	case ActuatorSetMaxNumSeqs:
		query := url.Values{"max_num_seqs": {strconv.Itoa(n)}}
		if rampUpRate != 0 {
			query.Set("ramp_up_rate", strconv.FormatFloat(rampUpRate, 'f', -1, 64))
		}
		method, target = http.MethodPost, s.base+setMaxNumSeqsPath+"?"+query.Encode()
	case ActuatorRuntimeConfig:
		method, target = http.MethodPatch, s.base+runtimeConfigPath
		body = strings.NewReader(fmt.Sprintf(`{"max_num_running_seqs": %d}`, n))
	case ActuatorConcurrency:
		return nil
	default:
		return refuse("there is no such actuator; want %s, %s or %s", ActuatorSetMaxNumSeqs, ActuatorRuntimeConfig, ActuatorConcurrency)
	}

	ctx, cancel := s.withTimeout(ctx)
	defer cancel()
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	req, err := s.newRequest(ctx, method, target, body)
	if err != nil {
		return refuse("%v", err)
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
		return failed
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 == 2 {
		return nil
	}
	failed.Status, failed.Detail, failed.Outcome = resp.StatusCode, detail(resp), OutcomeRefused
	if !answersNo(resp.StatusCode) {
		failed.Outcome = OutcomeUnknown
	}
	return failed
}

// answersNo reports whether a status other than 2xx means that the server did not
// do what it was told.
func answersNo(status int) bool { return status < 500 || status == http.StatusNotImplemented }
