package completion

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// readings are what is made of events.
type reading struct {
	Chunk Chunk
	Err   string // the kind of failure, and its detail
}

func read(data string) reading {
	var e chatEvent
	err := e.parse([]byte(data))
	return reading{e.chunk, failureText(err)}
}

func failureText(err error) string {
	var failure *Error
	if !errors.As(err, &failure) {
		return ""
	}
	return failure.Kind.String() + ": " + failure.Detail
}

// Whole numbers are what they are, however JSON writes them. Anything else is no
// number of tokens, and fails nothing.
func TestUsageAsJSONHasIt(t *testing.T) {
	const most = 9_999_999
	for value, want := range map[string]int{
		"5": 5, "5.0": 5, "5.000": 5, "5e0": 5, "5E+0": 5, "1.2E1": 12, "0.5e1": 5, "50e-1": 5, "500e-2": 5, "0.05e2": 5, "12e3": 12000, "1.25e2": 125,
		"0": 0, "0.0": 0, "-0": 0, "-0.0e9": 0, "0e999999999999": 0, "0e-5": 0, "9999999": most, "99999990e-1": most, "9.999999e6": most, " 5 ": 5, "\t5\r\n": 5,
		"5.5": -1, "5e-1": -1, "1e-400": -1, "5.0000000000000000001": -1, "-5": -1, "-1e-1": -1, "10000000": -1, "1e7": -1, "1e99": -1, "1e999999999999999": -1,
		"123456789012345678901234567890": -1, `"5"`: -1, `"many"`: -1, "null": -1, "true": -1, "[]": -1, "[5]": -1, "{}": -1, `{"n":5}`: -1,
	} {
		event := `{"choices":[{"delta":{"content":"x"},"finish_reason":null}],"usage":{"prompt_tokens":9,"completion_tokens":` + value + `}}`
		got := read(event)
		if got.Chunk.Tokens != want || got.Err != "" || !got.Chunk.Content {
			t.Errorf("%s tokens are read as %+v, want %d", value, got, want)
		}
		if odd := got.Chunk.OddUsage; (odd != "") != (want < 0 && value != "null") {
			t.Errorf("%s tokens are said to be odd: %q", value, odd)
		}
	}
	long := read(`{"choices":[],"usage":{"completion_tokens":"` + strings.Repeat("x", 1000) + `"}}`)
	if want := `"` + strings.Repeat("x", maxOddUsage-1) + "…"; long.Chunk.OddUsage != want {
		t.Errorf("an odd usage is cited as %q, want %q", long.Chunk.OddUsage, want)
	}
}

