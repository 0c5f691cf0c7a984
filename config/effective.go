package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"reflect"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// Effective returns the config as JSON with all its keys, their defaults filled in, as
// a config file (JSON is YAML) may have them: loaded again from any folder, it gives the
// same run. Paths are absolute; of a secret there is the file's path alone. Null stands for a
// key that is not set and has no default of its own. The bytes are the same for the
// same config: keys by name, numbers in their shortest form, no spaces.
func (c *Config) Effective() (json.RawMessage, error) {
	e := effective{paths: map[*string]bool{}}
	for _, p := range c.paths() {
		e.paths[p] = true
	}
	text, err := json.Marshal(e.value(reflect.ValueOf(c).Elem()))
	if err == nil {
		err = e.err
	}
	if err != nil {
		return nil, fmt.Errorf("the effective config: %w", err)
	}
	return text, nil
}

// Digest is "sha256:" and the SHA-256 of [Config.Effective] in 64 hexadecimal digits: two
// runs with the same digest, data and program version are the same run.
func (c *Config) Digest() (string, error) {
	text, err := c.Effective()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// effective turns a config into what encoding/json writes with keys sorted.
type effective struct {
	paths map[*string]bool
	err   error // the first
}

func (e *effective) value(v reflect.Value) any {
	if s, ok := v.Interface().(datacenter.Seconds); ok {
		return exactSeconds(s)
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return e.value(v.Elem())
	case reflect.Struct:
		keys := map[string]any{}
		for i := range v.NumField() {
			keys[v.Type().Field(i).Tag.Get("koanf")] = e.value(v.Field(i))
		}
		return keys
	case reflect.Slice:
		return e.list(v)
	case reflect.Map:
		if v.IsNil() {
			return nil
		}
		keys := map[string]any{}
		for _, key := range v.MapKeys() {
			keys[key.String()] = e.value(v.MapIndex(key))
		}
		return keys
	case reflect.String:
		return e.text(v)
	case reflect.Float64:
		if f := v.Float(); math.IsNaN(f) || math.IsInf(f, 0) {
			return fmt.Sprint(f) // JSON has no such number
		}
	}
	return v.Interface()
}

// list is null where an empty list is refused, or means something else than none.
func (e *effective) list(v reflect.Value) any {
	if v.Len() == 0 {
		switch v.Interface().(type) {
		case []int, []float64, []LiveServer, []GPUEndpoint:
			return nil
		}
	}
	list := make([]any, v.Len())
	for i := range list {
		list[i] = e.value(v.Index(i))
	}
	return list
}

func (e *effective) text(v reflect.Value) string {
	text := v.String()
	if !v.CanAddr() || !e.paths[v.Addr().Interface().(*string)] || text == "" {
		return text
	}
	absolute, err := filepath.Abs(text)
	if err != nil && e.err == nil {
		e.err = err
	}
	return absolute
}

// exactSeconds is a number if that says it exactly, else a fraction.
func exactSeconds(s datacenter.Seconds) any {
	if f := s.Float64(); !math.IsInf(f, 0) {
		if same, err := datacenter.SecondsOf(f); err == nil && same.String() == s.String() {
			return f
		}
	}
	return s.String()
}
