package config

import (
	"reflect"
	"slices"
	"strconv"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/reread"
)

// Reload is [Load] for a file that was read before: it keeps nobody waiting, and so
// must be a regular one.
func Reload(file string, environ []string, purpose Purpose) (*Config, error) {
	f, err := newFile(file, func(name string) ([]byte, error) { return reread.File(name, maxFileBytes) })
	if err != nil {
		return nil, err
	}
	return f.Load(environ, purpose)
}

// reloadableKeys are the keys that a running agent takes over from a config that
// is read again. What stands in the files of tokens and certificates it reads
// again in any case.
func reloadableKeys() []string {
	return []string{"log.level", "api.token_file", "api.read_token_file", "control.default_lease_s"}
}

// Changes returns the paths of the keys in which two configs differ, in the order
// of the config: those that a running agent takes over, and those that need a
// restart. A list whose length differs is one difference, as is a map.
func Changes(before, after *Config) (reloadable, restart []string) {
	for _, path := range differences(reflect.ValueOf(*before), reflect.ValueOf(*after), "") {
		if slices.Contains(reloadableKeys(), path) {
			reloadable = append(reloadable, path)
		} else {
			restart = append(restart, path)
		}
	}
	return reloadable, restart
}

// differences walks two values of one type.
func differences(a, b reflect.Value, path string) []string {
	switch {
	case reflect.DeepEqual(a.Interface(), b.Interface()):
		return nil
	case a.Kind() == reflect.Pointer && !a.IsNil() && !b.IsNil():
		return differences(a.Elem(), b.Elem(), path)
	case a.Kind() == reflect.Struct && a.Type() != reflect.TypeFor[datacenter.Seconds]():
		var paths []string
		for i := range a.NumField() {
			key := a.Type().Field(i).Tag.Get("koanf")
			if path != "" {
				key = path + "." + key
			}
			paths = append(paths, differences(a.Field(i), b.Field(i), key)...)
		}
		return paths
	case a.Kind() == reflect.Slice && a.Type().Elem().Kind() == reflect.Struct && a.Len() == b.Len():
		var paths []string
		for i := range a.Len() {
			paths = append(paths, differences(a.Index(i), b.Index(i), path+"["+strconv.Itoa(i)+"]")...)
		}
		return paths
	default:
		return []string{path}
	}
}
