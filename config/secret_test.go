package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecretsInFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	read := func(text string) (string, error) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return ReadSecret(file)
	}
	for _, text := range []string{"secret", "secret\n", "secret\r\n", "\n\n secret \t\n", "\xef\xbb\xbfsecret\r\n", "\xef\xbb\xbf\nsecret"} {
		if got, err := read(text); got != "secret" || err != nil {
			t.Errorf("%q is read as %q (%v)", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"":                                 "is empty",
		" \r\n":                            "is empty",
		"\xef\xbb\xbf\n":                   "is empty",
		"two words":                        "holds something else than one word",
		"s\x00ecret":                       "is text in UTF-16",
		"\xff\xfes\x00e\x00\r\x00\n\x00":   "is text in UTF-16",
		"geheim\x1b":                       "holds something else than one word",
		"\xef\xbb\xbf\xef\xbb\xbfgeheim":   "holds something else than one word",
		strings.Repeat("x", 1+16<<10):      "has more than 16384 bytes",
		strings.Repeat("\n", 17<<10) + "x": "has more than 16384 bytes",
	} {
		if got, err := read(text); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%.20q is read as %q (%v), want an error with %q", text, got, err, want)
		}
	}
}
