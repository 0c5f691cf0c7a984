package datacenter

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the table of events in docs/api.md")

func TestEventTopicsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, kind := range EventKinds() {
		topic := kind.Topic()
		if seen[topic] || !strings.HasPrefix(topic, "datacenter.") {
			t.Errorf("the topic %q stands there twice or does not begin with datacenter.", topic)
		}
		seen[topic] = true
		if found, ok := EventKindOf(topic); !ok || found.Topic() != topic {
			t.Errorf("the kind of %q is not found", topic)
		}
	}
	if _, ok := EventKindOf("datacenter.none"); ok {
		t.Error("a topic that there is not has a kind")
	}
}

// The table of events in the guide is written from the list.
func TestEventsInDocs(t *testing.T) {
	const file, begin, end = "../docs/api.md", "<!-- The table is written by go test ./datacenter -run EventsInDocs -update -->\n\n", "\n\n"
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(raw), begin)
	got, after, found2 := strings.Cut(rest, end)
	if !found || !found2 {
		t.Fatalf("%s has no table of events: it begins after the line %s", file, begin)
	}
	rows := []string{"| `topic` | `data` | Meaning |", "| --- | --- | --- |"}
	for _, kind := range EventKinds() {
		var members []string
		for _, f := range reflect.VisibleFields(reflect.TypeOf(kind.Zero)) {
			members = append(members, "`"+f.Tag.Get("json")+"`")
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s |", kind.Topic(), strings.Join(members, ", "), kind.Description))
	}
	want := strings.Join(rows, "\n")
	if *update {
		if err := os.WriteFile(file, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		got = want
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("go test ./datacenter -run %s -update rewrites %s; its table of events (-want +got):\n%s", t.Name(), file, diff)
	}
}
