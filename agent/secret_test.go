package agent

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestSecretIsReadAgain: what a file holds now counts, and reading it again never
// waits for anybody.
func TestSecretIsReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one\n")
	read := secretIn(file)
	for _, key := range []string{"one", "two"} {
		write(key + "\n")
		if got, err := read(); got != key || err != nil {
			t.Errorf("%q is read as %q (%v)", key, got, err)
		}
	}
	fails := func(want string) {
		t.Helper()
		if got, err := read(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("read %q (%v), want an error of %s with %q", got, err, file, want)
		}
	}
	write(" \n")
	fails("is empty")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	fails("no such file")
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Skip("there are no pipes here: ", err)
	}
	fails("is no regular file")
}

// TestSecretsOfTheEnvironment: they are trimmed as those in files are.
func TestSecretsOfTheEnvironment(t *testing.T) {
	for _, around := range []string{"%", "%\n", "%\r\n", " % ", "\xef\xbb\xbf%\n", "\t%\n\n"} {
		value := func(secret string) string { return strings.ReplaceAll(around, "%", secret) }
		got := SecretsFrom([]string{"PATH=/bin", "ZEUSD_TOKEN=" + value("a=b"), "VLLM_API_KEY=" + value("sk-1")})
		if want := (Secrets{ZeusdToken: "a=b", VLLMAPIKey: "sk-1"}); got != want {
			t.Errorf("%q: %+v", around, got)
		}
	}
	if got := SecretsFrom([]string{"ZEUSD_TOKEN=\n", "VLLM_API_KEY="}); got != (Secrets{}) {
		t.Errorf("blank variables: %+v", got)
	}
}
