package excerpt

import (
	"strconv"
	"strings"
	"testing"
	"unicode"
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

func TestQuote(t *testing.T) {
	for _, c := range []struct {
		text     string
		maxBytes int
		want     string
	}{
		{"", 10, `""`},
		{"a\x00b\x1b[2J\n", 20, `"a\x00b\x1b[2J\n"`},
		{"a\x00b\x1b[2J\n", 10, `"a\x00b\x1b"…`},
		{`a"b\c`, 20, `"a\"b\\c"`},
		{"a\xff", 10, `"a\xff"`},
		{"0123456789a", 10, `"0123456789"…`},
		{"012345678ä9", 10, `"012345678"…`},
	} {
		if got := Quote(c.text, c.maxBytes); got != c.want {
			t.Errorf("%d bytes of %q are quoted %s, want %s", c.maxBytes, c.text, got, c.want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "",
		"a b ä \U0001F50B":       "a b ä \U0001F50B",
		"\x00\x1b[31m\r\t\x7f":   `\x00\x1b[31m\r\t\x7f`,
		"a\nb":                   "a\nb",
		"right\u202eleft\u0085x": `right\u202eleft\u0085x`,
		"0123456789012345678901234567890123456789-": "0123456789012345678901234567890123456789…",
	} {
		if got := Printable(text, 40, '\n'); got != want {
			t.Errorf("%q is printed as %q, want %q", text, got, want)
		}
	}
}

func FuzzOf(f *testing.F) {
	f.Add("ä\xffb …", 5)
	f.Add("\x00\x1b\u202e\"\\\xff\U0001F50B", 400)
	f.Fuzz(func(t *testing.T, text string, maxBytes int) {
		if maxBytes < 0 {
			return
		}
		quoted, printable := Quote(text, maxBytes), Printable(text, maxBytes)
		if len(quoted) > maxBytes+len(Sign)+2 || len(printable) > maxBytes+len(Sign) || strings.ContainsFunc(quoted+printable, unicode.IsControl) {
			t.Errorf("%d bytes of %q are quoted as %s, printed as %s", maxBytes, text, quoted, printable)
		}
		if len(text) <= maxBytes/len(`\U0001F50B`) && quoted != strconv.Quote(text) {
			t.Errorf("%q is quoted as %s", text, quoted)
		}
		if got := Of(text, maxBytes); len(got) > maxBytes+len(Sign) || !utf8.ValidString(got) {
			t.Errorf("%d bytes of %q are %q", maxBytes, text, got)
		}
	})
}
