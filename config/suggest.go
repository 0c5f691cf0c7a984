package config

import (
	"reflect"
	"strings"
)

// suggestion returns "; did you mean …?" for the known key nearest to the last
// part of path, if one is near.
func suggestion(path string) string {
	key := path[strings.LastIndex(path, ".")+1:]
	best, bestDistance := "", 3
	for _, known := range knownKeys(reflect.TypeFor[Config](), nil) {
		if d := editDistance(key, known); d < bestDistance {
			best, bestDistance = known, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

func knownKeys(t reflect.Type, keys []string) []string {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		return knownKeys(t.Elem(), keys)
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); f.Tag.Get("koanf") != "" {
				keys = knownKeys(f.Type, append(keys, f.Tag.Get("koanf")))
			}
		}
	}
	return keys
}

// editDistance is the Levenshtein distance, in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
