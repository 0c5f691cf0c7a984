package textfile

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestStrip(t *testing.T) {
	for raw, want := range map[string]string{
		"":                           "",
		"a":                          "a",
		"ab\x00":                     "ab\x00",
		"\xef\xbb\xbf":               "",
		"\xef\xbb\xbfa":              "a",
		"\xef\xbb\xbf\xef\xbb\xbfa":  "\xef\xbb\xbfa",
		"\xef\xbb":                   "\xef\xbb",
		"\xc3\xa4":                   "ä",
		"a\xef\xbb\xbf":              "a\xef\xbb\xbf",
		"\xef\xbb\xbf{\"a\": 1}\r\n": "{\"a\": 1}\r\n",
	} {
		got, err := Strip([]byte(raw))
		if err != nil || string(got) != want {
			t.Errorf("Strip(%q) = %q, %v, want %q", raw, got, err, want)
		}
		for name, r := range map[string]io.Reader{"at once": strings.NewReader(raw), "a byte at a time": iotest.OneByteReader(strings.NewReader(raw))} {
			if got, err := io.ReadAll(NewReader(r)); err != nil || string(got) != want {
				t.Errorf("%q read %s is %q, %v, want %q", raw, name, got, err, want)
			}
		}
	}
}

func TestUTF16IsRefused(t *testing.T) {
	for _, raw := range []string{"\xff\xfe", "\xff\xfea\x00", "\xfe\xff\x00a", "a\x00b\x00", "\x00a\x00b", "\xff\xfe\x00\x00a\x00\x00\x00", "\x00\x00\xfe\xff", "a\x00\x00\x00", "\x00\x00\x00a"} {
		if got, err := Strip([]byte(raw)); !errors.Is(err, ErrUTF16) {
			t.Errorf("Strip(%q) = %q, %v", raw, got, err)
		}
		// Without a mark a NUL byte is all that is known.
		if got, err := Strip([]byte(raw)); strings.Contains(err.Error(), "is NUL") != (raw[0] < 0x80) {
			t.Errorf("Strip(%q) = %q, %v", raw, got, err)
		}
		r := NewReader(iotest.OneByteReader(strings.NewReader(raw)))
		for range 2 { // and it stays so
			if _, err := r.Read(make([]byte, 8)); !errors.Is(err, ErrUTF16) {
				t.Errorf("reading %q: %v", raw, err)
			}
		}
	}
}

func TestReadErrorsPass(t *testing.T) {
	broken := errors.New("the disk is gone")
	if _, err := io.ReadAll(NewReader(io.MultiReader(strings.NewReader("ab"), iotest.ErrReader(broken)))); !errors.Is(err, broken) {
		t.Errorf("the error is %v", err)
	}
}

func TestToUTF8(t *testing.T) {
	for raw, want := range map[string]string{
		"":                                 "",
		"ä":                                "ä",
		"\xef\xbb\xbfä":                    "ä",
		"\xff\xfea\x00\xe4\x00":            "aä",
		"\xfe\xff\x00a\x00\xe4":            "aä",
		"\xff\xfe\x3d\xd8\x0b\xdd":         "\U0001F50B",
		"\xff\xfe\x3d\xd8":                 "\uFFFD",
		"\xff\xfea":                        "\uFFFD",
		"\xfe\xff\x00a\x00":                "a\uFFFD",
		"\xff\xfe#\x00\r\x00\n\x00a\x00":   "#\r\na",
		"\xff\xfe":                         "",
		"\xef\xbb\xbf\xff\xfea\x00b\x00\n": "\xff\xfea\x00b\x00\n",
	} {
		if got := ToUTF8([]byte(raw)); string(got) != want {
			t.Errorf("ToUTF8(%q) = %q, want %q", raw, got, want)
		}
	}
}