// Only the event's own usage counts.
func TestUsageIsThatOfTheEvent(t *testing.T) {
	const choice = `"choices":[{"delta":{"content":"x"},"finish_reason":null}]`
	for _, test := range []struct {
		event string
		want  Chunk
	}{
		{`{` + choice + `,"usage":{"completion_tokens":5},"x_groq":{"usage":{"completion_tokens":1000}}}`, Chunk{Tokens: 5, Content: true}},
		{`{"x_groq":{"usage":{"completion_tokens":1000}},` + choice + `,"usage":{"completion_tokens":5}}`, Chunk{Tokens: 5, Content: true}},
		{`{` + choice + `,"usage":null,"x_groq":{"usage":{"completion_tokens":1000}}}`, Chunk{Tokens: -1, Content: true}},
		{`{` + choice + `,"usage":{"completion_tokens_details":{"completion_tokens":7},"completion_tokens":5,"extra":{"completion_tokens":9}}}`, Chunk{Tokens: 5, Content: true}},
		{`{` + choice + `,"usage":{"details":[{"completion_tokens":9}]}}`, Chunk{Tokens: -1, Content: true}},
		{`{` + choice + `,"completion_tokens":9}`, Chunk{Tokens: -1, Content: true}},
		{`{"choices":[{"delta":{"content":"\"usage\":{\"completion_tokens\":9}"},"usage":{"completion_tokens":8}}]}`, Chunk{Tokens: -1, Content: true}},
		{`{` + choice + `,"usage":{"completion_tokens":4},"usage":{"completion_tokens":5}}`, Chunk{Tokens: 5, Content: true}},
		{`{` + choice + `,"us\u0061ge":{"completion_token\u0073":5}}`, Chunk{Tokens: 5, Content: true}},
		{`{` + choice + `,"Usage":{"completion_tokens":5}}`, Chunk{Tokens: -1, Content: true}},
		{`{` + choice + `,"usage":"none"}`, Chunk{Tokens: -1, Content: true, OddUsage: `"none"`}},
		{`{` + choice + `,"usage":{}}`, Chunk{Tokens: -1, Content: true}},
		{` { "choices" : [ { "delta" : { "content" : "x" } , "finish_reason" : null } ] , "usage" : { "completion_tokens" : 5 , "a" : [ ] } } `, Chunk{Tokens: 5, Content: true}},
		{`{"usage":{"completion_tokens":5}}`, Chunk{Tokens: 5, Last: true}},
		{`{"choices":null,"usage":{"completion_tokens":5}}`, Chunk{Tokens: 5, Last: true}},
		{`{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"completion_tokens":5}}`, Chunk{Tokens: 5, Last: true}},
		{`{"choices":[{"text":"x","finish_reason":null}]}`, Chunk{Tokens: -1, Content: true}},
		{`{"choices":[{"delta":{"content":"","reasoning":"y"}}]}`, Chunk{Tokens: -1, Content: true}},
		{`{"choices":[{"delta":{"content":null,"tool_calls":[ ]}}]}`, Chunk{Tokens: -1}},
		{`{"choices":[{"delta":null},{"delta":{"content":"x"}}]}`, Chunk{Tokens: -1, Content: true}},
		{`{"choices":[{"delta":"x"}]}`, Chunk{Tokens: -1}},
		{`{}`, Chunk{Tokens: -1}},
	} {
		if got := read(test.event); got.Chunk != test.want || got.Err != "" {
			t.Errorf("%s\nis read as %+v, want %+v", test.event, got, test.want)
		}
	}
}

