package stream

import (
	"net/url"
	"strconv"
	"testing"
)

// FuzzAfter: whatever the query, after is a number from 0 that stands there, or
// refused.
func FuzzAfter(f *testing.F) {
	for _, query := range []string{"follow", "follow&after=3", "after=", "after=-1", "after=1&after=2", "after=%zz", "after=1;2", "after=+1", "after=0x1"} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		after, given, err := AfterOf(query)
		if err != nil || !given {
			return
		}
		values, err := url.ParseQuery(query)
		if n, parseErr := strconv.ParseInt(values.Get("after"), 10, 64); err != nil || parseErr != nil || n != after || after < 0 {
			t.Errorf("the after of %q is %d", query, after)
		}
	})
}
