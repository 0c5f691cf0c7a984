package config

import (
	"fmt"

	"go.yaml.in/yaml/v4"
)

// keyModels is where a config has its models.
const keyModels = "models"

// LoadSpecs is [File.Load] for a file that may also be a list of OpenG2G's model specs, in
// JSON or YAML, which is a config of nothing but models. What a spec of a list lacks has
// OpenG2G's default: a replica has one GPU, and all batch sizes are feasible.
func (f *File) LoadSpecs(environ []string) (*Config, error) {
	c, problems := parseWith(&yamlParser{specs: true}, f.text, environ, ForAnything, f.dir())
	if len(problems) > 0 {
		return nil, &Error{f.Name(), problems}
	}
	return c, nil
}

// wrapSpecs makes a document that is a list into a config with these models, and
// reports whether it is one.
func wrapSpecs(doc *yaml.Node) bool {
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.SequenceNode {
		return false
	}
	list := doc.Content[0]
	key := &yaml.Node{Kind: yaml.ScalarNode, Tag: textTag, Value: keyModels, Line: list.Line, Column: list.Column}
	doc.Content[0] = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: []*yaml.Node{key, list}, Line: list.Line, Column: list.Column}
	return true
}

// defaultSpecs gives the specs of a list what they lack.
func defaultSpecs(tree map[string]any) (problems []Problem) {
	specs, _ := tree[keyModels].([]any)
	for i, entry := range specs {
		spec, ok := entry.(map[string]any)
		if !ok {
			problems = append(problems, Problem{fmt.Sprintf("%s[%d]", keyModels, i), "want an object"})
			continue
		}
		if spec["feasible_batch_sizes"] == nil {
			spec["feasible_batch_sizes"] = spec["batch_sizes"]
		}
		if spec["gpus_per_replica"] == nil {
			spec["gpus_per_replica"] = 1
		}
	}
	return problems
}
