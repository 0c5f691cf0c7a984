package api

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// filled is the data of an event with a value in each member.
func filled(zero datacenter.EventData) datacenter.EventData {
	v := reflect.New(reflect.TypeOf(zero)).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString("small")
		case reflect.Int, reflect.Int64:
			f.SetInt(3)
		case reflect.Float64:
			f.SetFloat(1.5)
		case reflect.Slice:
			f.Set(reflect.ValueOf(datacenter.ByModel[int]{{ModelLabel: "small", Value: 8}}))
		default:
			panic(fmt.Sprintf("%T has a member of a kind that is not known here", zero))
		}
	}
	return v.Interface().(datacenter.EventData)
}

// Each event in the table is described, and no other.
func TestEveryEventIsDescribed(t *testing.T) {
	doc := serve(t, nil).doc
	type kind struct {
		Description string
		Members     []string
	}
	want, got := map[string]kind{}, map[string]kind{}
	var topics []any
	for _, k := range datacenter.EventKinds() {
		topics = append(topics, k.Topic())
		var members []string
		for _, f := range reflect.VisibleFields(reflect.TypeOf(k.Zero)) {
			members = append(members, f.Tag.Get("json"))
		}
		want[k.Topic()] = kind{k.Description, members}
		event := jsonOf(map[string]any{"id": 0, "wall_time": "2026-11-25T10:00:00Z", "time_s": 1, "topic": k.Topic(), "data": filled(k.Zero)})
		if err := doc.validate([]byte(event), "components", "schemas", "Event"); err != nil {
			t.Errorf("%s is not as described: %v", k.Topic(), err)
		}
	}
	described := doc.at("components", "schemas", "EventData", "x-by-topic").(map[string]any)
	used := map[string]bool{}
	for topic, v := range described {
		var k kind
		(&reply{body: []byte(jsonOf(v))}).into(t, &k)
		got[topic] = k
		for _, member := range k.Members {
			used[member] = true
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the kinds of events (-table +described):\n%s", diff)
	}
	if diff := cmp.Diff(topics, doc.at("components", "schemas", "Event", "properties", "topic", "x-extensible-enum")); diff != "" {
		t.Errorf("the topics of events (-table +described):\n%s", diff)
	}
	members := doc.at("components", "schemas", "EventData", "properties").(map[string]any)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(used)), slices.Sorted(maps.Keys(members))); diff != "" {
		t.Errorf("the members of events (-of topics +described):\n%s", diff)
	}
}

// What need not be there of a state is there in a live run, and in a replay is not.
func TestEveryStateIsDescribed(t *testing.T) {
	doc := serve(t, nil).doc
	schema := doc.schemaOf(doc.at("components", "schemas", "State"))
	optional := map[string]bool{}
	for member := range schema["properties"].(map[string]any) {
		optional[member] = !slices.Contains(anys(schema["required"]), any(member))
	}
	var live, replay map[string]any
	(&reply{body: liveState(1).AppendJSON(nil)}).into(t, &live)
	(&reply{body: replayState(1).AppendJSON(nil)}).into(t, &replay)
	for member, may := range optional {
		if live[member] == nil {
			t.Errorf("%s is described and not there in a live run", member)
		}
		if _, there := replay[member]; there == may {
			t.Errorf("%s: in a replay: %v, may be missing: %v", member, there, may)
		}
	}
}

// A client generated from the description has a class for each thing by a name, takes
// whatever is added to answers, and is told of what requests may not have.
func TestDescriptionIsForGenerators(t *testing.T) {
	doc := serve(t, nil).doc
	schemas := doc.at("components", "schemas").(map[string]any)
	for name, schema := range schemas {
		s := schema.(map[string]any)
		closed, isClosed := s["additionalProperties"].(bool)
		if isCommand := strings.HasSuffix(name, "Command"); isCommand != (isClosed && !closed) {
			t.Errorf("%s: closed: %v, want what is taken closed and what is sent open", name, isClosed && !closed)
		}
		if s["description"] == nil {
			t.Errorf("%s has no description", name)
		}
	}
	named := map[string]int{}
	eachSchema(doc.document, func(s map[string]any) {
		for _, word := range []string{"oneOf", "allOf", "unevaluatedProperties", "const", "not", "if"} {
			if s[word] != nil {
				t.Errorf("generators make nothing useful of %s: %.200s", word, jsonOf(s))
			}
		}
		if s["enum"] != nil {
			named["enum"]++
		}
		if s["properties"] != nil && s["type"] != nil {
			named["properties"]++
		}
		if either := anys(s["anyOf"]); either != nil && (len(either) != 2 || jsonOf(either[1]) != `{"type":"null"}`) {
			t.Errorf("a union: %.200s", jsonOf(s))
		}
	})
	direct := map[string]int{"enum": 1} // that of the header Idempotency-Replayed
	for _, schema := range schemas {
		for _, word := range []string{"enum", "properties"} {
			if schema.(map[string]any)[word] != nil {
				direct[word]++
			}
		}
	}
	if diff := cmp.Diff(direct, named); diff != "" {
		t.Errorf("objects and enums without a name of their own (-named +all):\n%s", diff)
	}
}

// The codes that the description names are those there are.
func TestEveryCodeIsDescribed(t *testing.T) {
	var want []any
	for _, c := range problem.Codes() {
		want = append(want, c.Code)
	}
	described := serve(t, nil).doc.at("components", "schemas", "Problem", "properties", "code", "x-extensible-enum")
	if diff := cmp.Diff(want, described); diff != "" {
		t.Errorf("the codes of problems (-table +described):\n%s", diff)
	}
}
