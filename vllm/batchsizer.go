package vllm

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/g2g-agent/g2g-agent/internal/credential"
)

const (
	setMaxNumSeqsPath = "/set_max_num_seqs"
	runtimeConfigPath = "/v1/runtime_config"
)

// BatchSizer is one way to set a server's batch size. A new one is a type in this
// file and a line in batchSizers.
type BatchSizer interface {
	Name() Actuator
	// Ramps says that a higher batch size can take effect little by little.
	Ramps() bool
	// ByLoad says that whoever loads the server holds the batch size by keeping as
	// many requests in flight: the server is told nothing, and has nothing to forget.
	ByLoad() bool

	// evidence is what the server's answers to GET tell of it.
	evidence(context.Context) (Evidence, error)
	// command is the one request that sets n, none for one by load.
	command(n int, rampUpRate float64) wireCommand
}

// batchSizers are all ways, best first; the last one every server has.
func (s *Server) batchSizers() []BatchSizer {
	return []BatchSizer{setMaxNumSeqs{s}, runtimeConfig{s}, concurrency{}}
}

// BatchSizer returns the way by that name.
func (s *Server) BatchSizer(name Actuator) (BatchSizer, error) {
	for _, b := range s.batchSizers() {
		if b.Name() == name {
			return b, nil
		}
	}
	return nil, fmt.Errorf("there is no such actuator; there are %q", Actuators())
}

// Actuators are the names of all ways, best first.
func Actuators() []Actuator {
	var names []Actuator
	for _, b := range (*Server)(nil).batchSizers() {
		names = append(names, b.Name())
	}
	return names
}

type setMaxNumSeqs struct{ server *Server }

func (setMaxNumSeqs) Name() Actuator { return ActuatorSetMaxNumSeqs }
func (setMaxNumSeqs) Ramps() bool    { return true }
func (setMaxNumSeqs) ByLoad() bool   { return false }

func (b setMaxNumSeqs) evidence(ctx context.Context) (Evidence, error) {
	return b.server.evidenceOfPost(ctx, setMaxNumSeqsPath)
}

func (b setMaxNumSeqs) command(n int, rampUpRate float64) wireCommand {
	query := url.Values{"max_num_seqs": {strconv.Itoa(n)}}
	if rampUpRate != 0 {
		query.Set("ramp_up_rate", strconv.FormatFloat(rampUpRate, 'f', -1, 64))
	}
	return wireCommand{http.MethodPost, b.server.base + setMaxNumSeqsPath + "?" + query.Encode(), ""}
}

type runtimeConfig struct{ server *Server }

func (runtimeConfig) Name() Actuator { return ActuatorRuntimeConfig }
func (runtimeConfig) Ramps() bool    { return false }
func (runtimeConfig) ByLoad() bool   { return false }

func (b runtimeConfig) evidence(ctx context.Context) (Evidence, error) {
	return b.server.evidenceOfRuntimeConfig(ctx)
}

func (b runtimeConfig) command(n int, _ float64) wireCommand {
	return wireCommand{http.MethodPatch, b.server.base + runtimeConfigPath, fmt.Sprintf(`{"max_num_running_seqs": %d}`, n)}
}

type concurrency struct{}

func (concurrency) Name() Actuator                             { return ActuatorConcurrency }
func (concurrency) Ramps() bool                                { return false }
func (concurrency) ByLoad() bool                               { return true }
func (concurrency) evidence(context.Context) (Evidence, error) { return EvidencePresent, nil }
func (concurrency) command(int, float64) wireCommand           { return wireCommand{} }

// SetBatchSize has the server run at most n sequences at once. rampUpRate, in
// sequences per second, makes a higher batch size take effect little by little; 0
// is at once, and only an actuator that ramps knows others. n is at least 1.
//
// The command is exactly one request, never repeated: neither here nor by
// net/http nor along a redirect. Only one that the server refused because of its
// key is sent once more if there is a new key. With an actuator by load it is
// none: that it returns nil leaves the rest to the load generator. Every error is
// a [*CommandError].
func (s *Server) SetBatchSize(ctx context.Context, actuator Actuator, n int, rampUpRate float64) error {
	failed := &CommandError{Actuator: actuator, BatchSize: n, URL: s.base}
	b, why := s.checkCommand(actuator, n, rampUpRate)
	if why != "" {
		failed.Outcome, failed.Detail = OutcomeRefused, why
		return failed
	}
	if b.ByLoad() {
		return nil
	}
	c := b.command(n, rampUpRate)
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

// checkCommand returns the actuator, or why a command cannot be given.
func (s *Server) checkCommand(actuator Actuator, n int, rampUpRate float64) (b BatchSizer, why string) {
	switch b, err := s.BatchSizer(actuator); {
	case err != nil:
		return nil, err.Error()
	case n < 1:
		return nil, "want a batch size of at least 1"
	case !(rampUpRate >= 0) || math.IsInf(rampUpRate, 1):
		return nil, fmt.Sprintf("the ramp-up rate is %v per second; want a finite number from 0 on", rampUpRate)
	case rampUpRate != 0 && !b.Ramps():
		return nil, fmt.Sprintf("the ramp-up rate is %v per second, which %s cannot do; want 0, or the actuator %s",
			rampUpRate, actuator, ActuatorSetMaxNumSeqs)
	default:
		return b, ""
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
	failed.Status = resp.StatusCode
	failed.Detail = detail(resp)
	failed.Outcome = OutcomeRefused
	if !answersNo(resp.StatusCode) {
		failed.Outcome = OutcomeUnknown
	}
	return false
}

// answersNo reports whether a status other than 2xx means that the server did not
// do what it was told.
func answersNo(status int) bool { return status < 500 || status == http.StatusNotImplemented }
