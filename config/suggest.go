package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

// keysOf returns the keys of a section and what each is read into.
func keysOf(section reflect.Type) map[string]reflect.Type {
	keys := map[string]reflect.Type{}
	for i := range section.NumField() {
		keys[section.Field(i).Tag.Get("koanf")] = section.Field(i).Type
	}
	return keys
}

// suggestion names the known key nearest to key, or all of them if none is near.
func suggestion(key string, known map[string]reflect.Type) string {
	const near = 2
	best, bestDistance := "", min(near, len(key)/2)+1
	keys := slices.Sorted(maps.Keys(known))
	for _, k := range keys {
		if d := editDistance(key, k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	if best == "" {
		return "known are " + strings.Join(keys, ", ")
	}
	return "did you mean " + best + "?"
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
