package api

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/g2g-agent/g2g-agent/internal/strictjson"
)

// schemaOf follows references to a schema.
func (c *contract) schemaOf(v any) map[string]any {
	m, _ := v.(map[string]any)
	for m["$ref"] != nil {
		m, _ = c.at(strings.Split(strings.TrimPrefix(m["$ref"].(string), "#/"), "/")...).(map[string]any)
	}
	return m
}

// goodJSON is a value that a schema allows, as JSON; objects by model label have
// the fake site's model "small".
func (c *contract) goodJSON(schema map[string]any) string {
	if example, ok := schema["example"]; ok {
		return jsonOf(example)
	}
	if either := anys(schema["anyOf"]); either != nil { // or null
		return c.goodJSON(c.schemaOf(either[0]))
	}
	if choice := anys(schema["enum"]); choice != nil {
		return jsonOf(choice[0])
	}
	switch schema["type"] {
	case "array":
		return "[" + c.goodJSON(c.schemaOf(schema["items"])) + "]"
	case "string":
		return `"small"`
	case "integer", "number":
		return "8"
	}
	var members []string
	properties, _ := schema["properties"].(map[string]any)
	members = c.goodMembers(properties, "")
	if values, ok := schema["additionalProperties"].(map[string]any); ok {
		members = append(members, `"small": `+c.goodJSON(c.schemaOf(values)))
	}
	return "{" + strings.Join(members, ", ") + "}"
}

// goodMembers are members for properties, but for the one of the name, and one that goes
// with it or takes its place.
func (c *contract) goodMembers(properties map[string]any, but string) (members []string) {
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		switch {
		case name == but, name == "until_s", name == "steps" && but == "until_s": // one of these two
		case name == "fields": // with them, states are others
		default:
			members = append(members, fmt.Sprintf("%q: %s", name, c.goodJSON(c.schemaOf(properties[name]))))
		}
	}
	return members
}

// wrongJSON are values that a schema does not allow, as JSON.
func wrongJSON(schema map[string]any) []string {
	deep := strings.Repeat("[", 12) + strings.Repeat("]", 12)
	if schema["anyOf"] != nil { // null is one of them
		return nil
	}
	if schema["type"] == "array" {
		return []string{"true", "8", `"small"`, "{}", `{"small": 8}`}
	}
	wrong := []string{"null", "true", "false", "[]", "[8]", `["small"]`, `""`, deep, strings.Repeat(`{"a":`, 12) + "1" + strings.Repeat("}", 12)}
	number := func() {
		wrong = append(wrong, "{}", `{"small": 8}`, `"8"`, `"small"`, "-0", "-0.0", "1e400", "-1e400", "-1", "-1e308")
		for _, bound := range []struct {
			name  string
			delta string
		}{{"minimum", "-1"}, {"exclusiveMinimum", "+0"}, {"maximum", "+1"}} {
			if b := schema[bound.name]; b != nil {
				wrong = append(wrong, beyond(fmt.Sprint(b), bound.delta))
			}
		}
	}
	switch schema["type"] {
	case "integer":
		number()
		wrong = append(wrong, "1.5", "8.0000000000000000001", "1e-400", "1e30", "1e999999999", "1e-999999999", "9223372036854775807", "9223372036854775808", "18446744073709551624",
			"-9223372036854775809", "4294967304", strings.Repeat("9", 5000), "0."+strings.Repeat("0", 5000)+"1")
		if schema["minimum"] != nil && strings.HasPrefix(fmt.Sprint(schema["minimum"]), "-") {
			wrong = slices.DeleteFunc(wrong, func(v string) bool { return v == "-1" })
		}
	case "number":
		number()
	case "string":
		wrong = append(wrong, "{}", "8", "-1")
	case "object":
		wrong = append(wrong, "8", `"small"`, "{}")
	}
	var most float64
	fmt.Sscan(fmt.Sprint(schema["maximum"]), &most)
	return slices.DeleteFunc(wrong, func(v string) bool {
		return v == "null" && schema["nullable"] != nil || schema["x-any"] != nil && (v == "-1" || v == "-1e308") || v == "4294967304" && most > 4294967304
	})
}

