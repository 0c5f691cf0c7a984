package config

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// envPrefix begins the environment variables that set keys; levels are parted
// by two underscores, as in G2G_AGENT_API__LISTEN, and elements of a list are
// numbered, as in G2G_AGENT_MODELS__0__MODEL_LABEL.
const envPrefix = "G2G_AGENT_"

const (
	envLevels = "__"
	// pathDelim parts the levels of a key inside koanf. It must not occur in a
	// key, and a model label may well hold a dot.
	pathDelim = "\x1f"
	// maxFileBytes bounds the config file.
	maxFileBytes = 16 << 20
)

// Error is everything wrong with a configuration. It wraps
// [datacenter.ErrInvalidInput].
type Error struct {
	File     string
	Problems []Problem
}

// Problem is one broken rule.
type Problem struct {
	// Path is the key at fault, as models[0].gpus_per_replica; empty when the
	// file as a whole is meant.
	Path    string
	Message string
}

func (p Problem) String() string {
	if p.Path == "" {
		return p.Message
	}
	return p.Path + ": " + p.Message
}

func (e *Error) Error() string {
	if len(e.Problems) == 1 {
		return fmt.Sprintf("%s: %s", e.File, e.Problems[0])
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d problems", e.File, len(e.Problems))
	for _, p := range e.Problems {
		b.WriteString("\n  " + p.String())
	}
	return b.String()
}

// Unwrap makes the error a [datacenter.ErrInvalidInput].
func (e *Error) Unwrap() error { return datacenter.ErrInvalidInput }

// Purpose is what a config is loaded for.
type Purpose int

// The purposes. A replay needs a data directory and a capacity; a live run needs
// each model's vLLM server and GPUs.
const (
	ForAnything Purpose = iota
	ForReplay
	ForLive
)

// Load reads the config file, lets the environment (as os.Environ gives it)
// override it, and validates the whole. The error is an [*Error] with all
// problems.
func Load(file string, environ []string, purpose Purpose) (*Config, error) {
	raw, err := readFile(file)
	if err != nil {
		return nil, &Error{file, []Problem{{"", err.Error()}}}
	}
	c, problems := parse(raw, environ, purpose)
	if len(problems) == 0 {
		c.resolvePaths(filepath.Dir(file))
		return c, nil
	}
	return nil, &Error{file, problems}
}

// Parse is [Load] for a config that is at hand as text; name stands for the file
// in errors, and relative paths stay as they are.
func Parse(name string, text []byte, environ []string, purpose Purpose) (*Config, error) {
	c, problems := parse(text, environ, purpose)
	if len(problems) > 0 {
		return nil, &Error{name, problems}
	}
	return c, nil
}

func readFile(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err == nil && info.Mode().IsRegular() && info.Size() > maxFileBytes {
		return nil, fmt.Errorf("has %d bytes, a config has at most %d", info.Size(), maxFileBytes)
	}
	raw, err := os.ReadFile(file)
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return nil, pathErr.Err
	}
	return raw, err
}

// parse turns a config file's text and the environment into a valid config or
// the problems that prevent it.
func parse(raw []byte, environ []string, purpose Purpose) (*Config, []Problem) {
	k := koanf.New(pathDelim)
	if err := k.Load(rawbytes.Provider(raw), yaml.Parser()); err != nil {
		return nil, yamlProblems(err)
	}
	if line := secondDocument(raw); line > 0 {
		return nil, []Problem{{"", fmt.Sprintf("line %d: a second YAML document begins; a config is a single one", line)}}
	}
	tree := k.Raw()
	problems := applyEnv(tree, environ)
	var t tidier
	t.tidy(tree, reflect.TypeFor[Config](), "")
	c := Default()
	r := &rules{unread: slices.Concat(problems, t.missing, decode(tree, &c))}
	c.validate(r, purpose)
	problems = slices.Concat(r.unread, t.unknown, r.problems)
	if len(problems) > 0 {
		return nil, problems
	}
	return &c, nil
}

// yamlProblems words the YAML parser's errors: a sentence each, with its line.
func yamlProblems(err error) []Problem {
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "yaml: "), "unmarshal errors:\n")
	// The value quoted in this one may itself span lines.
	if at, _, found := strings.Cut(text, ": cannot unmarshal "); found && strings.HasSuffix(strings.TrimSpace(text), " into map[string]interface {}") {
		return []Problem{{"", strings.TrimSpace(at) + ": a config is a map of keys, such as \"seed: 42\"; this file holds something else"}}
	}
	var problems []Problem
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			problems = append(problems, Problem{"", line})
		}
	}
	return problems
}

