package excerpt

import "testing"

func TestOf(t *testing.T) {
	for _, c := range []struct {
		text string
		most int
		want string
	}{
		{"", 0, ""}, {"abc", 3, "abc"}, {"abcd", 3, "abc…"}, {"aöb", 2, "a…"}, {"ö", 1, "…"}, {"€€", 5, "€…"}, {"\x80\x80\x80\x80\x80\x80\x80", 6, "\x80\x80\x80\x80\x80\x80…"},
	} {
		if got := Of(c.text, c.most); got != c.want {
			t.Errorf("%q cut to %d bytes: got %q, want %q", c.text, c.most, got, c.want)
		}
	}
}
