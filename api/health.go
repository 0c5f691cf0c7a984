package api

import (
	"context"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// healthBody says whether all is well.
type healthBody struct {
	Status  string   `json:"status" enum:"ok,failing" doc:"Whether all is well."`
	Reasons []string `json:"reasons" nullable:"false" doc:"What is wrong; empty if all is well."`
}

// addHealth adds the checks that supervisors make.
func (s *Server) addHealth(api huma.API) {
	alive := func() []string {
		status := s.cfg.Site.Status()
		if reason := status.Stalled(time.Now()); reason != "" {
			return []string{reason}
		}
		return nil
	}
	ready := func() []string {
		status := s.cfg.Site.Status()
		return status.Unready(time.Now())
	}
	for _, check := range []struct {
		path, id, summary, description string
		reasons                        func() []string
	}{
		{"/livez", "getLiveness", "Is the agent alive?", "ok unless the run should compute steps and does not. A supervisor restarts an agent that is not alive.", alive},
		{"/healthz", "getHealth", "Is the agent alive? (alias of /livez)", "The same as /livez.", alive},
		{"/readyz", "getReadiness", "Can its states be relied on?", "ok if the run has begun, computes its steps in time, the power of every model is fresh, and no vLLM server that answers has made no token for 10 s with requests in flight.", ready},
	} {
		type nothing struct{}
		type output struct {
			Status int
			Body   healthBody
		}
		schema := api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[healthBody](), true, "")
		answers := responses("All is well.", schema, map[string]any{"status": "ok", "reasons": []string{}}, http.StatusForbidden, http.StatusTooManyRequests, http.StatusInternalServerError)
		answers["503"] = &huma.Response{Description: "Something is wrong.", Content: map[string]*huma.MediaType{contentTypeJSON: {Schema: schema}}}
		huma.Register(api, huma.Operation{
			Method: http.MethodGet, Path: check.path, OperationID: check.id, Tags: []string{tagWatch}, Security: needsNothing(),
			Summary: check.summary, Description: check.description, Responses: answers,
		}, func(context.Context, *nothing) (*output, error) {
			if reasons := check.reasons(); len(reasons) > 0 {
				return &output{http.StatusServiceUnavailable, healthBody{"failing", reasons}}, nil
			}
			return &output{http.StatusOK, healthBody{"ok", []string{}}}, nil
		})
	}
}