// beyond adds delta to a bound of the description.
func beyond(bound, delta string) string {
	var b, d int64
	fmt.Sscan(bound, &b)
	fmt.Sscan(delta, &d)
	return fmt.Sprint(b + d)
}

// eachField calls visit for every part of what a schema describes, with a
// function that makes a good body with that part replaced.
func (c *contract) eachField(schema map[string]any, location string, body func(part string) string, visit func(schema map[string]any, location string, body func(part string) string)) {
	visit(schema, location, body)
	if either := anys(schema["anyOf"]); either != nil { // or null
		schema = maps.Clone(c.schemaOf(either[0]))
		schema["nullable"] = true
		visit(schema, location, body)
	}
	if schema["type"] == "array" {
		c.eachField(c.schemaOf(schema["items"]), location+"[0]", func(part string) string { return body("[" + part + "]") }, visit)
	}
	inner := func(name string, member map[string]any) {
		c.eachField(member, location+"."+name, func(part string) string {
			properties, _ := schema["properties"].(map[string]any)
			members := c.goodMembers(properties, name)
			if part != "" {
				members = append(members, fmt.Sprintf("%q: %s", name, part))
			}
			return body("{" + strings.Join(members, ", ") + "}")
		}, visit)
	}
	properties, _ := schema["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		inner(name, c.schemaOf(properties[name]))
	}
	if values, ok := schema["additionalProperties"].(map[string]any); ok {
		inner("small", c.schemaOf(values))
	}
}

// wrongBodies are no JSON objects, or such as no command's body is.
func wrongBodies() []string {
	return []string{
		"", " ", "null", "true", "8", `"x"`, "[]", "[{}]", "{", "}", "{}{}", "{} x", "{}\x00", "\ufeff\ufeff{}", "\xff\xfe{\x00}\x00", "{\x00}\x00", "{\"a\":1,}", "{'a':1}", "{a:1}", "{\"a\"}", "{\"a\":}", "// x\n{}",
		"{\"\xff\":1}", "{\"a\":\"\xc3\"}", strings.Repeat("[", 30_000), strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000),
		strings.Repeat(`{"a":`, 5_000) + "1" + strings.Repeat("}", 5_000),
	}
}

// wrongMembers are objects in which a member of the schema's is missing, misspelt,
// there twice, or beside one that is unknown, each with where it is wrong.
func (c *contract) wrongMembers(schema map[string]any, location string, wrong func(object, at string)) {
	required := map[string]bool{}
	for _, name := range anys(schema["required"]) {
		required[name.(string)] = true
	}
	properties, _ := schema["properties"].(map[string]any)
	for name, p := range properties {
		good := c.goodJSON(c.schemaOf(p))
		without := func(more string) string {
			members := c.goodMembers(properties, name)
			if more != "" {
				members = append(members, more)
			}
			return "{" + strings.Join(members, ", ") + "}"
		}
		if required[name] {
			wrong(without(""), location+"."+name)
		}
		for _, other := range []string{strings.ToUpper(name), strings.ToUpper(name[:1]) + name[1:], name + " ", " " + name, strings.ReplaceAll(name, "_", ""), name + "\u0000"} {
			if other != name {
				wrong(without(fmt.Sprintf("%s: %s", jsonOf(other), good)), location+"."+other)
			}
		}
		wrong(without(fmt.Sprintf("%q: %s, %q: %s", name, good, name, good)), location+"."+name)
		wrong(without(fmt.Sprintf("%q: %s, \"\\u%04x%s\": %s", name, good, name[0], name[1:], good)), location+"."+name)
		wrong(without(fmt.Sprintf("%q: %s, \"extra\": 1", name, good)), location+".extra")
		wrong(without(fmt.Sprintf("%q: %s, \"\": 1", name, good)), location+".")
	}
}

