package workload

import (
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
)

func FuzzReadTable(f *testing.F) {
	seen := slices.Sorted(maps.Values(v01()))
	for _, text := range append(seen, "", "\xef\xbb\xbfa,b\r\n1,2\r\n", "a,b\n\"1\n", "a,b\n1,2,3\n", "b , a\n 8.0 ,\t1e3\n", "a,a,b\n", "a,b\n0x1,nan\n") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		line := 1
		err := readTableFrom(strings.NewReader(text), "F", []string{"a", "b"}, func(row *table) error {
			if row.line <= line {
				t.Errorf("line %d follows line %d", row.line, line)
			}
			line = row.line
			if row.text(0) != strings.TrimSpace(row.text(0)) {
				t.Errorf("%q has blanks around it", row.text(0))
			}
			v, err := row.finite(0)
			if err == nil && (math.IsNaN(v) || math.IsInf(v, 0)) {
				t.Errorf("%q reads as %v", row.text(0), v)
			}
			if n, err := row.positiveInt(1); err == nil && n < 1 {
				t.Errorf("%q reads as %d", row.text(1), n)
			}
			return err
		})
		if err != nil {
			wantFileError(t, err, "F")
		}
	})
}
