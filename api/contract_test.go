package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/g2g-agent/g2g-agent/config"
)

// contract is the API's description as a client reads it.
type contract struct {
	document map[string]any
	// compiler has the description with all objects closed, so that what is sent and
	// not described is found.
	compiler *jsonschema.Compiler
}

// contracts are the descriptions read so far: reading one takes a while. The tests
// here do not run in parallel.
var contracts = map[string]*contract{}

func newContract(t testing.TB, s *testServer) *contract {
	t.Helper()
	served := s.raw(http.MethodGet, "/openapi.yaml", nil).want(t, http.StatusOK)
	if c := contracts[string(served.body)]; c != nil {
		return c
	}
	var document map[string]any
	if err := yaml.Unmarshal(served.body, &document); err != nil {
		t.Fatal(err)
	}
	asJSON := func() any {
		plain, err := jsonschema.UnmarshalJSON(strings.NewReader(jsonOf(document)))
		if err != nil {
			t.Fatal(err)
		}
		return plain
	}
	c := &contract{asJSON().(map[string]any), jsonschema.NewCompiler()}
	c.compiler.DefaultDraft(jsonschema.Draft2020)
	c.compiler.AssertFormat()
	closed := asJSON()
	eachSchema(closed, func(s map[string]any) {
		if s["properties"] != nil && s["additionalProperties"] == nil {
			s["additionalProperties"] = false
		}
	})
	if err := c.compiler.AddResource("file:///openapi.json", closed); err != nil {
		t.Fatal(err)
	}
	contracts[string(served.body)] = c
	return c
}

// eachSchema calls visit for each object in a document that may be a schema.
func eachSchema(v any, visit func(map[string]any)) {
	for _, item := range anys(v) {
		eachSchema(item, visit)
	}
	if m, ok := v.(map[string]any); ok {
		visit(m)
		for name, member := range m {
			if name != "example" && !strings.HasPrefix(name, "x-") {
				eachSchema(member, visit)
			}
		}
	}
}

// at follows names down the document, nil if there is no such thing.
func (c *contract) at(names ...string) any {
	v, _ := c.follow(names)
	return v
}

// follow is at; it also returns the names without references.
func (c *contract) follow(names []string) (v any, direct []string) {
	v = c.document
	for i, name := range names {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, nil
		}
		direct = append(direct, name)
		v = m[name]
		if target, ok := v.(map[string]any); ok && target["$ref"] != nil {
			way := strings.Split(strings.TrimPrefix(target["$ref"].(string), "#/"), "/")
			return c.follow(append(way, names[i+1:]...))
		}
	}
	return v, direct
}

// pointer is a JSON pointer into the document.
func pointer(names ...string) string {
	escape := strings.NewReplacer("~", "~0", "/", "~1", "%", "%25")
	var b strings.Builder
	for _, name := range names {
		b.WriteString("/" + escape.Replace(name))
	}
	return b.String()
}

// validate returns what is wrong with JSON by the schema at names.
func (c *contract) validate(body []byte, names ...string) error {
	_, direct := c.follow(names)
	schema, err := c.compiler.Compile("file:///openapi.json#" + pointer(direct...))
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	return schema.Validate(v)
}

// check fails the test unless the description declares the answer's status and
// content type, and the body is as it says. Paths and methods that are not in it
// must be answered with a problem.
func (c *contract) check(t testing.TB, method, target string, r *reply) {
	t.Helper()
	path, _, _ := strings.Cut(target, "?")
	kind, _, _ := mime.ParseMediaType(r.header.Get("Content-Type"))
	verb := strings.ToLower(method)
	if method == http.MethodHead {
		verb = "get"
	}
	if c.at("paths", path, verb) == nil {
		if r.status != http.StatusNoContent {
			if err := c.validate(r.body, "components", "schemas", "Problem"); method != http.MethodHead && err != nil {
				t.Errorf("%s %s: %d: %v: %.300s", method, target, r.status, err, r.body)
			}
		}
		return
	}
	names := []string{"paths", path, verb, "responses", strconv.Itoa(r.status)}
	if c.at(names...) == nil {
		t.Errorf("%s %s: status %d is not declared: %.300s", method, target, r.status, r.body)
		return
	}
	if r.status == http.StatusNoContent {
		return
	}
	names = append(names, "content", kind, "schema")
	if c.at(names...) == nil {
		t.Errorf("%s %s: content type %q of status %d is not declared", method, target, kind, r.status)
		return
	}
	if method == http.MethodHead || !strings.HasSuffix(kind, "json") || kind == contentTypeLines {
		return
	}
	if err := c.validate(r.body, names...); err != nil {
		t.Errorf("%s %s: %d: %v: %.500s", method, target, r.status, err, r.body)
	}
}