// Every field of every body, wrong in every way that the description lets us think
// of: the answer is a 4xx that names the field, and nothing is changed.
func TestEveryFieldWrong(t *testing.T) {
	s := serve(t, nil)
	cases := 0
	wrong := func(target, body string, locations ...string) {
		t.Helper()
		cases++
		r := s.post(target, body)
		if r.status < 400 || r.status > 499 || r.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %.200s: %d %.200s", target, body, r.status, r.body)
			return
		}
		at := r.locations(t)
		isAt := func(location string) bool { // or what would be in it
			return slices.ContainsFunc(at, func(l string) bool {
				rest, ok := strings.CutPrefix(l, location)
				return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
			})
		}
		if !slices.ContainsFunc(locations, isAt) {
			t.Errorf("%s: %.200s: it names %q, want %q", target, body, at, locations)
		}
		if n := len(s.site.given()); n > 0 {
			t.Fatalf("%s: %.200s: %d commands were carried out", target, body, n)
		}
	}
	for path, item := range s.doc.at("paths").(map[string]any) {
		if item.(map[string]any)["post"] == nil {
			continue
		}
		content := s.doc.at("paths", path, "post", "requestBody", "content", "application/json").(map[string]any)
		root := s.doc.schemaOf(content["schema"])
		for _, whole := range wrongBodies() {
			wrong(path, whole, "body", "body.a", "body"+strings.Repeat(".a", strictjson.MaxNesting+1))
		}
		s.doc.eachField(root, "body", func(part string) string { return part }, func(schema map[string]any, location string, body func(string) string) {
			if location != "body" {
				for _, value := range wrongJSON(schema) {
					wrong(path, body(value), location, location+".a") // values by model label are wrong for their model
				}
				for _, value := range []string{"NaN", "-Infinity", "0x10", "08", "+8", ".5", "5.", "1_000", "undefined", "'8'"} {
					wrong(path, body(value), "body")
				}
			}
			s.doc.wrongMembers(schema, location, func(members, at string) { wrong(path, body(members), at) })
		})
	}
	if cases < 300 {
		t.Errorf("only %d cases: the description was not walked", cases)
	}
	// What the walk takes for good is.
	for _, path := range []string{"/v1/batch-sizes", "/v1/replica-shifts"} {
		content := s.doc.at("paths", path, "post", "requestBody", "content", "application/json").(map[string]any)
		s.post(path, s.doc.goodJSON(s.doc.schemaOf(content["schema"]))).want(t, http.StatusOK)
	}
}

// wrongParameter gives a parameter values that its schema does not allow, gives it
// twice, and misspells it.
func wrongParameter(t *testing.T, path string, p map[string]any, wrong func(target, location string, headers ...header)) {
	t.Helper()
	name, schema := p["name"].(string), p["schema"].(map[string]any)
	switch {
	case p["in"] == "header":
		for _, value := range []string{"", strings.Repeat("k", 1+asInt(schema["maxLength"])), "a b", "ä"} {
			wrong(path, "header."+name, header{name, value})
		}
	case schema["type"] == "integer":
		values := []string{"", "x", "1.5", "1e1", " 1", "1 ", "+1", "-1", "0x10", "1_0", "９", "true", "null", "99999999999999999999", strings.Repeat("9", 3000), "1,2", "[1]"}
		if schema["minimum"] != nil {
			values = append(values, fmt.Sprint(asInt(schema["minimum"])-1))
		}
		if schema["maximum"] != nil {
			values = append(values, fmt.Sprint(asInt(schema["maximum"])+1))
		}
		for _, value := range values {
			wrong(path+"?"+name+"="+url.QueryEscape(value), "query."+name)
			if path == "/v1/events" {
				wrong(path+"?follow&"+name+"="+url.QueryEscape(value), "query."+name)
			}
		}
		wrong(path+"?"+name+"=1&"+name+"=1", "query."+name)
		wrong(path+"?"+strings.ToUpper(name)+"=1", "query."+strings.ToUpper(name))
	case schema["type"] == "boolean":
		for _, value := range []string{"maybe", "TRUE", "2", " "} {
			wrong(path+"?"+name+"="+url.QueryEscape(value), "query."+name)
		}
		wrong(path+"?"+name+"&"+name, "query."+name)
	case schema["type"] == "number":
		for _, value := range []string{"", "x", "-1", "-0.001", "nan", "inf", "1e999", "0x10", "1_0", "1,5", " 1", fmt.Sprint(asInt(schema["maximum"]) + 1)} {
			wrong(path+"?after=0&"+name+"="+url.QueryEscape(value), "query."+name)
		}
		wrong(path+"?after=0&"+name+"=1&"+name+"=1", "query."+name)
	case schema["$ref"] != nil: // an enum
		for _, value := range []string{"", "x", "POWER", "power,itl"} {
			wrong(path+"?"+name+"="+url.QueryEscape(value), "query."+name)
		}
	case strings.HasPrefix(path, "/v1/recording"):
		wrong(path+"?"+name+"=", "query."+name)
		wrong(path+"?"+name+"=a&"+name+"=b", "query."+name)
	case schema["type"] == "string" && asInt(schema["minLength"]) == 1:
		wrong(path+"?after=0&"+name+"=", "query."+name)
		wrong(path+"?after=0&"+name+"=a&"+name+"=b", "query."+name)
		wrong(path+"?"+name+"=a", "query."+name)
	default:
		t.Errorf("%s: no wrong values known for %v", path, p)
	}
}

