package sim

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxCap bounds the batch size cap that a command may set, and maxOutputTokens
// the length of an answer.
const (
	maxCap          = 1 << 16
	maxOutputTokens = 1 << 20
)

// uvicornHeaders are those of vLLM's web server.
func uvicornHeaders(status int, contentType string, length int, more []string) []string {
	lines := append([]string{dateLine(), "server: uvicorn"}, more...)
	lines = append(lines, fmt.Sprintf("content-length: %d", length))
	if contentType != "" {
		lines = append(lines, "content-type: "+contentType)
	}
	if status != http.StatusUnauthorized { // who asks for the key answers before this is added
		lines = append(lines, "vary: Origin")
	}
	return lines
}

func (v *VLLM) serve(ctx context.Context, c *conn, req *http.Request) {
	if serveAdmin(c, req, admin{
		life:   &v.life,
		faults: func() any { return v.Faults() },
		setFaults: func(body []byte) error {
			f, err := decodeStrict[VLLMFaults](body)
			if err == nil {
				v.SetFaults(f)
			}
			return err
		},
		truth: func() any { return v.Truth() },
	}) {
		return
	}
	faults, ok := v.awaitAnswer(ctx)
	if !ok {
		return
	}
	if faults.Status != 0 {
		c.answerVLLMError(faults.Status, "InternalServerError", "simulated fault")
		return
	}
	if v.cfg.APIKey != "" && strings.HasPrefix(req.URL.Path, "/v1") {
		key, _ := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
		if subtle.ConstantTimeCompare([]byte(key), []byte(v.cfg.APIKey)) != 1 {
			c.answerJSON(http.StatusUnauthorized, map[string]string{"error": "Unauthorized"})
			return
		}
	}
	v.mu.Lock()
	e := v.engine
	v.mu.Unlock()
	c.route(req, v.routes(c, e, req, faults))
}

// routes are what the server has, by method and path.
func (v *VLLM) routes(c *conn, e *engine, req *http.Request, faults VLLMFaults) map[string]func() {
	routes := map[string]func(){
		"GET /health":               func() { c.answer(http.StatusOK, "", nil) },
		"GET /version":              func() { c.answerJSON(http.StatusOK, map[string]string{"version": "0.32.0+sim"}) },
		"GET /v1/models":            func() { c.answerJSON(http.StatusOK, v.models()) },
		"GET /metrics":              func() { v.serveMetrics(c, e, faults) },
		"POST /v1/chat/completions": func() { v.serveChat(c, e, req) },
	}
	switch v.cfg.Actuator {
	case SetMaxNumSeqs:
		routes["POST /set_max_num_seqs"] = func() { v.serveSetMaxNumSeqs(c, e, req) }
	case RuntimeConfig:
		routes["GET /v1/runtime_config"] = func() { v.answerRuntimeConfig(c, e) }
		routes["PATCH /v1/runtime_config"] = func() { v.servePatchConfig(c, e, req) }
	}
	return routes
}

// route answers as the route says, or that there is none.
func (c *conn) route(req *http.Request, routes map[string]func()) {
	method, path := req.Method, req.URL.Path
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if route, ok := routes[method+" "+path]; ok {
		route()
		return
	}
	var allowed []string
	for _, m := range []string{"GET", "POST", "PATCH"} {
		if _, ok := routes[m+" "+path]; ok {
			allowed = append(allowed, m)
		}
	}
	if len(allowed) > 0 {
		c.answerJSON(http.StatusMethodNotAllowed, map[string]string{"detail": "Method Not Allowed"},
			"allow: "+strings.Join(allowed, ", "))
		return
	}
	c.answerJSON(http.StatusNotFound, map[string]string{"detail": "Not Found"})
}

// answerVLLMError answers in the form of the OpenAI API. The parameter is that
// which is wrong, if it is one.
func (c *conn) answerVLLMError(status int, kind, message string, parameter ...string) {
	type detail struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    int     `json:"code"`
	}
	d := detail{Message: message, Type: kind, Code: status}
	if len(parameter) > 0 {
		d.Param = &parameter[0]
	}
	c.answerJSON(status, map[string]detail{"error": d})
}