// What is not complete must not count as complete, and the other way round.
// It is long because it is one table.
func TestEventsThatTellOfFailures(t *testing.T) {
	// The last event of a vLLM with everything on that it may have.
	const usageOnly = `{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795564952,"model":"error","choices":[],"system_fingerprint":"vllm-0.32.0-aborted",` +
		`"service_tier":"failed","prompt_logprobs":null,"prompt_token_ids":[1],"kv_transfer_params":{"error":{"code":500}},"metrics":{"time_to_first_token":0.1},` +
		`"usage":{"prompt_tokens":9,"total_tokens":12,"completion_tokens":3}}`
	beside := func(member string) string { return strings.Replace(usageOnly, "{", "{"+member+",", 1) }
	finish := func(reason string) string {
		return `{"choices":[{"index":0,"delta":{"content":" x"},"finish_reason":` + reason + `}],"usage":{"completion_tokens":3}}`
	}
	failures := map[string]string{
		finish(`"abort"`):             `aborted: the server ended the answer with the finish reason "abort"`,
		finish(`"ABORT"`):             `aborted: the server ended the answer with the finish reason "ABORT"`,
		finish(`"\u0061bort"`):        `aborted: the server ended the answer with the finish reason "abort"`,
		finish(`"engine_error"`):      `aborted: the server ended the answer with the finish reason "engine_error"`,
		finish(`"EngineDeadError"`):   `aborted: the server ended the answer with the finish reason "EngineDeadError"`,
		finish(`"request-timed-out"`): `aborted: the server ended the answer with the finish reason "request-timed-out"`,
		finish(`{"type":"abort","message":"out of memory\nagain"}`):                                 `aborted: the server ended the answer with the finish reason "abort": out of memory again`,
		finish(`{"message":null,"type":"Error"}`):                                                   `aborted: the server ended the answer with the finish reason "Error"`,
		`{"choices":[{"finish_reason":null},{"finish_reason":"cancelled"}]}`:                        `aborted: the server ended the answer with the finish reason "cancelled"`,
		`{"choices":[{"finish_reason":"stop"},{"finish_reason":"error"}]}`:                          `aborted: the server ended the answer with the finish reason "error"`,
		`{"error":{"message":"no memory","type":"x","param":null,"code":500}}`:                      `error_event: no memory`,
		`{"error": "no\u0020memory"}`:                                                               `error_event: no memory`,
		`{"error":{"code":500}}`:                                                                    `error_event: {"code":500}`,
		`{"error":true,"message":"no memory"}`:                                                      `error_event: no memory`,
		`{"error":["no memory"]}`:                                                                   `error_event: ["no memory"]`,
		`{"error":{"error":{"detail":"deep"}}}`:                                                     `error_event: deep`,
		`{"err\u006fr":"escaped"}`:                                                                  `error_event: escaped`,
		`{"choices":[],"error":{"message":"no memory"},"usage":{"completion_tokens":9}}`:            `error_event: no memory`,
		`{"choices":[{"delta":{"content":""},"error":{"message":"lost"},"finish_reason":"error"}]}`: `error_event: lost`,
		`{"choices":[{"delta":{"error":"lost"}}]}`:                                                  `error_event: lost`,
		`{"object":"error","message":"too long","type":"BadRequestError","code":400}`:               `error_event: too long`,
		`{"type":"error","error":{"type":"overloaded_error","message":"busy"}}`:                     `error_event: busy`,
		`{"type":"Error","message":"busy"}`:                                                         `error_event: busy`,
		`{"type":"error"}`:                                                                          `error_event: {"type":"error"}`,
		`{"detail":"Internal Server Error"}`:                                                        `error_event: Internal Server Error`,
		`{"detail":[{"loc":["body"],"msg":"bad"}]}`:                                                 `error_event: {"detail":[{"loc":["body"],"msg":"bad"}]}`,
		`{"message":"no memory","code":500}`:                                                        `error_event: no memory`,
		`{"message":"no memory","code":"rate_limit_exceeded"}`:                                      `error_event: no memory`,
		`{"message":"no memory","status":503}`:                                                      `error_event: no memory`,
		`{"status":"failed","id":"1"}`:                                                              `error_event: {"status":"failed","id":"1"}`,
		`{"code":"502"}`:                                                                            `error_event: {"code":"502"}`,
		`{"error_code":17,"error_msg":"quota"}`:                                                     `error_event: quota`,
		`{"errors":["a"],"choices":[],"usage":null}`:                                                `error_event: {"errors":["a"],"choices":[],"usage":null}`,
		`{"type":"server_error","message":"x"}`:                                                     `error_event: x`,
		finish(`"abortive"`):                                                                        `aborted: the server ended the answer with the finish reason "abortive"`,
		finish(`"preempted"`):                                                                       `aborted: the server ended the answer with the finish reason "preempted"`,
		finish(`"out"`):                                                                             `aborted: the server ended the answer with the finish reason "out"`,
		finish(`7`):                                                                                 `aborted: the server ended the answer with the finish reason "7"`,
		finish(`{"type":"engine_dead","message":"gone"}`):                                           `aborted: the server ended the answer with the finish reason "engine_dead": gone`,
		finish(`{"type":"stop","reason":"abort"}`):                                                  `aborted: the server ended the answer with the finish reason "abort"`,
		finish(`{"matched":2}`):                                                                     `aborted: the server ended the answer with the finish reason "{\"matched\":2}"`,
		`{"finish_reason":"error","choices":[]}`:                                                    `aborted: the server ended the answer with the finish reason "error"`,
		`{"finish_reason":"evicted"}`:                                                               `aborted: the server ended the answer with the finish reason "evicted"`,
		`{"choices":[{"delta":{}}],"finish_reason":"oom"}`:                                          `aborted: the server ended the answer with the finish reason "oom"`,
		beside(`"detail":"no memory"`):                                                              `error_event: no memory`,
		beside(`"message":"no memory"`):                                                             `error_event: no memory`,
		beside(`"code":500,"message":"no memory"`):                                                  `error_event: no memory`,
		beside(`"msg":"no memory"`):                                                                 `error_event: no memory`,
		beside(`"status":"failed","msg":"no memory"`):                                               `error_event: no memory`,
		`{"choices":[],"detail":"no memory"}`:                                                       `error_event: no memory`,
		`{"choices":[],"message":"no memory","code":14}`:                                            `error_event: no memory`,
		`{"choices":null,"code":503}`:                                                               `error_event: {"choices":null,"code":503}`,
		`{"usage":{"completion_tokens":3},"detail":"lost"}`:                                         `error_event: lost`,
		`{"message":"no memory"}`:                                                                   `error_event: no memory`,
		`{"id":"1","msg":"no memory"}`:                                                              `error_event: no memory`,
		`{"success":false}`:                                                                         `error_event: {"success":false}`,
		`{"success":"False","message":"no memory"}`:                                                 `error_event: no memory`,
		`{"ok":false,"err":"no memory"}`:                                                            `error_event: no memory`,
		`{"fault":{"faultstring":"no memory"}}`:                                                     `error_event: no memory`,
		`{"err":"no memory"}`:                                                                       `error_event: no memory`,
		`{"errcode":45009,"errmsg":"no memory"}`:                                                    `error_event: no memory`,
	}
	for event, want := range failures {
		if got := read(event); got.Err != want {
			t.Errorf("%s\nfails with %q, want %q", event, got.Err, want)
		}
	}
	for _, event := range []string{
		finish(`"stop"`), finish(`"length"`), finish(`"tool_calls"`), finish(`"function_call"`), finish(`"content_filter"`), finish(`"eos_token"`),
		finish(`"max_tokens"`), finish(`"stop_sequence"`), finish(`"repetition"`), finish(`"Tool_Use"`), finish(`"STOP"`), finish(`"endTurn"`), finish(`"max-tokens"`),
		finish(`"FINISH_REASON_MAX_TOKENS"`), finish(`"completed"`), finish(`"done"`), finish(`"finished"`), finish(`"eos"`), finish(`"max_length"`), finish(`"stop_token"`),
		finish(`""`), finish(`null`), finish(`"null"`), finish(`{}`), finish(`{"type":"stop","matched":2}`), finish(`{"type":"length","message":"abort"}`),
		finish(`{"reason":"matched </s>","type":"stop"}`), finish(`{"reason":"stop"}`),
		`{"error":null,"choices":[]}`, `{"error":false}`, `{"error":""}`, `{"error":{}}`, `{"error":{ } }`, `{"error":[]}`, `{"error":0}`,
		`{"choices":[{"delta":{"content":"error: abort"},"error":null,"finish_reason":null}],"error":null}`,
		`{"choices":[{"delta":{"content":"x"}}],"message":"fine","code":500,"detail":"x","warning":"error"}`,
		`{"type":"ping"}`, `{"status":"processing","message":"in the queue"}`, `{"code":0,"message":"success"}`, `{"code":200,"message":"success"}`,
		`{"choices":[],"id":"error","model":"error","object":"chat.completion.chunk","prompt_filter_results":[{"content_filter_results":{"error":{}}}]}`,
		`{"detail":null,"errors":[]}`, `{}`,
		`{"code":0,"message":"generating"}`, `{"message":"success"}`, `{"errcode":0,"errmsg":"ok"}`, `{"success":true,"message":"on the way"}`, `{"type":"ping","message":"x"}`,
		`{"success":null}`, `{"message":""}`, `{"message":null,"msg":{},"err":null,"fault":false,"errmsg":""}`, `{"finish_reason":"stop"}`, `{"finish_reason":null}`,
		`{"choices":[{"delta":{"content":"x"}}],"success":false,"fault":"x","err":"x","errmsg":"x","msg":"x"}`,
		usageOnly,
	} {
		if got := read(event); got.Err != "" {
			t.Errorf("%s\nfails with %q", event, got.Err)
		}
	}
}

