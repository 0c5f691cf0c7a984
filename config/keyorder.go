package config

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/g2g-agent/g2g-agent/internal/textfile"
)

// KeyOrder is the order in which a config file has the keys of its maps, which a
// [Config] does not keep: for request bodies, whose bytes it decides.
type KeyOrder struct{ keys map[string][]string }

// maxOrdered bounds the values that are looked at: aliases of aliases can stand for
// any number.
const maxOrdered = 1 << 20

// KeyOrder is the order of a file that [File.Load] takes. Errors name it.
func (f *File) KeyOrder() (KeyOrder, error) {
	order := KeyOrder{map[string][]string{}}
	text, pairs := hidePairs(textfile.ToUTF8(f.text))
	doc, err := loadYAML(text)
	if err != nil {
		return order, &Error{f.Name(), yamlProblems(err, text)}
	}
	if doc != nil {
		r := resolver{pairs: pairs}
		r.resolve(doc, "")
		left := maxOrdered
		order.note(doc, nil, &left)
	}
	return order, nil
}

func (o KeyOrder) note(n *yaml.Node, path []string, left *int) {
	if *left--; *left < 0 {
		return // what is left has the order of its names
	}
	switch n.Kind {
	case yaml.DocumentNode:
		for _, child := range n.Content {
			o.note(child, path, left)
		}
	case yaml.AliasNode:
		o.note(n.Alias, path, left)
	case yaml.SequenceNode:
		for i, child := range n.Content {
			o.note(child, append(slices.Clip(path), fmt.Sprint(i)), left)
		}
	case yaml.MappingNode:
		o.noteMap(n, path, left)
	}
}

// noteMap notes the keys of a map, those that are merged into it first.
func (o KeyOrder) noteMap(n *yaml.Node, path []string, left *int) {
	at := strings.Join(path, pathDelim)
	for i := 0; i+1 < len(n.Content); i += 2 {
		if key, value := n.Content[i], n.Content[i+1]; key.Tag == mergeTag {
			o.noteMerged(value, path, left)
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Tag == mergeTag {
			continue
		}
		if !slices.Contains(o.keys[at], key.Value) {
			o.keys[at] = append(o.keys[at], key.Value)
		}
		o.note(value, append(slices.Clip(path), key.Value), left)
	}
}

// noteMerged notes the keys of a map, or of several, as if they stood at path.
func (o KeyOrder) noteMerged(value *yaml.Node, path []string, left *int) {
	if value.Kind == yaml.SequenceNode {
		for _, child := range value.Content {
			o.note(child, path, left)
		}
		return
	}
	o.note(value, path, left)
}

// Sort sorts the names of a map's keys as the file has them; those that it does not
// have, such as keys from the environment, come last, by name. The path leads to the
// map, with lists counted from 0: models, 0, live, request_extra_body.
func (o KeyOrder) Sort(names []string, path ...string) {
	known := map[string]int{}
	for i, key := range o.keys[strings.Join(path, pathDelim)] {
		known[key] = i
	}
	slices.SortFunc(names, func(a, b string) int {
		i, hasA := known[a]
		j, hasB := known[b]
		switch {
		case hasA && hasB:
			return i - j
		case hasA:
			return -1
		case hasB:
			return 1
		}
		return strings.Compare(a, b)
	})
}