// Every query parameter and header, likewise.
func TestEveryParameterWrong(t *testing.T) {
	s := serve(t, nil)
	cases := 0
	for path, item := range s.doc.at("paths").(map[string]any) {
		for method, op := range item.(map[string]any) {
			verb, body := strings.ToUpper(method), ""
			if method == "post" {
				content := s.doc.at("paths", path, method, "requestBody", "content", "application/json").(map[string]any)
				body = s.doc.goodJSON(s.doc.schemaOf(content["schema"]))
			}
			wrong := func(target, location string, headers ...header) {
				t.Helper()
				cases++
				r := s.call(verb, target, body, headers...)
				if r.status != http.StatusUnprocessableEntity {
					t.Errorf("%s %s %q: %d %.200s", verb, target, headers, r.status, r.body)
					return
				}
				if at := r.locations(t); !slices.Contains(at, location) {
					t.Errorf("%s %s %q: it names %q, want %q", verb, target, headers, at, location)
				}
			}
			if strings.HasPrefix(path, "/v1/") {
				wrong(path+"?%zz", "query")
				wrong(path+"?a;b", "query")
				wrong(path+"?nonsense=1", "query.nonsense")
			}
			for _, p := range anys(op.(map[string]any)["parameters"]) {
				wrongParameter(t, path, s.doc.schemaOf(p), wrong)
			}
		}
	}
	if cases < 50 {
		t.Errorf("only %d cases: the description was not walked", cases)
	}
	wrongFollow := s.get("/v1/events?follow&nonsense=1")
	wrongFollow.wantProblem(t, http.StatusUnprocessableEntity, "query.nonsense")
	if n := len(s.site.given()); n > 0 {
		t.Errorf("%d commands were carried out", n)
	}
}

func asInt(v any) (n int) {
	fmt.Sscan(fmt.Sprint(v), &n)
	return n
}

// An answer to a body with a thousand mistakes does not repeat them all.
func TestManyMistakes(t *testing.T) {
	s := serve(t, nil)
	var members, good []string
	for i := range 3000 {
		members = append(members, fmt.Sprintf(`"m%d": "x"`, i))
		good = append(good, fmt.Sprintf(`"m%d": 8`, i))
	}
	r := s.post("/v1/batch-sizes", `{"batch_size_by_model": {`+strings.Join(members, ",")+`}}`)
	r.wantProblem(t, http.StatusUnprocessableEntity, "body.batch_size_by_model.m0")
	if len(r.body) > 10_000 || !strings.Contains(string(r.body), "2999 more") {
		t.Errorf("the answer has %d bytes: %.300s", len(r.body), r.body)
	}
	s.post("/v1/batch-sizes", `{"batch_size_by_model": {`+strings.Join(good, ",")+`}}`).wantProblem(t, http.StatusNotFound, "body.batch_size_by_model.m0")
	long := strings.Repeat("ö", 5_000)
	r = s.post("/v1/batch-sizes", `{"batch_size_by_model": {"`+long+`": "`+long+`"}, "`+long[:5_000]+`": 1}`)
	r.want(t, http.StatusUnprocessableEntity)
	if len(r.body) > 5_000 {
		t.Errorf("the answer has %d bytes", len(r.body))
	}
}