func TestFailuresAreCitedInOneShortLine(t *testing.T) {
	message := strings.Repeat("a\r\n\t\x1b[31m\x00\u202e", 300)
	quoted, err := json.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range []string{
		`{"error":{"message":` + string(quoted) + `}}`,
		`{"choices":[{"finish_reason":{"type":"abort","message":` + string(quoted) + `}}]}`,
		`{"choices":[{"finish_reason":` + strings.Replace(string(quoted), "a", "abort ", 1) + `}]}`,
		`{"error":["` + strings.Repeat("x", 5000) + `"]}`,
	} {
		got := read(event).Err
		if got == "" || len(got) > 6*maxExcerpt || strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r == '\u202e' }) {
			t.Errorf("the failure is %d bytes: %q", len(got), got)
		}
	}
}

// Who nests what is wrong in a million bytes takes no more time than anyone else.
func TestDeeplyNestedFailuresAreReadOnce(t *testing.T) {
	deep := `"deep"`
	for range maxNesting - 2 {
		deep = `{"message":` + deep + `,"x":"` + strings.Repeat("y", 10_000) + `"}`
	}
	event := []byte(`{"error":` + deep + `}`)
	var e chatEvent
	var got string
	once, all := time.Hour, time.Hour // how long it takes to go through the event, and to read it
	for range 5 {
		start := time.Now()
		skipValue(event, 0, 0)
		once = min(once, time.Since(start))
		start = time.Now()
		got = failureText(e.parse(event))
		all = min(all, time.Since(start))
	}
	if all > 40*once {
		t.Errorf("the failure took %v to read, and going through it %v", all, once)
	}
	if !strings.HasPrefix(got, `error_event: {"message":{"message":`) || len(got) > 3*maxExcerpt {
		t.Errorf("the failure is %q", got)
	}
	wide := `{"error":{"data":` + deep + `,"message":"wide","detail":` + deep + `,"error":` + deep + `}}`
	if got := read(strings.Replace(wide, `"data":{"message"`, `"data":{"m"`, 1)).Err; got != "error_event: wide" {
		t.Errorf("the failure is %q", got)
	}
}

