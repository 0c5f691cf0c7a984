package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// EnvPrefix begins the environment variables that set keys; levels are parted
// by two underscores, as in G2G_AGENT_API__LISTEN, and elements of a list are
// numbered, as in G2G_AGENT_MODELS__0__MODEL_LABEL.
const EnvPrefix = "G2G_AGENT_"

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

// The purposes. A replay needs a data directory and a capacity.
const (
	ForAnything Purpose = iota
	ForReplay
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
		return nil, []Problem{{"", strings.ReplaceAll(err.Error(), "\n", " ")}}
	}
	tree := k.Raw()
	problems := applyEnv(tree, environ)
	c := Default()
	problems = append(problems, decode(tree, &c)...)
	if len(problems) > 0 {
		// A value that could not be read would only be complained of twice.
		unread := map[string]bool{}
		for _, p := range problems {
			unread[p.Path] = true
		}
		for _, p := range c.validate(purpose) {
			if !unread[p.Path] {
				problems = append(problems, p)
			}
		}
		return nil, problems
	}
	if problems = c.validate(purpose); len(problems) > 0 {
		return nil, problems
	}
	return &c, nil
}

// envValue is a value from the environment: text that is also read as YAML,
// whichever the key asks for.
type envValue struct {
	text   string
	parsed any
}

// applyEnv sets the keys that the environment names in tree.
func applyEnv(tree map[string]any, environ []string) []Problem {
	k := koanf.New(pathDelim)
	var problems []Problem
	provider := env.Provider(pathDelim, env.Opt{
		Prefix:      EnvPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, text string) (string, any) {
			path := strings.Split(strings.ToLower(strings.TrimPrefix(name, EnvPrefix)), envLevels)
			if err := setKey(tree, path, parseEnvValue(text)); err != nil {
				problems = append(problems, Problem{strings.Join(path, "."), fmt.Sprintf("%s: %v", name, err)})
			}
			return "", nil // set above, where lists can be indexed
		},
	})
	if err := k.Load(provider, nil); err != nil {
		problems = append(problems, Problem{"", err.Error()})
	}
	return problems
}

func parseEnvValue(text string) envValue {
	if m, err := yaml.Parser().Unmarshal([]byte("value: " + text)); err == nil && len(m) == 1 {
		return envValue{text, m["value"]}
	}
	return envValue{text, text}
}

// setKey sets the value at path, making maps on the way; a number indexes a list
// that is already there.
func setKey(node any, path []string, value envValue) error {
	key, last := path[0], len(path) == 1
	switch node := node.(type) {
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
			return fmt.Errorf("%q does not index a list of %d", key, len(node))
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

// decode fills c from the tree, strictly.
func decode(tree map[string]any, c *Config) []Problem {
	var meta mapstructure.Metadata
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result:     c,
		Metadata:   &meta,
		TagName:    "koanf",
		MatchName:  func(key, field string) bool { return key == field },
		DecodeHook: decodeHook,
		// A list in the file replaces the default list.
		ZeroFields: true,
	})
	if err != nil {
		return []Problem{{"", err.Error()}}
	}
	problems := decodeProblems(decoder.Decode(tree))
	slices.Sort(meta.Unused)
	for _, path := range meta.Unused {
		problems = append(problems, Problem{path, "unknown key" + suggestion(path)})
	}
	return problems
}

// decodeHook reads the types of ours and refuses what mapstructure would bend.
func decodeHook(from, to reflect.Value) (any, error) {
	value := from.Interface()
	if v, ok := value.(envValue); ok {
		if value = v.parsed; to.Kind() == reflect.String {
			value = v.text
		}
		if value == nil {
			return nil, nil
		}
		from = reflect.ValueOf(value)
	}
	if to.Type() == reflect.TypeFor[datacenter.Seconds]() {
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
	if from.Kind() == reflect.Float64 && (to.CanInt() || to.CanUint()) {
		if f := from.Float(); f != float64(int64(f)) {
			return nil, fmt.Errorf("want a whole number, got %v", f)
		}
	}
	if from.Kind() == reflect.Map && to.Kind() == reflect.Slice {
		return nil, fmt.Errorf("want a list, got a map")
	}
	return value, nil
}

// decodeProblems words mapstructure's errors.
func decodeProblems(err error) []Problem {
	if err == nil {
		return nil
	}
	var one *mapstructure.DecodeError
	if e, ok := err.(*mapstructure.DecodeError); ok { //nolint:errorlint // the tree is walked node by node
		one = e
	} else {
		var all []Problem
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range many.Unwrap() {
				all = append(all, decodeProblems(e)...)
			}
			return all
		}
		if inner := errors.Unwrap(err); inner != nil {
			return decodeProblems(inner)
		}
		return []Problem{{"", err.Error()}}
	}
	var mismatch *mapstructure.UnconvertibleTypeError
	if errors.As(one, &mismatch) {
		return []Problem{{one.Name(), fmt.Sprintf("want %s, got %s", kindWord(mismatch.Expected.Type()), describe(mismatch.Value))}}
	}
	return []Problem{{one.Name(), one.Unwrap().Error()}}
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

// resolvePaths makes relative paths relative to the config file's directory.
func (c *Config) resolvePaths(dir string) {
	paths := []*string{&c.Replay.DataDir, &c.Live.RequestsDir, &c.API.TokenFile, &c.API.TLSCertFile, &c.API.TLSKeyFile}
	for i := range c.Training {
		paths = append(paths, &c.Training[i].Trace)
	}
	for i := range c.Models {
		if c.Models[i].Live == nil {
			continue
		}
		for j := range c.Models[i].Live.GPUEndpoints {
			paths = append(paths, &c.Models[i].Live.GPUEndpoints[j].TokenFile)
		}
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, filepath.FromSlash(*p))
		}
	}
}