// checkMessage fails the test unless a message of a path's WebSocket is one of those
// that the description has it send.
func (c *contract) checkMessage(t testing.TB, path string, message []byte) {
	t.Helper()
	sent := anys(c.at("paths", path, "get", "x-websocket", "sends"))
	for _, schema := range sent {
		ref := strings.TrimPrefix(schema.(map[string]any)["$ref"].(string), "#/")
		if c.validate(message, strings.Split(ref, "/")...) == nil {
			return
		}
	}
	t.Errorf("%s: a message is none of %v: %.500s", path, sent, message)
}

// What is served is the file as it stands, but for what is configured.
func TestDescriptionIsTheFile(t *testing.T) {
	want, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, func(c *Config) { c.Settings.HistoryStates = config.Default().API.HistoryStates })
	got := s.raw(http.MethodGet, "/openapi.yaml", nil).want(t, http.StatusOK).body
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("the description (-openapi.yaml +served):\n%s", diff)
	}
	for kept, usual := range map[int]int{50: 50, 150: 100} {
		s := serve(t, func(c *Config) { c.Settings.HistoryStates = kept })
		n := s.doc.schemaOf(anys(s.doc.at("paths", "/v1/history", "get", "parameters"))[0])["schema"].(map[string]any)
		if asInt(n["maximum"]) != kept || asInt(n["default"]) != usual {
			t.Errorf("with %d states kept, n is described as %v, want at most %d and %d if it is missing", kept, n, kept, usual)
		}
	}
}

func TestDescriptionIsTheSameAsJSON(t *testing.T) {
	s := serve(t, nil)
	var asJSON any
	s.get("/openapi.json").want(t, http.StatusOK).into(t, &asJSON)
	var asYAML any
	if err := json.Unmarshal([]byte(jsonOf(s.doc.document)), &asYAML); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(asJSON, asYAML); diff != "" {
		t.Errorf("the description (-JSON +YAML):\n%s", diff)
	}
}

// Every operation is described well enough to be used from the description alone,
// and every path of the server is in it.
func TestDescriptionIsComplete(t *testing.T) {
	s := serve(t, nil)
	seen := map[string]bool{}
	paths := s.doc.at("paths").(map[string]any)
	for path, item := range paths {
		for method, op := range item.(map[string]any) {
			name := method + " " + path
			o := op.(map[string]any)
			id, _ := o["operationId"].(string)
			if id == "" || seen[id] {
				t.Errorf("%s: operationId %q", name, id)
			}
			seen[id] = true
			if o["summary"] == nil || o["security"] == nil || o["tags"] == nil {
				t.Errorf("%s has no summary, security or tags", name)
			}
			for status := range o["responses"].(map[string]any) {
				if s.doc.at("paths", path, method, "responses", status, "description") == nil {
					t.Errorf("%s: %s has no description", name, status)
				}
			}
			for _, p := range anys(o["parameters"]) {
				if s.doc.schemaOf(p)["description"] == nil {
					t.Errorf("%s: parameter %v has no description", name, p)
				}
			}
			if method == "post" {
				content := s.doc.at("paths", path, method, "requestBody", "content", "application/json").(map[string]any)
				if err := s.doc.validate([]byte(jsonOf(content["example"])), "paths", path, method, "requestBody", "content", "application/json", "schema"); err != nil {
					t.Errorf("%s: the example is wrong: %v", name, err)
				}
			}
		}
	}
	for path := range s.routes.methods {
		if path = strings.TrimSuffix(path, "{$}"); paths[path] == nil && path != "/assets/" {
			t.Errorf("%s is served and not described", path)
		}
	}
	for path := range paths {
		if path != "/" && s.routes.methods[path] == nil {
			t.Errorf("%s is described and not served", path)
		}
	}
	state := s.doc.at("paths", "/v1/state", "get", "responses", "200", "content", "application/json").(map[string]any)
	if err := s.doc.validate([]byte(jsonOf(state["example"])), "components", "schemas", "State"); err != nil {
		t.Errorf("the example of a state is wrong: %v", err)
	}
}

func anys(v any) []any {
	list, _ := v.([]any)
	return list
}