// A template is taken from events, of an answer one after the other.
func TestTemplateMatchesWhatDiffersInTextAndNumbers(t *testing.T) {
	const usage = `}],"usage":{"prompt_tokens":20,"total_tokens":21,"completion_tokens":1,"completion_tokens_details":null}}`
	const first = `{"id":"a","created":1795564952,"choices":[{"index":0,"delta":{"content":"te"},"finish_reason":null` + usage
	var e chatEvent
	if err := e.parse([]byte(first)); err != nil {
		t.Fatal(err)
	}
	var template eventTemplate
	template.take(&e)
	for _, test := range []struct {
		old, new string // what differs
		want     Chunk
		ok       bool
	}{
		{"", "", Chunk{Tokens: 1, Content: true}, true},
		{`"te"`, `""`, Chunk{Tokens: 1}, true},
		{`"te"`, `"long \"text\", \\ \u00e9 é 能\n{}"`, Chunk{Tokens: 1, Content: true}, true},
		{`21,"completion_tokens":1`, `120,"completion_tokens":1234567`, Chunk{Tokens: 1234567, Content: true}, true},
		{`"completion_tokens":1`, `"completion_tokens":0`, Chunk{Content: true}, true},
		{`"completion_tokens":1`, `"completion_tokens":12345678`, Chunk{}, false},
		{`"completion_tokens":1`, `"completion_tokens":01`, Chunk{}, false},
		{`"completion_tokens":1`, `"completion_tokens":1.0`, Chunk{}, false},
		{`"completion_tokens":1`, `"completion_tokens":-1`, Chunk{}, false},
		{`"completion_tokens":1`, `"completion_tokens":`, Chunk{}, false},
		{`"completion_tokens":1`, `"completion_tokens":null`, Chunk{}, false},
		{`"finish_reason":null`, `"finish_reason":"stop"`, Chunk{}, false},
		{`"te"`, `"te","error":{"message":"x"}`, Chunk{}, false},
		{`"te"`, `"a"b"`, Chunk{}, false},
		{`"te"`, `"a\x"`, Chunk{}, false},
		{`"te"`, "\"a\x01\"", Chunk{}, false},
		{`"te"`, `"te\"`, Chunk{}, false},
		{`"id":"a","created":1795564952`, `"id":"b-\\","created":7`, Chunk{Tokens: 1, Content: true}, true},
		{`"id":"a"`, `"id":7`, Chunk{}, false},
		{`"created"`, `"made"`, Chunk{}, false},
		{`}}`, `},"x_groq":{"usage":{"completion_tokens":1000}}}`, Chunk{}, false},
		{`}}`, `}`, Chunk{}, false},
		{`}}`, `}}}`, Chunk{}, false},
		{`{"id"`, ` {"id"`, Chunk{}, false},
		{first, "", Chunk{}, false},
		{first, "[DONE]", Chunk{}, false},
	} {
		got, ok := template.match([]byte(strings.Replace(first, test.old, test.new, 1)))
		if ok != test.ok || ok && got != test.want {
			t.Errorf("with %s for %s: %+v (%v), want %+v (%v)", test.new, test.old, got, ok, test.want, test.ok)
		}
	}
	if err := e.parse([]byte(`{"choices":[{"delta":{"content":"x"}}],"usage":{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7,"h":8,"completion_tokens":9}}`)); err != nil {
		t.Fatal(err)
	}
	template.take(&e) // it has more numbers than are told apart
	for _, event := range []string{"", first, string(e.data)} {
		if got, ok := template.match([]byte(event)); ok {
			t.Errorf("%q matches no template, and is read as %+v", event, got)
		}
	}
}

