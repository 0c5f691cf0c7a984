package config

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/decimal"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
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
	// maxQuoted bounds what a message repeats of a value, in bytes.
	maxQuoted = 100
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

// maxMessage bounds what is said of a problem, and its path, in bytes.
const maxMessage = 4096

// String is bounded and fit for a terminal, whatever the file holds.
func (p Problem) String() string {
	message := excerpt.Printable(p.Message, maxMessage, '\n')
	if p.Path == "" {
		return message
	}
	return excerpt.Printable(p.Path, maxMessage) + ": " + message
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

// Load is [ReadFile] and [File.Load].
func Load(file string, environ []string, purpose Purpose) (*Config, error) {
	f, err := ReadFile(file)
	if err != nil {
		return nil, err
	}
	return f.Load(environ, purpose)
}

// Parse is [Load] for a config that is at hand as text; name stands for the file
// in errors, and relative paths stay as they are.
func Parse(name string, text []byte, environ []string, purpose Purpose) (*Config, error) {
	c, problems := parse(text, environ, purpose, "")
	if len(problems) > 0 {
		return nil, &Error{name, problems}
	}
	return c, nil
}

// parse turns a config file's text and the environment into a valid config or
// the problems that prevent it. Relative paths are relative to dir.
func parse(raw []byte, environ []string, purpose Purpose, dir string) (*Config, []Problem) {
	return parseWith(&yamlParser{}, raw, environ, purpose, dir)
}

// parseWith is parse with a parser of its own.
func parseWith(parser *yamlParser, raw []byte, environ []string, purpose Purpose, dir string) (*Config, []Problem) {
	k := koanf.New(pathDelim)
	if err := k.Load(rawbytes.Provider(raw), parser); err != nil {
		if len(parser.problems) == 0 { // koanf's own
			return nil, []Problem{{Message: err.Error()}}
		}
		return nil, parser.problems
	}
	tree := k.Raw()
	if parser.isList {
		if problems := defaultSpecs(tree); len(problems) > 0 {
			return nil, problems
		}
	}
	problems := slices.Concat(parser.numbers, applyEnv(tree, environ))
	var t tidier
	t.tidy(tree, reflect.TypeFor[Config](), "")
	c := Default()
	unread := newProblemSet(slices.Concat(problems, t.unread)...)
	for _, p := range decode(tree, &c) {
		if !unread.at[p.Path] {
			unread.add(p)
		}
	}
	r := &rules{unread: unread, problems: newProblemSet()}
	c.resolvePaths(dir)
	c.validate(r, purpose)
	problems = slices.Concat(unread.list, t.unknown, r.problems.list)
	if len(problems) > 0 {
		return nil, problems
	}
	return &c, nil
}

// envValue is a value from the environment: text that is also read as YAML,
// whichever the key asks for.
type envValue struct {
	name, text string
	parsed     any
	numbers    []Problem // what readYAML tells of numbers, with paths below the key
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
func applyEnv(tree map[string]any, environ []string) []Problem {
	var problems []Problem
	for _, variable := range slices.Sorted(slices.Values(environ)) {
		name, text, _ := strings.Cut(variable, "=")
		key, ours := strings.CutPrefix(name, envPrefix)
		if !ours || isClients(key) || isServiceLink(key, text) {
			continue
		}
		path := strings.Split(strings.ToLower(key), envLevels)
		if err := setKey(tree, path, parseEnvValue(name, text)); err != nil {
			problems = append(problems, Problem{strings.Join(path, "."), fmt.Sprintf("%s: %v", excerpt.Printable(name, maxQuoted), err)})
		}
	}
	return problems
}

// isServiceLink reports whether a variable is one that a cluster puts into the
// containers of a namespace for each Service in it: for one of the name g2g-agent,
// those that begin with our prefix, and for g2g-agent-metrics as well. The latter must
// look it, since they might be keys that are mistyped.
func isServiceLink(key, text string) bool {
	if strings.Contains(key, envLevels) {
		return false // no name of a Service gives this
	}
	const own = `^(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_[A-Z]+(_[A-Z_]+)?)?)$`
	if regexp.MustCompile(own).MatchString(key) {
		return true
	}
	for name, value := range map[string]string{
		`_SERVICE_HOST$`:                           `^[0-9a-fA-F.:]+$`,
		`_SERVICE_PORT(_[A-Z0-9_]+)?$`:             `^[0-9]+$`,
		`_PORT(_[0-9]+_(TCP|UDP|SCTP))?$`:          `^(tcp|udp|sctp)://`,
		`_PORT_[0-9]+_(TCP|UDP|SCTP)_PROTO$`:       `^(tcp|udp|sctp)$`,
		`_PORT_[0-9]+_(TCP|UDP|SCTP)_(PORT|ADDR)$`: `^[0-9a-fA-F.:]+$`,
	} {
		if regexp.MustCompile(name).MatchString(key) && regexp.MustCompile(value).MatchString(text) {
			return true
		}
	}
	return false
}

func parseEnvValue(name, text string) envValue {
	const key = "value"
	m, numbers, problems := readYAML([]byte(key+": "+text), nil)
	if len(problems) > 0 || len(m) != 1 {
		return envValue{name: name, text: text, parsed: text}
	}
	for i := range numbers {
		numbers[i].Path = strings.TrimPrefix(numbers[i].Path, key)
	}
	return envValue{name, text, m[key], numbers}
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
		if err != nil || i < 0 || i >= len(node) || strconv.Itoa(i) != key {
			return fmt.Errorf("%s does not index a list of %d; elements count from 0", excerpt.Quote(key, maxQuoted), len(node))
		}
		if last {
			node[i] = value
			return nil
		}
		return setKey(node[i], path[1:], value)
	default:
		return fmt.Errorf("%s lies below a key that holds a single value", excerpt.Quote(key, maxQuoted))
	}
}

// tidier walks a tree along the type it is meant for.
type tidier struct{ unknown, unread []Problem }

// tidy takes keys without a value out of the tree, so that they keep their
// defaults, and notes unknown keys, numbers left out of lists and maps, and those
// in the environment that could be meant in two ways.
func (w *tidier) tidy(node any, t reflect.Type, path string) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if v, ok := node.(envValue); ok {
		node = v.parsed
		for _, p := range v.numbers {
			if t.Kind() != reflect.String {
				w.unread = append(w.unread, Problem{path + p.Path, p.Message})
			}
		}
	}
	switch node := node.(type) {
	case nil:
		if k := t.Kind(); k == reflect.Int || k == reflect.Float64 {
			w.unread = append(w.unread, Problem{path, "want " + kindWord(t) + ", got nothing"})
		}
	case map[string]any:
		switch {
		case t == reflect.TypeFor[datacenter.Seconds](): // a single value, which decode complains of
		case t.Kind() == reflect.Struct:
			w.tidySection(node, t, path)
		case t.Kind() == reflect.Map, t.Kind() == reflect.Interface:
			if t.Kind() == reflect.Map {
				t = t.Elem()
			}
			for _, key := range slices.Sorted(maps.Keys(node)) {
				w.tidy(node[key], t, path+"."+key)
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
			at = strings.TrimPrefix(path+"."+excerpt.Printable(key, maxQuoted), ".")
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
		return " from " + excerpt.Printable(v.name, maxQuoted)
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
		for part := range strings.SplitSeq(v, "/") {
			if written := decimal.Of(strings.TrimSpace(part)); !decimal.Plain(strings.TrimSpace(part)) && written != "" {
				return nil, fmt.Errorf("want a number in decimal digits, such as %s, got %s", written, describe(v))
			}
		}
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
		return excerpt.Quote(v, maxQuoted)
	case map[string]any, map[any]any:
		return "a map"
	case []any:
		return "a list"
	default:
		return fmt.Sprint(v)
	}
}
