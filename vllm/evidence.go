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
	"slices"
	"strings"
)

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
	for _, b := range s.batchSizers() {
		if slices.Contains(except, b.Name()) {
			continue
		}
		evidence, err := s.EvidenceOf(ctx, b.Name())
		if err != nil {
			return "", err
		}
		if evidence == EvidencePresent {
			return b.Name(), nil
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
func (s *Server) EvidenceOf(ctx context.Context, actuator Actuator) (Evidence, error) {
	b, err := s.BatchSizer(actuator)
	if err != nil {
		return "", err
	}
	evidence, err := b.evidence(ctx)
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
	r, maxNumRunningSeqs, err := s.askRuntimeConfig(ctx)
	switch {
	case err != nil:
		return s.evidenceOfRefusal(ctx, runtimeConfigPath, err)
	case maxNumRunningSeqs != nil:
		return EvidencePresent, nil
	default:
		return r.evidence(), nil
	}
}

// askRuntimeConfig asks for max_num_running_seqs; nil is an answer without it.
func (s *Server) askRuntimeConfig(ctx context.Context) (r route, maxNumRunningSeqs *float64, err error) {
	var raw []byte
	r, err = s.route(ctx, runtimeConfigPath, func(body io.Reader) (err error) {
		raw, err = readAnswer(body)
		return err
	})
	if err != nil {
		return r, nil, err
	}
	var config struct {
		MaxNumRunningSeqs *float64 `json:"max_num_running_seqs"`
	}
	// A page of something else, as some gateways have for every path, is none.
	if r.redirected || json.Unmarshal(raw, &config) != nil {
		return r, nil, nil
	}
	return r, config.MaxNumRunningSeqs, nil
}

// BatchSize returns what the server's batch size is set to, as far as the actuator can
// tell: runtime_config has a GET beside it, set_max_num_seqs has none, and of concurrency
// the server knows nothing. 0 is not known.
func (s *Server) BatchSize(ctx context.Context, actuator Actuator) (int, error) {
	if actuator != ActuatorRuntimeConfig {
		return 0, nil
	}
	_, n, err := s.askRuntimeConfig(ctx)
	switch {
	case err != nil:
		return 0, fmt.Errorf("cannot tell the batch size: %w", err)
	case n == nil || *n != math.Trunc(*n) || *n < 1 || *n > math.MaxInt32:
		return 0, nil
	default:
		return int(*n), nil
	}
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