func (v *VLLM) models() any {
	type permission struct {
		ID                 string  `json:"id"`
		Object             string  `json:"object"`
		Created            int64   `json:"created"`
		AllowCreateEngine  bool    `json:"allow_create_engine"`
		AllowSampling      bool    `json:"allow_sampling"`
		AllowLogprobs      bool    `json:"allow_logprobs"`
		AllowSearchIndices bool    `json:"allow_search_indices"`
		AllowView          bool    `json:"allow_view"`
		AllowFineTuning    bool    `json:"allow_fine_tuning"`
		Organization       string  `json:"organization"`
		Group              *string `json:"group"`
		IsBlocking         bool    `json:"is_blocking"`
	}
	type model struct {
		ID          string       `json:"id"`
		Object      string       `json:"object"`
		Created     int64        `json:"created"`
		OwnedBy     string       `json:"owned_by"`
		Root        string       `json:"root"`
		Parent      *string      `json:"parent"`
		MaxModelLen int          `json:"max_model_len"`
		Permission  []permission `json:"permission"`
	}
	type list struct {
		Object string  `json:"object"`
		Data   []model `json:"data"`
	}
	now := time.Now().Unix()
	return list{"list", []model{{
		ID: v.cfg.ModelID, Object: "model", Created: now, OwnedBy: "vllm", Root: v.cfg.ModelID, MaxModelLen: 131072,
		Permission: []permission{{
			ID: fmt.Sprintf("modelperm-%016x", rand.Uint64()), Object: "model_permission", Created: now,
			AllowSampling: true, AllowLogprobs: true, AllowView: true, Organization: "*",
		}},
	}}}
}

// chatRequest is what matters here of a request.
type chatRequest struct {
	Model         string            `json:"model"`
	Messages      []json.RawMessage `json:"messages"`
	Stream        bool              `json:"stream"`
	StreamOptions *struct {
		IncludeUsage         bool `json:"include_usage"`
		ContinuousUsageStats bool `json:"continuous_usage_stats"`
	} `json:"stream_options"`
	MaxTokens           *int `json:"max_tokens"`
	MaxCompletionTokens *int `json:"max_completion_tokens"`
	IgnoreEOS           bool `json:"ignore_eos"`
}

// readChat reads a request and how many tokens it asks for at most. It is not ok if
// that was answered with an error.
func (v *VLLM) readChat(c *conn, req *http.Request) (r chatRequest, tokens int, ok bool) {
	body, ok := c.readBody(req)
	if !ok {
		return r, 0, false
	}
	if err := json.Unmarshal(body, &r); err != nil {
		c.answerVLLMError(http.StatusBadRequest, "BadRequestError", "request: "+err.Error())
		return r, 0, false
	}
	tokens = v.cfg.OutputTokens
	if r.MaxTokens != nil {
		tokens = *r.MaxTokens
	}
	if r.MaxCompletionTokens != nil {
		tokens = *r.MaxCompletionTokens
	}
	switch {
	case len(r.Messages) == 0:
		c.answerVLLMError(http.StatusBadRequest, "BadRequestError", "messages: at least one is required")
	case r.Model != "" && r.Model != v.cfg.ModelID:
		c.answerVLLMError(http.StatusNotFound, "NotFoundError", fmt.Sprintf("The model `%s` does not exist. Valid aliases: %s.",
			r.Model, v.cfg.ModelID), "model")
	case tokens < 1 || tokens > maxOutputTokens:
		c.answerVLLMError(http.StatusBadRequest, "BadRequestError",
			fmt.Sprintf("max_completion_tokens must be 1 to %d, got %d", maxOutputTokens, tokens), "max_completion_tokens")
	case r.StreamOptions != nil && !r.Stream:
		c.answerVLLMError(http.StatusBadRequest, "BadRequestError", "Stream options can only be defined when `stream=True`.")
	default:
		return r, tokens, true
	}
	return r, 0, false
}

