package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func keyOrderOf(t *testing.T, text string) (KeyOrder, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return f.KeyOrder()
}

func TestKeyOrder(t *testing.T) {
	order, err := keyOrderOf(t, "\ufeff"+`
base: &base {z: 1, "m\ud83d\ude00": 2}
models:
- live:
    request_extra_body: {zeta: 1, "a.b": {y: 1, x: 2}, 8: [{q: 1, p: 2}], a: {b: {d: 1, c: 2}}}
- live: {request_extra_body: {own: 1, <<: *base}}
- live: {request_extra_body: *base}
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, want string }{
		{"models 0 live request_extra_body", "zeta a.b 8 a"},
		{"models 0 live request_extra_body a.b", "y x"},
		{"models 0 live request_extra_body a b", "d c"},
		{"models 0 live request_extra_body 8 0", "q p"},
		{"models 1 live request_extra_body", "z m\U0001f600 own"},
		{"models 2 live request_extra_body", "z m\U0001f600"},
	} {
		names := append(strings.Fields(c.want), "from_b", "from_a")
		slices.Sort(names)
		order.Sort(names, strings.Fields(c.path)...)
		if got := strings.Join(names, " "); got != c.want+" from_a from_b" {
			t.Errorf("%s: %s, want %s", c.path, got, c.want)
		}
	}
}

func TestKeyOrderOfBadFiles(t *testing.T) {
	if _, err := keyOrderOf(t, "a: [\n"); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "c.yaml") {
		t.Errorf("a broken file: %v", err)
	}
	// Aliases of aliases stand for 2^40 keys.
	bomb := "k0: &k0 {a: 1}\n"
	for i := range 40 {
		bomb += strings.NewReplacer("N", string(rune('A'+i)), "O", map[bool]string{true: "k0", false: string(rune('A' + i - 1))}[i == 0]).Replace("N: &N {b: *O, c: *O}\n")
	}
	if _, err := keyOrderOf(t, bomb); err != nil && !errors.Is(err, datacenter.ErrInvalidInput) {
		t.Errorf("a bomb: %v", err)
	}
	if order, err := keyOrderOf(t, ""); err != nil || len(order.keys) != 0 {
		t.Errorf("nothing: %v", err)
	}
}
