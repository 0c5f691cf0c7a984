package api

import (
	"net/http"
	"time"

	"github.com/g2g-agent/g2g-agent/agent"
)

// healthBody says whether all is well.
type healthBody struct {
	Status  string   `json:"status"`
	Reasons []string `json:"reasons"`
}

// health serves a check that supervisors make; reasons are what is wrong.
func (s *Server) health(reasons func(*agent.Status) []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		status := s.cfg.Site.Status()
		if reasons := reasons(&status); len(reasons) > 0 {
			writeJSON(w, http.StatusServiceUnavailable, healthBody{"failing", reasons})
			return
		}
		writeJSON(w, http.StatusOK, healthBody{"ok", []string{}})
	})
}

// alive is what keeps the run from computing the steps that it should.
func alive(status *agent.Status) []string {
	if reason := status.Stalled(time.Now()); reason != "" {
		return []string{reason}
	}
	return nil
}

// ready is what keeps states from being relied on.
func ready(status *agent.Status) []string { return status.Unready(time.Now()) }
