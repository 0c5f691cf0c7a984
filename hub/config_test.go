package hub_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/hub"
	"github.com/g2g-agent/g2g-agent/internal/credential"
)

// The environment means what it means to the hub's Python client.
func TestFromEnviron(t *testing.T) {
	home := t.TempDir()
	write := func(path, text string) string {
		path = filepath.Join(home, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	standard := write(".cache/huggingface/token", "hf_standard\n")
	inHome := write("hf/token", "\xef\xbb\xbfhf_home")
	inFile := write("elsewhere", " hf_file \r\n")
	at := func(path string) string { return filepath.Join(home, path) }
	for name, c := range map[string]struct {
		environ     []string
		token, from string
		cache, dir  string
		offline     bool
		endpoint    string
	}{
		"nothing":        {nil, "hf_standard", standard, at(".cache/huggingface/hub"), at(".cache/g2g-agent/hub"), false, ""},
		"HF_TOKEN":       {[]string{"HF_TOKEN= hf_x\n", "HF_TOKEN_PATH=" + inFile}, "hf_x", "HF_TOKEN", at(".cache/huggingface/hub"), at(".cache/g2g-agent/hub"), false, ""},
		"empty HF_TOKEN": {[]string{"HF_TOKEN=", "HF_TOKEN_PATH=" + inFile}, "hf_file", inFile, at(".cache/huggingface/hub"), at(".cache/g2g-agent/hub"), false, ""},
		"no such file":   {[]string{"HF_TOKEN_PATH=/nowhere/token"}, "", "", at(".cache/huggingface/hub"), at(".cache/g2g-agent/hub"), false, ""},
		"HF_HOME":        {[]string{"HF_HOME=~/hf"}, "hf_home", inHome, at("hf/hub"), at(".cache/g2g-agent/hub"), false, ""},
		"XDG_CACHE_HOME": {[]string{"XDG_CACHE_HOME=" + at("xdg"), "HF_HUB_OFFLINE=yes"}, "", "", at("xdg/huggingface/hub"), at("xdg/g2g-agent/hub"), true, ""},
		"HF_HUB_CACHE":   {[]string{"HF_HUB_CACHE=$HOME/c", "HUGGINGFACE_HUB_CACHE=/old", "HF_HUB_OFFLINE=0"}, "hf_standard", standard, at("c"), at(".cache/g2g-agent/hub"), false, ""},
		"HF_ENDPOINT":    {[]string{"HF_ENDPOINT=https://mirror.example/hf/"}, "hf_standard", standard, at(".cache/huggingface/hub"), at(".cache/g2g-agent/hub"), false, "https://mirror.example/hf/"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := hub.FromEnviron(append([]string{"HOME=" + home}, c.environ...))
			if err != nil {
				t.Fatal(err)
			}
			if cfg.Token.Key() != c.token || cfg.TokenFrom != c.from {
				t.Errorf("the token is %q from %s, want %q from %s", cfg.Token.Key(), cfg.TokenFrom, c.token, c.from)
			}
			if !slices.Equal(cfg.CacheDirs, []string{c.cache}) || cfg.Dir != c.dir || cfg.Offline != c.offline || cfg.Endpoint != c.endpoint {
				t.Errorf("the config is %+v, want %+v", cfg, c)
			}
			client, err := hub.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			client.Close()
		})
	}
}

// A token that cannot be sent or read is refused by the name of where it is, and not
// shown.
func TestBadTokens(t *testing.T) {
	dir := t.TempDir()
	for name, environ := range map[string][]string{
		"HF_TOKEN": {"HF_TOKEN=hf_SECRET two"},
		dir:        {"HF_TOKEN_PATH=" + dir},
	} {
		_, err := hub.FromEnviron(environ)
		if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%v: the error is %v", environ, err)
		}
	}
}

// What cannot work is said before anything is asked.
func TestNew(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  hub.Config
		want string
	}{
		"no directory": {hub.Config{}, "no directory"},
		"endpoint":     {hub.Config{Dir: "x", Endpoint: "ftp://hub"}, "HF_ENDPOINT"},
		"password":     {hub.Config{Dir: "x", Endpoint: "https://me:SECRET@hub"}, "HF_ENDPOINT"},
		"token":        {hub.Config{Dir: "x", Token: credential.Fixed("SECRET\n")}, "token"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := hub.New(c.cfg)
			if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// An endpoint may have a path, and slashes at its end.
func TestEndpointWithPath(t *testing.T) {
	f := newBenchmark(t)
	u := newUser(t, f, func(cfg *hub.Config) { cfg.Endpoint += "/mirror//" })
	_, err := u.repo(t).List(t.Context(), "")
	if err == nil {
		t.Fatal("there is no error")
	}
	if atHub, _ := f.Requests(); atHub[0].Path != "/mirror/api/datasets/"+dataset+"/revision/main" {
		t.Errorf("the hub was asked %v", atHub)
	}
}