// secondDocument returns the line where a YAML stream's second document begins,
// 0 if there is none. Three hyphens at the start of a line mean nothing else.
func secondDocument(raw []byte) int {
	n, begun := 0, false
	for line := range bytes.Lines(raw) {
		n++
		line = bytes.TrimRight(line, "\r\n")
		marker, rest := bytes.HasPrefix(line, []byte("---")), bytes.TrimPrefix(line, []byte("---"))
		switch {
		case marker && (len(rest) == 0 || rest[0] == ' ' || rest[0] == '\t'):
			if begun {
				return n
			}
			begun = true
		case len(bytes.TrimSpace(line)) > 0 && line[0] != '#' && line[0] != '%':
			begun = true
		}
	}
	return 0
}

// envValue is a value from the environment: text that is also read as YAML,
// whichever the key asks for.
type envValue struct {
	name, text string
	parsed     any
}

// plain returns the value without envValues in it.
func plain(value any) any {
	switch value := value.(type) {
	case envValue:
		return value.parsed
	case map[string]any:
		for key, v := range value {
			value[key] = plain(v)
		}
	case []any:
		for i, v := range value {
			value[i] = plain(v)
		}
	}
	return value
}

// applyEnv sets the keys that the environment names in tree, outer ones first.
// (koanf's own provider for this knows no elements of lists.)
func applyEnv(tree map[string]any, environ []string) []Problem {
	var problems []Problem
	for _, variable := range slices.Sorted(slices.Values(environ)) {
		name, text, _ := strings.Cut(variable, "=")
		key, ours := strings.CutPrefix(name, envPrefix)
		if !ours {
			continue
		}
		path := strings.Split(strings.ToLower(key), envLevels)
		if err := setKey(tree, path, parseEnvValue(name, text)); err != nil {
			problems = append(problems, Problem{strings.Join(path, "."), fmt.Sprintf("%s: %v", name, err)})
		}
	}
	return problems
}

func parseEnvValue(name, text string) envValue {
	if m, err := yaml.Parser().Unmarshal([]byte("value: " + text)); err == nil && len(m) == 1 {
		return envValue{name, text, m["value"]}
	}
	return envValue{name, text, text}
}

// setKey sets the value at path, making maps on the way; a number indexes a list
// that is already there.
func setKey(node any, path []string, value envValue) error {
	key, last := path[0], len(path) == 1
	switch node := node.(type) {
	case envValue:
		return setKey(node.parsed, path, value)
	case map[string]any:
		if last {
			node[key] = value
			return nil
		}
		if node[key] == nil {
			node[key] = map[string]any{}
		}
		return setKey(node[key], path[1:], value)
	case []any:
		i, err := strconv.Atoi(key)
		if err != nil || i < 0 || i >= len(node) {
			return fmt.Errorf("%q does not index a list of %d; elements count from 0", key, len(node))
		}
		if last {
			node[i] = value
			return nil
		}
		return setKey(node[i], path[1:], value)
	default:
		return fmt.Errorf("%q lies below a key that holds a single value", key)
	}
}

// tidier walks a tree along the type it is meant for.
type tidier struct{ unknown, missing []Problem }

// tidy takes keys without a value out of the tree, so that they keep their
// defaults, and notes unknown keys and numbers left out of lists and maps.
func (w *tidier) tidy(node any, t reflect.Type, path string) {
	if v, ok := node.(envValue); ok {
		node = v.parsed
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch node := node.(type) {
	case nil:
		if k := t.Kind(); k == reflect.Int || k == reflect.Float64 {
			w.missing = append(w.missing, Problem{path, "want " + kindWord(t) + ", got nothing"})
		}
	case map[string]any:
		switch {
		case t == reflect.TypeFor[datacenter.Seconds](): // a single value, which decode complains of
		case t.Kind() == reflect.Struct:
			w.tidySection(node, t, path)
		case t.Kind() == reflect.Map:
			for _, key := range slices.Sorted(maps.Keys(node)) {
				w.tidy(node[key], t.Elem(), path+"."+key)
			}
		}
	case []any:
		if t.Kind() == reflect.Slice {
			for i := range node {
				w.tidy(node[i], t.Elem(), fmt.Sprintf("%s[%d]", path, i))
			}
		}
	}
}

func (w *tidier) tidySection(node map[string]any, t reflect.Type, path string) {
	fields := keysOf(t)
	for _, key := range slices.Sorted(maps.Keys(node)) {
		at := strings.TrimPrefix(path+"."+key, ".")
		switch field, known := fields[key]; {
		case !known:
			w.unknown = append(w.unknown, Problem{at, "unknown key" + origin(node[key]) + "; " + suggestion(key, fields)})
		case node[key] == nil, isEmptyEnv(node[key]) && field.Kind() != reflect.String:
			delete(node, key)
		default:
			w.tidy(node[key], field, at)
		}
	}
}

func isEmptyEnv(value any) bool {
	v, ok := value.(envValue)
	return ok && v.parsed == nil
}

// origin names the environment variable a value came from.
func origin(value any) string {
	if v, ok := value.(envValue); ok {
		return " from " + v.name
	}
	return ""
}

// decode fills c from the tidied tree, strictly.
func decode(tree map[string]any, c *Config) []Problem {
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result:     c,
		TagName:    "koanf",
		MatchName:  func(key, field string) bool { return key == field },
		DecodeHook: decodeHook,
		// A list in the file replaces the default list.
		ZeroFields: true,
	})
	if err != nil {
		return []Problem{{"", err.Error()}}
	}
	return decodeProblems(decoder.Decode(tree))
}