// referenceOf reads an event with the JSON library, into a tree.
func referenceOf(data []byte) (chunk Chunk, kind string) {
	chunk.Tokens = -1
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var tree any
	if !json.Valid(data) || decoder.Decode(&tree) != nil || depth(tree) > maxNesting {
		return chunk, "malformed"
	}
	event, isObject := tree.(map[string]any)
	if !isObject {
		return chunk, map[bool]string{true: "malformed", false: ""}[holds(tree)]
	}
	choices, isList := event["choices"].([]any)
	if event["choices"] != nil && !isList {
		return chunk, "malformed"
	}
	usage, hasUsage := event["usage"].(map[string]any)
	hasUsage = hasUsage && len(usage) > 0
	if number, ok := usage["completion_tokens"].(json.Number); ok {
		if r, ok := ratOf(number); ok && r.IsInt() && r.Sign() >= 0 && r.Cmp(big.NewRat(maxTokens, 1)) <= 0 {
			chunk.Tokens = int(r.Num().Int64())
		}
	}
	output, failed, aborted := false, holds(event["error"]), false
	for _, name := range []string{"type", "object"} {
		text, _ := event[name].(string)
		failed = failed || strings.EqualFold(text, "error")
	}
	for _, element := range choices {
		choice, isObject := element.(map[string]any)
		if !isObject {
			return Chunk{Tokens: -1}, "malformed"
		}
		delta, _ := choice["delta"].(map[string]any)
		for _, value := range []any{choice["text"], delta["content"], delta["reasoning"], delta["reasoning_content"], delta["tool_calls"], delta["function_call"], delta["refusal"]} {
			output = output || holds(value)
		}
		failed = failed || holds(choice["error"]) || holds(delta["error"])
		chunk.Last = chunk.Last || holds(choice["finish_reason"])
		if reason, ok := choice["finish_reason"].(string); ok {
			aborted = aborted || !completes(reason) && reason != ""
		}
	}
	if reason, ok := event["finish_reason"].(string); ok {
		aborted = aborted || !completes(reason) && reason != ""
	}
	chunk.Content = output
	chunk.Last = chunk.Last || hasUsage && len(choices) == 0
	switch {
	case failed:
		kind = "error_event"
	case len(choices) == 0:
		kind = "any"
	case aborted:
		kind = "aborted"
	}
	return chunk, kind
}

// ratOf is a number, unless its exponent is absurd.
func ratOf(number json.Number) (*big.Rat, bool) {
	if _, exponent, found := strings.Cut(strings.ToLower(number.String()), "e"); found && len(exponent) > 5 {
		return nil, false
	}
	return new(big.Rat).SetString(number.String())
}

func holds(value any) bool {
	switch v := value.(type) {
	case nil:
		return false
	case bool:
		return v
	case string:
		return v != ""
	case json.Number:
		r, ok := ratOf(v)
		return !ok || r.Sign() != 0
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	}
	return true
}

func depth(tree any) int {
	deepest := 0
	switch v := tree.(type) {
	case []any:
		for _, element := range v {
			deepest = max(deepest, depth(element))
		}
	case map[string]any:
		for _, member := range v {
			deepest = max(deepest, depth(member))
		}
	default:
		return 0
	}
	return 1 + deepest
}

