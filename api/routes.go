package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/g2g-agent/g2g-agent/api/page"
	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// otherRoute stands in metrics for every path that there is none of.
const otherRoute = "other"

// routes is the table of paths.
type routes struct {
	mux     *http.ServeMux
	methods map[string][]string // by path
}

// handle adds a path and method.
func (s *Server) handle(method, path string, h http.Handler) {
	s.routes.methods[path] = append(s.routes.methods[path], method)
	s.routes.mux.Handle(method+" "+path, s.protect(h))
}

// addRoutes fills the table. The error is a mistake in the program.
func (s *Server) addRoutes() error {
	s.routes = routes{mux: http.NewServeMux(), methods: map[string][]string{}}
	get := func(path string, h http.Handler) { s.handle(http.MethodGet, path, h) }
	get("/v1/state", s.state())
	get("/v1/history", s.history())
	get("/v1/stream", s.stream())
	get("/v1/events", s.events())
	get("/v1/models", reading(s.models))
	get("/v1/info", reading(s.info))
	get("/v1/recording", s.recorded(s.recordedRuns))
	get("/v1/recording/states", s.recorded(s.recordedStates, "from_ms", "to_ms", "run", "points"))
	get("/v1/recording/lines", s.recorded(s.recordedLines, "from_ms", "to_ms", "run", "kind"))
	get("/v1/recording/segment", s.recorded(s.recordedSegment, "from_ms", "to_ms", "run"))
	for name, carryOut := range map[string]func(context.Context, []byte) (any, refusal){
		datacenter.SetBatchSize{}.Name(): s.setBatchSizes, datacenter.ShiftReplicas{}.Name(): s.shiftReplicas,
		datacenter.Restore{}.Name(): s.restore, resetCommand: s.reset,
	} {
		// Protected within, too: that it made the agent fail is logged and remembered as
		// the command's answer.
		s.handle(http.MethodPost, "/v1/"+name, s.command(name, s.protect(commanding(carryOut))))
	}
	s.handle(http.MethodPost, "/v1/"+stepsCommand, s.command(stepsCommand, s.protect(http.HandlerFunc(s.steps))))
	get("/v1/lockstep", goodQuery(http.HandlerFunc(s.lockstep)))
	get("/livez", s.health(alive))
	get("/healthz", s.health(alive))
	get("/readyz", s.health(ready))
	get("/metrics", s.metrics.Handler())
	live := page.Handler()
	get("/{$}", live)
	get("/assets/", live)
	asYAML, asJSON, err := s.documents()
	if err != nil {
		return fmt.Errorf("describe the API: %w", err)
	}
	get("/openapi.yaml", asYAML)
	get("/openapi.json", asJSON)
	for path, methods := range s.routes.methods {
		s.routes.mux.Handle(path, notAllowed(path, methods))
	}
	s.routes.mux.Handle("/", s.notFound())
	return nil
}

// protect answers with status 500 when a handler panics, and logs why.
func (s *Server) protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := &response{ResponseWriter: w}
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			if err, ok := cause.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
				failed := s.failed(r.Method, r.URL.Path, cause)
				if answer.status == 0 {
					failed.Write(answer)
					return
				}
			}
			// The connection is cut off, so that half an answer does not look like a whole one.
			panic(http.ErrAbortHandler) //nolint:forbidigo // net/http's way to do so
		}()
		next.ServeHTTP(answer, r)
	})
}

// failed logs what a panic was about, and returns the answer to whoever caused it.
func (s *Server) failed(method, path string, cause any) *problem.Problem {
	s.cfg.Log.Error().Str("method", method).Str("path", problem.Shorten(path)).Interface("cause", cause).
		Bytes("stack", debug.Stack()).Msg("API: a request made the agent fail; this is a bug")
	return problem.New(http.StatusInternalServerError, "the agent failed at this request; its log says why")
}

// observe counts requests and knows which are under way.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.RLock()
		defer s.requests.RUnlock()
		start := time.Now()
		route := s.routeOf(r)
		answer := &response{ResponseWriter: w, timed: true}
		defer func() {
			if answer.status == 0 { // nothing was answered
				answer.status = http.StatusInternalServerError
			}
			took := time.Since(start) - answer.waited
			if answer.status == http.StatusSwitchingProtocols {
				took = 0 // how long a stream lasts is not how long an answer takes
			}
			s.metrics.ObserveRequest(route, methodOf(r), answer.status, took)
		}()
		next.ServeHTTP(answer, r)
	})
}

// routeOf is the pattern of the path that a request asks for; there are few of
// them, whatever clients ask for.
func (s *Server) routeOf(r *http.Request) string {
	_, pattern := s.routes.mux.Handler(r)
	if _, path, ok := strings.Cut(pattern, " "); ok {
		pattern = path
	}
	switch pattern {
	case "", "/":
		return otherRoute
	case "/{$}":
		return "/"
	}
	return pattern
}

// methodOf is a request's method, OTHER for one that nobody uses.
func methodOf(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return r.Method
	}
	return "OTHER"
}

// notAllowed answers methods that a path does not have.
func notAllowed(path string, methods []string) http.Handler {
	if slices.Contains(methods, http.MethodGet) {
		methods = append(slices.Clone(methods), http.MethodHead)
	}
	allow := strings.Join(append(slices.Clone(methods), http.MethodOptions), ", ")
	path = strings.TrimSuffix(path, "{$}")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", allow)
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		problem.New(http.StatusMethodNotAllowed, "%s does not take %s, but %s", path, problem.Shorten(r.Method), allow).Write(w)
	})
}

// notFound answers paths that there are none of.
func (s *Server) notFound() http.Handler {
	paths := slices.Sorted(maps.Keys(s.routes.methods))
	for i := range paths {
		paths[i] = strings.TrimSuffix(paths[i], "{$}")
	}
	known := strings.Join(paths, ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		problem.New(http.StatusNotFound, "there is no %s here; there are %s", problem.Shorten(r.URL.Path), known).Write(w)
	})
}

// running is a context for work that must be finished even if the client goes
// away, until the server ends.
func (s *Server) running(ctx context.Context) (context.Context, context.CancelFunc) {
	detached, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(s.ending, cancel)
	return detached, func() { stop(); cancel() }
}
