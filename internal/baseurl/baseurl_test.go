package baseurl

import (
	"errors"
	"strings"
	"testing"
)

func TestFlaws(t *testing.T) {
	for raw, want := range map[string]struct {
		flaw Flaw
		text string
	}{
		"":                           {NoAddress, "is empty; want http://HOST:PORT or https://HOST:PORT"},
		"node1:8000":                 {NoAddress, "without a scheme; is it http://node1:8000?"},
		"http://":                    {NoAddress, "without a host"},
		"http://:8000":               {NoAddress, "without a host"},
		"ftp://node1":                {NoAddress, `with scheme "ftp"`},
		"unix:/run/vllm.sock":        {NoAddress, "a socket"},
		"http://node1:x":             {NoAddress, "invalid port"},
		"u:geheim@node1:8000":        {NoAddress, "has a user name or password in it"},
		"http:u:geheim@node1":        {NoAddress, "has a user name or password in it"},
		"http://u:geheim@node1:x":    {NoAddress, "has a user name or password in it"},
		"http://u:geheim@:8000":      {NoAddress, "has a user name or password in it"},
		"ftp://u:geheim@node1":       {NoAddress, "has a user name or password in it"},
		"http://u:geheim@node1:8000": {WithUser, "has a user name or password in it"},
		"http://geheim@node1/v1":     {WithUser, "has a user name or password in it"},
		"http://node1:0":             {TooMuch, "with port 0; want one from 1 to 65535"},
		"http://node1?a=b":           {TooMuch, "with a query or a fragment"},
		"http://node1/#":             {TooMuch, "with a query or a fragment"},
		"http://node1:8000/v1/":      {TooMuch, "want it without the /v1: http://node1:8000"},
	} {
		_, err := Parse(raw)
		var flawed *Error
		if !errors.As(err, &flawed) || flawed.Flaw != want.flaw || !strings.Contains(flawed.Error(), want.text) || strings.Contains(flawed.Error(), "geheim") {
			t.Errorf("%q: the error is %#v, want flaw %d with %q", raw, err, want.flaw, want.text)
		}
	}
}

func TestSlashesAtTheEndGo(t *testing.T) {
	for raw, want := range map[string]string{
		"http://node1:8000/":             "http://node1:8000",
		"https://gate.example/llm/a%2F/": "https://gate.example/llm/a%2F",
		"http://[::1]:8000/a@b//":        "http://[::1]:8000/a@b",
	} {
		if u, err := Parse(raw); err != nil || u.String() != want {
			t.Errorf("%q becomes %v (%v), want %s", raw, u, err, want)
		}
	}
}

func TestOneServerHoweverItIsSpelled(t *testing.T) {
	for want, spellings := range map[string][]string{
		"n:8000/":              {"http://n:8000", "http://N:8000/", "http://n.:8000//", "https://n:8000"},
		"n:80/":                {"http://n", "http://n:80", "HTTP://n:080/"},
		"n:443/a":              {"https://n/a", "https://N:443/a/", "https://n/a//"},
		"[::1]:8000/":          {"http://localhost:8000", "http://127.0.0.1:8000/", "http://[::1]:8000", "http://[0:0:0:0:0:0:0:1]:8000", "http://[::ffff:127.0.0.1]:8000"},
		"n:80/A":               {"http://n/A"},
		"[fe80::1%eth0]:8000/": {"http://[FE80::1%25eth0]:8000"},
		"":                     {""},
		"n:8000":               {"n:8000"}, // no base URL
	} {
		for _, raw := range spellings {
			if got := Identity(raw); got != want {
				t.Errorf("%q is %q, want %q", raw, got, want)
			}
		}
	}
}
