package guard

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/apirule"
)

func TestListenThatCannotBe(t *testing.T) {
	for _, listen := range []string{"", "8480", "localhost", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "127.0.0.1:-1", "::1:8480", "http://localhost:1", "a b:1", "a,b:1"} {
		_, err := New(Config{Listen: listen})
		if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "api.listen must be HOST:PORT") {
			t.Errorf("New with Listen %q: %v", listen, err)
		}
	}
}

func TestNamesThisHost(t *testing.T) {
	parsed, err := apirule.ParseListen("agent.internal:8480")
	if err != nil {
		t.Fatal(err)
	}
	a := listenAddress{parsed}
	for _, header := range []string{
		"localhost", "localhost:8480", "LOCALHOST:1", "localhost.", "localhost.:80", "g2g.localhost", "g2g.localhost:8480",
		"127.0.0.1", "127.0.0.1:8480", "127.255.0.9:1", "[::1]", "[::1]:8480", "[::ffff:127.0.0.1]:1", "agent.internal", "Agent.Internal:9",
	} {
		if !a.namesThisHost(header) {
			t.Errorf("Host %q is not served", header)
		}
	}
	for _, header := range []string{
		"", ":8480", "evil.example", "evil.example:8480", "localhost.evil.example", "evillocalhost", "127.0.0.1.evil.example",
		"127.0.0.1.nip.io:8480", "128.0.0.1", "10.0.0.1:8480", "[::2]:8480", "[2001:db8::1]", "0.0.0.0:8480", "[::]:8480", "127.1", "2130706433", "0x7f.0.0.1",
		"localhost:evil", "localhost:80:80", "[::1", "::1]", "[localhost", "localhost@evil.example", "evil.example/localhost", "..localhost..x", "agent.internal.evil.example",
	} {
		if a.namesThisHost(header) {
			t.Errorf("Host %q is served", header)
		}
	}
}

// DNS rebinding: a page of evil.example, which now points at 127.0.0.1, is of the
// same origin as far as the browser can tell.
func TestHostOverTheSocket(t *testing.T) {
	open := serve(t, Config{}, nil)
	for _, path := range []string{"/", "/openapi.yaml", "/v1/state", "/metrics"} {
		if a := open.do(t, "GET", path, host("evil.example:8480")); a.StatusCode != 403 {
			t.Errorf("without a token, %s of another host: %d, want 403", path, a.StatusCode)
		} else if p := a.problem(t); !strings.Contains(p.Detail, "api.token_file") || !strings.Contains(p.Detail, "evil.example") {
			t.Errorf("the problem does not say what to do: %+v", p)
		}
		if a := open.do(t, "GET", path, host("localhost:8480")); a.StatusCode != 200 {
			t.Errorf("without a token, %s of localhost: %d, want 200", path, a.StatusCode)
		}
	}
	if a := open.do(t, "POST", "/v1/steps", host("evil.example"), header("Origin", "http://evil.example"), header("Sec-Fetch-Site", "same-origin")); a.StatusCode != 403 {
		t.Errorf("a rebound page's command: %d, want 403", a.StatusCode)
	}
	if got := open.Stats().Host; got != 5 {
		t.Errorf("%d requests counted as for another host, want 5", got)
	}
	closed := serve(t, Config{Token: controlToken}, nil)
	if a := closed.do(t, "GET", "/v1/state", host("grid.example")); a.StatusCode != 200 {
		t.Errorf("with a token, another host: %d, want 200", a.StatusCode)
	}
}

// Supervisors ask by the address they know, and the oldest name no host at all.
func TestHealthChecksAreAnsweredWhoeverAsks(t *testing.T) {
	open := serve(t, Config{}, nil)
	raw := func(request string) int {
		t.Helper()
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", open.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		return answer.StatusCode
	}
	for _, path := range []string{"/livez", "/healthz", "/readyz"} {
		for _, method := range []string{"GET", "HEAD"} {
			for _, named := range []string{"", "Host: 10.1.2.3:8480\r\n", "Host: [fd00::7]:8480\r\n", "Host: agent.cluster.local\r\n", "Host: \r\n"} {
				for _, version := range []string{"1.0", "1.1"} {
					if named == "" && version == "1.1" {
						continue // not HTTP
					}
					request := method + " " + path + " HTTP/" + version + "\r\n" + named + "Connection: close\r\n\r\n"
					if status := raw(request); status != 200 {
						t.Errorf("%q: %d, want 200", request, status)
					}
				}
			}
		}
	}
	// Nothing else is open by that.
	for _, request := range []string{
		"GET / HTTP/1.0\r\n\r\n", "GET /v1/state HTTP/1.0\r\n\r\n", "GET /metrics HTTP/1.0\r\n\r\n", "POST /livez HTTP/1.0\r\n\r\n",
		"POST /v1/steps HTTP/1.0\r\n\r\n", "GET /livez/../v1/state HTTP/1.0\r\n\r\n", "GET /livez/x HTTP/1.0\r\n\r\n", "OPTIONS /livez HTTP/1.0\r\n\r\n",
		"GET /v1/state HTTP/1.1\r\nHost: 10.1.2.3:8480\r\nConnection: close\r\n\r\n",
	} {
		if status := raw(request); status != 403 {
			t.Errorf("%q: %d, want 403", request, status)
		}
	}
}
