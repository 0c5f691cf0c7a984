package api

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/g2g-agent/g2g-agent/api/problem"
)

// apiVersion is the version of the API, not of the program: it changes when what
// clients rely on does.
const apiVersion = "1.0.0"

const apiDescription = `Reads and commands the power of a datacenter that serves large language models.

All times are in seconds, all powers in watts. A missing number is null. Mistakes are answered with problem details
(RFC 9457) whose errors name the field at fault. A command is checked whole before anything is changed, and takes
effect at the next step.

Commands need the control token when one is configured; everything else needs a token, the read token or the control
token, only when a read token is configured. Without a token, the API is reachable from its own host only. In a browser, a
WebSocket takes the token from its subprotocols: g2g-agent.v1 and g2g-agent.bearer.TOKEN, the token in base64url without padding.

A command can be sent again safely, with the same Idempotency-Key, when its answer was lost.`

// The names of the security schemes.
const (
	controlScheme = "control"
	readScheme    = "read"
)

// needsControl and needsRead are the tokens that operations need. The empty
// alternative is for an agent without tokens.
func needsControl() []map[string][]string {
	return []map[string][]string{{controlScheme: {}}, {}}
}

func needsRead() []map[string][]string {
	return []map[string][]string{{readScheme: {}}, {controlScheme: {}}, {}}
}

func needsNothing() []map[string][]string { return []map[string][]string{{}} }

// The tags of operations.
const (
	tagRead    = "read"
	tagCommand = "command"
	tagWatch   = "operate"
)

// addOperations describes all operations and adds the routes of those that
// package huma serves.
func (s *Server) addOperations() {
	registry := huma.NewMapRegistry("#/components/schemas/", func(t reflect.Type, hint string) string {
		return strings.TrimSuffix(huma.DefaultSchemaNamer(t, hint), "Body")
	})
	addSchemas(registry)
	api := humago.New(&s.routes, huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "g2g-agent", Version: apiVersion, Description: apiDescription,
				License: &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
			},
			Servers: []*huma.Server{{URL: "/", Description: "This agent."}},
			Components: &huma.Components{
				Schemas: registry, Responses: sharedResponses(),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					controlScheme: {Type: "http", Scheme: "bearer", Description: "The control token (api.token_file): it may command and read."},
					readScheme:    {Type: "http", Scheme: "bearer", Description: "The read token (api.read_token_file): it may read."},
				},
			},
			Tags: []*huma.Tag{
				{Name: tagRead, Description: "What the datacenter draws and runs."},
				{Name: tagCommand, Description: "What it is to run."},
				{Name: tagWatch, Description: "The agent itself: health, metrics, description, page."},
			},
		},
		Formats: formats(), DefaultFormat: contentTypeJSON,
	})
	api.UseMiddleware(jsonOnly)
	s.openAPI = api.OpenAPI()
	s.addReads(api)
	s.addCommands(api)
	s.addHealth(api)
	s.describeOthers()
	// Package huma adds these for problems of its own, which look like ours.
	delete(registry.Map(), "ErrorModel")
	delete(registry.Map(), "ErrorDetail")
}

// jsonOnly hides what a client would rather have than JSON: there is nothing else.
func jsonOnly(ctx huma.Context, next func(huma.Context)) { next(withoutAccept{ctx}) }

type humaContext = huma.Context // embedded, it is not called like its method Context

type withoutAccept struct{ humaContext }

// Unwrap is for package humago.
func (c withoutAccept) Unwrap() huma.Context { return c.humaContext }

func (c withoutAccept) Header(name string) string {
	if http.CanonicalHeaderKey(name) == "Accept" {
		return ""
	}
	return c.humaContext.Header(name)
}

// documents serve the description of the API, as YAML and as JSON.
func (s *Server) documents() (asYAML, asJSON http.Handler, err error) {
	y, err := s.openAPI.YAML()
	if err != nil {
		return nil, nil, err
	}
	j, err := json.Marshal(s.openAPI)
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
	return serve("application/yaml", y), serve(contentTypeJSON, append(j, '\n')), nil
}

// reasonOf says when an operation is answered with a status.
func reasonOf(status int) string {
	switch status {
	case http.StatusBadRequest:
		return "The body is not one well-formed JSON object: malformed, a name twice, something after it, not UTF-8."
	case http.StatusUnauthorized:
		return "A token is needed, and there is none or a wrong one."
	case http.StatusForbidden:
		return "The token may read only, or a web page of another site asks."
	case http.StatusNotFound:
		return "There is no model of that label."
	case http.StatusRequestTimeout:
		return "The body did not arrive in time."
	case http.StatusConflict:
		return "It is not possible now: no capacity, the run has not begun or is over, or the first request with the same Idempotency-Key is under way."
	case http.StatusRequestEntityTooLarge:
		return "The body is too large."
	case http.StatusUnsupportedMediaType:
		return "The body is not sent as application/json."
	case http.StatusUpgradeRequired:
		return "It is a WebSocket, and the request does not ask for one."
	case http.StatusUnprocessableEntity:
		return "A value is missing, unknown, of the wrong type or out of range, or the Idempotency-Key was used for another body."
	case http.StatusTooManyRequests:
		return "The client asks too often. Retry-After says, in seconds, when it may again."
	case http.StatusInternalServerError:
		return "The agent failed. Its log says why."
	case http.StatusServiceUnavailable:
		return "The agent cannot answer now: it starts or it ends."
	}
	return http.StatusText(status)
}

