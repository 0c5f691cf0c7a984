package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func effectiveOf(t *testing.T, c *Config) string {
	t.Helper()
	text, err := c.Effective()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func digestOf(t *testing.T, c *Config) string {
	t.Helper()
	digest, err := c.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

func TestEffectiveConfigLoadsAgainAsTheSame(t *testing.T) {
	for _, file := range []string{"testdata/every-key.yaml", "../configs/live.yaml", "../configs/replay.yaml", "../cmd/g2g-agent/demo.yaml"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text = regexp.MustCompile(`\{node\d\}`).ReplaceAll(text, []byte("host: 127.0.0.1, port: 4938"))
		text = regexp.MustCompile(`\{vllm-\d+b\}`).ReplaceAll(text, []byte("http://127.0.0.1:8000"))
		c, problems := parse(text, nil, ForAnything, filepath.Dir(file))
		if len(problems) > 0 {
			t.Fatalf("%s: %v", file, problems)
		}
		effective := effectiveOf(t, c)
		again, problems := parse([]byte(effective), nil, ForAnything, t.TempDir())
		if len(problems) > 0 {
			t.Fatalf("the effective config of %s is refused: %v\n%s", file, problems, effective)
		}
		for _, p := range c.paths() {
			if *p != "" {
				if *p, err = filepath.Abs(*p); err != nil {
					t.Fatal(err)
				}
			}
		}
		if diff := cmp.Diff(c, again, sameSeconds, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s is another one once written out and loaded again (-file +again):\n%s", file, diff)
		}
		if got := effectiveOf(t, again); got != effective {
			t.Errorf("the effective config of the effective config of %s is\n%s\nwant\n%s", file, got, effective)
		}
	}
}

func TestEffectiveConfigHasEveryKey(t *testing.T) {
	c := parsed(t, "training: [{n_gpus: 1, trace: t.csv, t_start: 0, t_end: 1}]"+oneModel+"    live: {vllm_base_url: http://h:8000, gpu_endpoints: [{host: h}]}\n"+
		"    replicas: {initial: 1, ramps: [{target: 0, t_start: 0, t_end: 1}]}\nreplay: {commands: [{t: 0, set_batch_size: {m: 8}}]}\n"+
		"datacenter: {total_gpu_capacity: 8}")
	var tree any
	if err := json.Unmarshal([]byte(effectiveOf(t, c)), &tree); err != nil {
		t.Fatal(err)
	}
	var holds func(path string, node any, want reflect.Type)
	holds = func(path string, node any, want reflect.Type) {
		switch want.Kind() {
		case reflect.Pointer:
			holds(path, node, want.Elem())
		case reflect.Slice:
			list, _ := node.([]any)
			for _, element := range list {
				holds(path+"[]", element, want.Elem())
			}
		case reflect.Struct:
			section, isSection := node.(map[string]any)
			for key, field := range keysOf(want) {
				value, has := section[key]
				if isSection && !has {
					t.Errorf("the effective config lacks %s.%s", path, key)
				}
				holds(path+"."+key, value, field)
			}
		}
	}
	holds("", tree, reflect.TypeFor[Config]())
}

func TestDigestOfAConfig(t *testing.T) {
	base := digestOf(t, parsed(t, oneModel))
	if !regexp.MustCompile(`^sha256:[0-9a-f]{64}$`).MatchString(base) {
		t.Errorf("the digest is %s", base)
	}
	for name, text := range map[string]string{
		"a default written out":      oneModel + "seed: 0\n",
		"a number in another form":   oneModel + "dt_s: \"1/10\"\n",
		"an empty list":              oneModel + "training: []\napi: {allowed_origins: []}\n",
		"a comment and other blanks": "# comment\n\n" + oneModel,
		"a key without a value":      oneModel + "replay:\n",
	} {
		if got := digestOf(t, parsed(t, text)); got != base {
			t.Errorf("%s changes the digest", name)
		}
	}
	if got := digestOf(t, parsed(t, oneModel, "G2G_AGENT_SEED=0")); got != base {
		t.Error("a default from the environment changes the digest")
	}
	seen := map[string]string{base: "the config itself"}
	for _, text := range []string{"seed: 1", "dt_s: \"1/3\"", "dt_s: \"1/7\"", "dt_s: \"333333333/1000000000\"", "datacenter: {name: x}", "replay: {itl: false}", "api: {listen: \"\"}"} {
		digest := digestOf(t, parsed(t, oneModel+text+"\n"))
		if other, has := seen[digest]; has {
			t.Errorf("%s has the digest of %s", text, other)
		}
		seen[digest] = text
	}
}

func TestDigestDoesNotDependOnWhereItIsTaken(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "c.yaml"), []byte(oneModel+"replay: {data_dir: data}\ndatacenter: {total_gpu_capacity: 8}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	load := func(file string) *Config {
		c, err := Load(file, nil, ForAnything)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	want := digestOf(t, load(filepath.Join(dir, "c.yaml")))
	t.Chdir(dir)
	if got := digestOf(t, load("c.yaml")); got != want {
		t.Error("the digest is another one from the config's own folder")
	}
	forReplay, err := Load("c.yaml", nil, ForReplay)
	if err != nil {
		t.Fatal(err)
	}
	if got := digestOf(t, forReplay); got != want {
		t.Error("the digest is another one when the config is loaded for a replay")
	}
}

func TestEffectiveConfigHoldsNoSecret(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "token")
	if err := os.WriteFile(secret, []byte("very-secret-word"), 0o600); err != nil {
		t.Fatal(err)
	}
	effective := effectiveOf(t, parsed(t, oneModel+"api: {token_file: "+secret+"}"))
	if strings.Contains(effective, "very-secret-word") || !strings.Contains(effective, secret) {
		t.Errorf("want the path %s and not what is in it, got %s", secret, effective)
	}
}

func TestEffectiveConfigOfOddValues(t *testing.T) {
	c := parsed(t, oneModel+"    live:\n      request_extra_body: {a: [], b: {}, c: null, d: [1, {e: x}], f: 1e300, g: true}\n")
	want := `"request_extra_body":{"a":[],"b":{},"c":null,"d":[1,{"e":"x"}],"f":1e+300,"g":true}`
	if effective := effectiveOf(t, c); !strings.Contains(effective, want) {
		t.Errorf("want %s in %s", want, effective)
	}
}