// newSequence is the sequence of a request for tokens at most.
func (v *VLLM) newSequence(c *conn, r *chatRequest, tokens int, arrivedNS int64) *sequence {
	s := &sequence{
		conn: c, sink: newSink(c), done: make(chan struct{}),
		created: time.Now().Unix(), stream: r.Stream, maxTokens: tokens, arrivedNS: arrivedNS,
		promptTokens: 8,
	}
	for _, m := range r.Messages {
		s.promptTokens += len(m) / 4 // about four bytes a token
	}
	if r.StreamOptions != nil {
		s.usage = r.StreamOptions.IncludeUsage
		s.usageChunks = s.usage && r.StreamOptions.ContinuousUsageStats && !v.cfg.IgnoreContinuousUsage
	}
	v.mu.Lock()
	s.index = uint64(v.started)
	v.started++
	v.total.started++
	v.mu.Unlock()
	id := rand.NewPCG(v.cfg.Seed, ^s.index)
	s.id = fmt.Sprintf("chatcmpl-%016x", id.Uint64())
	if v.cfg.EarlyStop && !r.IgnoreEOS {
		s.maxTokens = 1 + rand.New(id).IntN(tokens)
		s.stops = s.maxTokens < tokens
	}
	return s
}

func (v *VLLM) serveChat(c *conn, e *engine, req *http.Request) {
	arrivedNS := v.nowNS()
	r, tokens, ok := v.readChat(c, req)
	if !ok {
		return
	}
	s := v.newSequence(c, &r, tokens, arrivedNS)
	if s.stream {
		if err := c.startCompletion(); err != nil {
			c.last = true
			v.countOne(&v.total.aborted)
			return
		}
	}
	if !e.submit(s) {
		c.last = true
		v.countOne(&v.total.failed)
		return
	}
	// The engine writes now. This goroutine only notices when the client goes, or
	// sends its next request.
	if !c.waitReadable() {
		s.canceled.Store(true)
		e.poke()
	}
	<-s.done
}

// invalid answers as FastAPI does for a parameter that it refuses.
func (c *conn) invalid(where, name, message, input string) {
	type detail struct {
		Type  string   `json:"type"`
		Loc   []string `json:"loc"`
		Msg   string   `json:"msg"`
		Input string   `json:"input"`
	}
	c.answerJSON(http.StatusUnprocessableEntity, map[string][]detail{
		"detail": {{Type: "value_error", Loc: []string{where, name}, Msg: message, Input: input}},
	})
}

func (v *VLLM) serveSetMaxNumSeqs(c *conn, e *engine, req *http.Request) {
	query := req.URL.Query()
	word := query.Get("max_num_seqs")
	n, err := strconv.Atoi(word)
	if err != nil || n < 1 || n > maxCap {
		c.invalid("query", "max_num_seqs", fmt.Sprintf("Input should be an integer from 1 to %d", maxCap), word)
		return
	}
	var rate float64
	if query.Has("ramp_up_rate") {
		word := query.Get("ramp_up_rate")
		if rate, err = strconv.ParseFloat(word, 64); err != nil || !(rate >= 0 && rate <= 1e9) {
			c.invalid("query", "ramp_up_rate", "Input should be a number of 0 or more", word)
			return
		}
	}
	v.command(e, n, rate)
	c.answerJSON(http.StatusOK, map[string]any{"status": "success", "max_num_seqs": n})
}

func (v *VLLM) answerRuntimeConfig(c *conn, e *engine) {
	commanded, _ := e.caps()
	c.answerJSON(http.StatusOK, map[string]int{"max_num_running_seqs": commanded, "max_num_seqs": v.cfg.MaxNumSeqs})
}

func (v *VLLM) servePatchConfig(c *conn, e *engine, req *http.Request) {
	body, ok := c.readBody(req)
	if !ok {
		return
	}
	type patch struct {
		MaxNumRunningSeqs *int `json:"max_num_running_seqs"`
	}
	p, err := decodeStrict[patch](body)
	if err != nil {
		c.invalid("body", "", err.Error(), "")
		return
	}
	if p.MaxNumRunningSeqs == nil || *p.MaxNumRunningSeqs < 1 || *p.MaxNumRunningSeqs > v.cfg.MaxNumSeqs {
		c.invalid("body", "max_num_running_seqs",
			fmt.Sprintf("Input should be an integer from 1 to %d", v.cfg.MaxNumSeqs), string(body[:min(len(body), 100)]))
		return
	}
	v.command(e, *p.MaxNumRunningSeqs, 0)
	v.answerRuntimeConfig(c, e)
}

// appendJSONString appends s as a JSON string.
func appendJSONString(b []byte, s string) []byte {
	quoted, err := json.Marshal(s)
	if err != nil {
		return append(b, `""`...) // strings always have a form
	}
	return append(b, quoted...)
}