// decodeHook reads the types of ours and refuses what mapstructure would bend.
func decodeHook(from, to reflect.Value) (any, error) {
	value := from.Interface()
	if v, ok := value.(envValue); ok {
		if value = v.parsed; to.Kind() == reflect.String {
			value = v.text
		}
		from = reflect.ValueOf(value)
	}
	switch {
	case to.Type() == reflect.TypeFor[datacenter.Seconds]():
		return decodeSeconds(value)
	case to.Kind() == reflect.Interface:
		return plain(value), nil
	case to.Kind() == reflect.Slice && from.Kind() != reflect.Slice,
		(to.Kind() == reflect.Struct || to.Kind() == reflect.Map) && from.Kind() != reflect.Map:
		return nil, fmt.Errorf("want %s, got %s", kindWord(to.Type()), describe(value))
	case to.CanInt() || to.CanUint():
		return value, checkWhole(from, to.CanUint())
	default:
		return value, nil
	}
}

func decodeSeconds(value any) (any, error) {
	switch v := value.(type) {
	case string:
		return datacenter.ParseSeconds(v)
	case float64:
		return datacenter.SecondsOf(v)
	case int, int64, uint64:
		return datacenter.ParseSeconds(fmt.Sprint(v))
	default:
		return nil, fmt.Errorf("want a number of seconds such as 0.1 or \"1/10\", got %s", describe(value))
	}
}

// checkWhole refuses numbers that a whole number cannot hold.
func checkWhole(from reflect.Value, unsigned bool) error {
	switch {
	case from.CanFloat():
		if f := from.Float(); f != math.Trunc(f) || !finite(f) {
			return fmt.Errorf("want a whole number, got %v", f)
		} else if math.Abs(f) >= math.MaxInt64 {
			return fmt.Errorf("must be at most 2^63-1 in size, got %v", f)
		}
	case from.CanUint() && !unsigned && from.Uint() > math.MaxInt64:
		return fmt.Errorf("must be at most 2^63-1 in size, got %d", from.Uint())
	}
	if unsigned && (from.CanInt() && from.Int() < 0 || from.CanFloat() && from.Float() < 0) {
		return fmt.Errorf("must be >= 0, got %v", from.Interface())
	}
	return nil
}

// decodeProblems words mapstructure's errors.
func decodeProblems(err error) []Problem {
	switch e := err.(type) { //nolint:errorlint // the tree is walked node by node
	case nil:
		return nil
	case *mapstructure.DecodeError:
		return []Problem{decodeProblem(e)}
	case interface{ Unwrap() []error }:
		var all []Problem
		for _, inner := range e.Unwrap() {
			all = append(all, decodeProblems(inner)...)
		}
		return all
	case interface{ Unwrap() error }:
		return decodeProblems(e.Unwrap())
	default:
		return []Problem{{"", err.Error()}}
	}
}

func decodeProblem(err *mapstructure.DecodeError) Problem {
	path := keyPath(err.Name())
	var mismatch *mapstructure.UnconvertibleTypeError
	if !errors.As(err, &mismatch) {
		return Problem{path, err.Unwrap().Error()}
	}
	message := fmt.Sprintf("want %s, got %s", kindWord(mismatch.Expected.Type()), describe(mismatch.Value))
	if kind := reflect.ValueOf(mismatch.Value).Kind(); mismatch.Expected.Kind() == reflect.String && kind != reflect.Slice && kind != reflect.Map {
		message += "; put it in quotes"
	}
	return Problem{path, message}
}

// keyPath spells mapstructure's name of a field as rules do, where the keys of
// maps are parted by dots.
func keyPath(name string) string {
	if outer, label, found := strings.Cut(name, ".set_batch_size["); found {
		return outer + ".set_batch_size." + strings.TrimSuffix(label, "]")
	}
	return name
}

func kindWord(t reflect.Type) string {
	switch k := t.Kind(); {
	case k == reflect.String:
		return "a text"
	case k == reflect.Bool:
		return "true or false"
	case k >= reflect.Int && k <= reflect.Uint64:
		return "a whole number"
	case k == reflect.Float64:
		return "a number"
	case k == reflect.Slice:
		return "a list"
	case k == reflect.Pointer:
		return kindWord(t.Elem())
	default:
		return "a map"
	}
}

func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "nothing"
	case string:
		return strconv.Quote(v)
	case map[string]any, map[any]any:
		return "a map"
	case []any:
		return "a list"
	default:
		return fmt.Sprint(v)
	}
}
