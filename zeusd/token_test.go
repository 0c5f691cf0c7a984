package zeusd

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/sim"
)

func TestTokens(t *testing.T) {
	t.Parallel()
	_, open := daemon(t, sim.ZeusdConfig{GPUs: gpus(100)})
	_, shut := daemon(t, sim.ZeusdConfig{GPUs: gpus(100), Token: "right"})
	_, narrow := daemon(t, sim.ZeusdConfig{GPUs: gpus(100), Token: "right", Scopes: []string{"gpu-control"}})
	with := func(e Endpoint, token string) Endpoint {
		e.Token = credential.Fixed(token)
		return e
	}
	for _, c := range []struct {
		name    string
		e       Endpoint
		refused string // what the error says; empty if it works
	}{
		{"right", with(shut, "right"), ""},
		{"needless", with(open, "needless"), ""},
		{"wrong", with(shut, "wrong"), "status 401: Invalid token: InvalidSignature (the daemon wants another token)"},
		{"missing", shut, "the daemon wants a token and the endpoint has none"},
		{"without scope", with(narrow, "right"), `the token of "sim" lacks the scope gpu-read (it has: gpu-control)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			// Another endpoint goes on meanwhile.
			_, other := daemon(t, sim.ZeusdConfig{GPUs: gpus(55)})
			client, got := start(t, Config{Targets: []Target{{Endpoint: c.e, GPUs: []int{0}}, {Endpoint: other, GPUs: []int{0}}}})
			eventually(t, soon, "the other endpoint", holds(client, other, 0, 55))
			if c.refused == "" {
				eventually(t, soon, "power", holds(client, c.e, 0, 100))
				return
			}
			eventually(t, soon, "refusal", func() bool { return errors.Is(client.statuses()[0].Err, ErrRefused) })
			s := client.statuses()[0]
			if !errors.Is(s.Err, ErrRefused) || !strings.Contains(s.Err.Error(), c.refused) || s.Connected {
				t.Errorf("status %+v", s)
			}
			if token := c.e.Token.Key(); token != "" && (strings.Contains(got.logged(), token+`"`) || strings.Contains(s.Err.Error(), token+" ")) && token != "right" {
				t.Error("the token is shown")
			}
		})
	}
}

// A refusal while connected is said, and passes when the daemon does no more
// refuse.
func TestRefusedWhileConnected(t *testing.T) {
	t.Parallel()
	for _, status := range []int{401, 403} {
		g := gpus(100)
		z, e := daemon(t, sim.ZeusdConfig{GPUs: g})
		client, got := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0}}}, AskAfter: 50 * time.Millisecond})
		eventually(t, soon, "power", holds(client, e, 0, 100))
		z.SetFaults(sim.ZeusdFaults{Status: status})
		eventually(t, soon, "refusal", func() bool { return errors.Is(only(t, client).Err, ErrRefused) })
		if !holds(client, e, 0, 100)() {
			t.Error("the last value is gone")
		}
		z.SetFaults(sim.ZeusdFaults{})
		g[0].SetPowerW(120)
		eventually(t, soon, "recovery", holds(client, e, 0, 120))
		if n := strings.Count(got.logged(), "refuses us"); n != 1 {
			t.Errorf("logged %d times:\n%s", n, got.logged())
		}
	}
}

// A token that was changed is read anew from where it stands, once it is refused.
func TestTokenIsReadAnew(t *testing.T) {
	t.Parallel()
	_, e := daemon(t, sim.ZeusdConfig{GPUs: gpus(100), Token: "new"})
	var token atomic.Value
	token.Store("old")
	var err error
	e.Token, err = credential.Renewable(func() (string, error) {
		if token := token.Load().(string); token != "" {
			return token, nil
		}
		return "", errors.New("it is being written")
	}, 0, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	client, got := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0}}}})
	eventually(t, soon, "refusal", func() bool { return errors.Is(only(t, client).Err, ErrRefused) })
	token.Store("")
	eventually(t, soon, "a token that cannot be read", func() bool { return strings.Contains(got.logged(), "it is being written") })
	token.Store("new")
	eventually(t, soon, "power", holds(client, e, 0, 100))
	if strings.Contains(got.logged(), `old`) || strings.Contains(got.logged(), `new"`) {
		t.Error("a token is shown:", got.logged())
	}
}
