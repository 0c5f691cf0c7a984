package api

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/g2g-agent/g2g-agent/config"
)

// description is the API's description; where it names what is configured it has
// the defaults.
//
//go:embed openapi.yaml
var description string

// documents serve the description of the API, as YAML and as JSON.
func (s *Server) documents() (asYAML, asJSON http.Handler, err error) {
	const most, usual = "maximum: %d # as configured", "default: %d # at most as many as are kept"
	text := strings.NewReplacer(
		fmt.Sprintf(most, config.Default().API.HistoryStates), fmt.Sprintf(most, s.cfg.Settings.HistoryStates),
		fmt.Sprintf(usual, defaultHistory), fmt.Sprintf(usual, s.usualHistory()),
	).Replace(description)
	var document any
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		return nil, nil, err
	}
	j, err := json.Marshal(document)
	if err != nil {
		return nil, nil, err
	}
	serve := func(contentType string, document []byte) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Cache-Control", "no-cache")
			_, _ = w.Write(document) // a client that is gone cannot be told
		})
	}
	return serve("application/yaml", []byte(text)), serve(contentTypeJSON, append(j, '\n')), nil
}