// Events are read as the JSON library reads them.
func FuzzChatEvent(f *testing.F) {
	for _, seed := range []string{
		strings.TrimSpace(strings.TrimPrefix(tokenEvent("a", 1), "data: ")),
		`{"choices":[{"delta":{"content":"x"},"finish_reason":{"type":"abort"}}],"usage":{"completion_tokens":-5.0e1}}`,
		`{"error":{"message":"x"},"a":[1,2.5,true,false,null,"\u00e9\\\/\b\f\n\r\t"]}`, `{"object":"error"}`, `{"type":"\u0065rror"}`,
		`{"choices":[{"text":"","error":0}],"usage":{"completion_tokens":1.20e1}}`, `{"usage":{"completion_tokens":1e99999999999}}`,
		`{"choices":[{"delta":{"tool_calls":[ ]}},{"finish_reason":"ABORT"}]}`, strings.Repeat("[", 200) + strings.Repeat("]", 200), `{"a":` + strings.Repeat("[", 98) + strings.Repeat("]", 98) + `}`,
		`{"a":01}`, `{"a":1.}`, `{"a":-}`, `{"a":1e}`, `{"a" "b"}`, `{"a":1,}`, `{,}`, `[1,]`, `{"a":"\x"}`, `{"a":"\u12"}`, "{\"a\":\"\n\"}", `{"a":nul}`, `{} {}`, `null`, ` 1`, `"`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		want, wantKind := referenceOf(data)
		var e chatEvent
		err := e.parse(data)
		got, gotKind := e.chunk, ""
		var failure *Error
		if errors.As(err, &failure) {
			gotKind = failure.Kind.String()
		}
		got.OddUsage = ""
		if wantKind == "any" { // a matter of taste
			wantKind = gotKind
		}
		// A finish reason that is an object is beyond the reference.
		if !bytes.Contains(data, []byte("finish_reason")) || gotKind != "aborted" {
			if gotKind != wantKind {
				t.Errorf("%q fails with %v, want %q", data, err, wantKind)
			}
		}
		if got != want {
			t.Errorf("%q is read as %+v, want %+v", data, got, want)
		}
	})
}

// What an event says does not depend on what came before it: a template may only
// match what would be read likewise in full.
func FuzzTemplate(f *testing.F) {
	f.Add(`"completion_tokens":5}`, "b", 1, "2", 0, byte(0), true)
	f.Add(`\",\"completion_tokens\":5}`, `x","error":"y`, 123456, "2.0", 50, byte('"'), false)
	f.Add("", "\\u00e9\\", 7, "007", 120, byte('{'), true)
	f.Fuzz(func(t *testing.T, content, rawText string, tokens int, rawTokens string, at int, b byte, withUsage bool) {
		quoted, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		first := `{"id":"c","choices":[{"index":0,"delta":{"content":` + string(quoted) + `},"finish_reason":null}],"error":null`
		second := strings.Replace(first, string(quoted), `"`+rawText+`"`, 1)
		if withUsage {
			tokens = max(tokens, -tokens, 0) % (maxTokens + 1)
			const usage = `,"usage":{"prompt_tokens":9,"total_tokens":%v,"completion_tokens":%[1]v,"completion_tokens_details":null}`
			first += fmt.Sprintf(usage, tokens)
			second += fmt.Sprintf(usage, rawTokens)
		}
		changed := []byte(second + "}")
		if b != 0 {
			changed[max(at, -at, 0)%len(changed)] = b
		}
		for _, event := range [][]byte{[]byte(second + "}"), changed} {
			var d responseDecoder
			d.reset(1 << 20)
			if err := d.event([]byte(first+"}"), nil); err != nil {
				t.Fatal(err)
			}
			d.chunks = d.chunks[:0]
			err := d.event(event, nil)
			var fresh responseDecoder
			fresh.reset(1 << 20)
			freshErr := fresh.event(event, nil)
			if diff := cmp.Diff(fresh.chunks, d.chunks, cmp.Comparer(func(a, b []Chunk) bool {
				return len(a) == len(b) && (len(a) == 0 || a[0] == b[0])
			})); diff != "" || failureText(err) != failureText(freshErr) {
				t.Errorf("%q after %q: %v, want %v (-alone +after):\n%s", event, first, err, freshErr, diff)
			}
		}
	})
}
