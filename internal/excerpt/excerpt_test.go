package excerpt

import (
	"testing"
	"unicode/utf8"
)

func TestOf(t *testing.T) {
	for _, c := range []struct {
		text     string
		maxBytes int
		want     string
	}{
		{"", 10, ""},
		{" short", 10, " short"},
		{"0123456789", 10, "0123456789"},
		{"0123456789a", 10, "0123456789…"},
		{"012345678ä9", 10, "012345678…"},
		{"a\xffb", 10, "a\uFFFDb"},
		{"äää", 1, "…"},
	} {
		if got := Of(c.text, c.maxBytes); got != c.want {
			t.Errorf("%d bytes of %q are %q, want %q", c.maxBytes, c.text, got, c.want)
		}
	}
}

func FuzzOf(f *testing.F) {
	f.Add("ä\xffb …", 5)
	f.Fuzz(func(t *testing.T, text string, maxBytes int) {
		if maxBytes < 0 {
			return
		}
		if got := Of(text, maxBytes); len(got) > maxBytes+len(Sign) || !utf8.ValidString(got) {
			t.Errorf("%d bytes of %q are %q", maxBytes, text, got)
		}
	})
}