// responses describes an operation's answers: one with status 200, unless its
// description is empty, and problems. Package huma completes what has no schema.
func responses(description string, schema *huma.Schema, example any, problems ...int) map[string]*huma.Response {
	all := map[string]*huma.Response{}
	if description != "" {
		all["200"] = &huma.Response{Description: description}
	}
	if schema != nil {
		all["200"].Content = map[string]*huma.MediaType{contentTypeJSON: {Schema: schema, Example: example}}
	}
	for _, status := range problems {
		all[strconv.Itoa(status)] = &huma.Response{Ref: "#/components/responses/" + responseName(status)}
	}
	return all
}

func responseName(status int) string { return strings.ReplaceAll(http.StatusText(status), " ", "") }

// sharedResponses are the problems that operations have in common.
func sharedResponses() map[string]*huma.Response {
	all := map[string]*huma.Response{}
	for _, status := range commandProblems(http.StatusNotFound, http.StatusUpgradeRequired) {
		r := problemResponse(reasonOf(status), "Problem")
		if status == http.StatusTooManyRequests {
			r.Headers = map[string]*huma.Param{"Retry-After": {Description: "Seconds until the client may ask again.", Schema: &huma.Schema{Type: huma.TypeInteger}}}
		}
		all[responseName(status)] = r
	}
	return all
}

// problemResponse describes an answer that is a problem.
func problemResponse(description, schema string) *huma.Response {
	return &huma.Response{Description: description, Content: map[string]*huma.MediaType{problem.ContentType: {Schema: ref(schema)}}}
}

// readProblems are the problems that any read can have, commandProblems those of
// any command.
func readProblems(more ...int) []int {
	return append(more, http.StatusUnauthorized, http.StatusForbidden, http.StatusUnprocessableEntity,
		http.StatusTooManyRequests, http.StatusInternalServerError)
}

func commandProblems(more ...int) []int {
	return readProblems(append(more, http.StatusBadRequest, http.StatusRequestTimeout, http.StatusConflict,
		http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusServiceUnavailable)...)
}

func ref(schema string) *huma.Schema { return &huma.Schema{Ref: "#/components/schemas/" + schema} }

// describeOthers describes what package huma does not serve.
func (s *Server) describeOthers() {
	upgraded := func(description string) *huma.Response { return &huma.Response{Description: description} }
	stream := responses("", nil, nil, http.StatusUnauthorized, http.StatusForbidden, http.StatusUpgradeRequired,
		http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable)
	stream["400"] = problemResponse("The WebSocket handshake is malformed.", "Problem")
	stream["101"] = upgraded("The WebSocket is open. Each message is a text: a JSON object as in #/components/schemas/StreamMessage.")
	s.openAPI.AddOperation(&huma.Operation{
		Method: http.MethodGet, Path: "/v1/stream", OperationID: "streamStates", Tags: []string{tagRead}, Security: needsRead(),
		Summary: "Follow the states (WebSocket)",
		Description: "A WebSocket (RFC 6455), subprotocol g2g-agent.v1 if one is asked for. The latest state comes at once, then each new one as a message of its own: a State. " +
			"A client that reads too slowly misses states, and is told how many by a message {\"skipped\": N} before the next. It never delays a step. What a client sends is ignored.",
		Responses: stream,
	})
	text := func(contentType, description string) map[string]*huma.Response {
		all := responses("", nil, nil, http.StatusForbidden, http.StatusTooManyRequests, http.StatusInternalServerError)
		all["200"] = &huma.Response{Description: description, Content: map[string]*huma.MediaType{contentType: {Schema: &huma.Schema{Type: huma.TypeString}}}}
		return all
	}
	metrics := text("text/plain", "The metrics in Prometheus' text format, or in another one that the Accept header asks for.")
	metrics["401"] = responses("", nil, nil, http.StatusUnauthorized)["401"]
	metrics["503"] = &huma.Response{
		Description: "Too many scrapes at once.", Content: map[string]*huma.MediaType{"text/plain": {Schema: &huma.Schema{Type: huma.TypeString}}},
	}
	for _, op := range []*huma.Operation{
		{
			Path: "/metrics", OperationID: "getMetrics", Summary: "Metrics for Prometheus", Security: needsRead(), Responses: metrics,
			Description: "Power in watts, latencies and times in seconds; all names begin with g2g_.",
		},
		{
			Path: "/openapi.yaml", OperationID: "getDescription", Summary: "This description", Security: needsNothing(),
			Responses: text("application/yaml", "This description, as YAML."),
		},
		{
			Path: "/openapi.json", OperationID: "getDescriptionJSON", Summary: "This description as JSON", Security: needsNothing(),
			Responses: responses("This description.", &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}, nil,
				http.StatusForbidden, http.StatusTooManyRequests, http.StatusInternalServerError),
		},
		{
			Path: "/", OperationID: "getPage", Summary: "The live page", Security: needsNothing(),
			Description: "For a browser: powers, latencies, batch sizes and events as they come, and the commands.",
			Responses:   text("text/html", "The page."),
		},
	} {
		op.Method, op.Tags = http.MethodGet, []string{tagWatch}
		s.openAPI.AddOperation(op)
	}
}
