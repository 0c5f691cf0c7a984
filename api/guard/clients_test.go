package guard

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRateOverTheSocket(t *testing.T) {
	clk := newClock()
	s := serve(t, Config{Token: controlToken, MaxRequestsPerS: 5, now: clk.Now}, nil)
	use := func(n int, token string) {
		t.Helper()
		for i := range n {
			if a := s.do(t, "GET", "/v1/state", bearer(token)); a.StatusCode != 200 {
				t.Fatalf("request %d with token %q: %d, want 200", i, token, a.StatusCode)
			}
		}
	}
	refused := func(token string) {
		t.Helper()
		a := s.do(t, "GET", "/v1/state", bearer(token))
		if a.StatusCode != 429 || a.Header.Get("Retry-After") != "1" {
			t.Errorf("one request too many with token %q: %d, Retry-After %q", token, a.StatusCode, a.Header.Get("Retry-After"))
		}
		if p := a.problem(t); !strings.Contains(p.Detail, "api.max_requests_per_s") || !strings.Contains(p.Detail, "5 requests") {
			t.Errorf("problem %+v", p)
		}
	}
	use(5, "")
	refused("")
	// A wrong token is nobody's; a right one has a rate of its own.
	refused(wrongToken)
	use(5, controlToken)
	refused(controlToken)
	for _, path := range []string{"/livez", "/healthz", "/readyz"} {
		for range 20 {
			if a := s.do(t, "GET", path); a.StatusCode != 200 {
				t.Fatalf("%s: %d, want 200 whatever the rate", path, a.StatusCode)
			}
		}
	}
	if a := s.do(t, "GET", "/"); a.StatusCode != 429 {
		t.Errorf("the page: %d, want 429", a.StatusCode)
	}
	clk.advance(400 * time.Millisecond)
	use(2, "")
	refused("")
	clk.advance(time.Hour)
	use(5, "")
	refused("")
	if got := s.Stats().Rate; got != 6 {
		t.Errorf("%d requests counted as too many, want 6", got)
	}
}

func TestNoRate(t *testing.T) {
	s := serve(t, Config{now: newClock().Now}, nil)
	for range 300 {
		if a := s.do(t, "GET", "/v1/state"); a.StatusCode != 200 {
			t.Fatalf("without max_requests_per_s: %d", a.StatusCode)
		}
	}
}

// Rates below one a second let the first request through, and say how long to wait.
func TestSlowRate(t *testing.T) {
	now := newClock().Now()
	c := newClients(0.1)
	c.visit(netip.Addr{}, now, func(of *client) {
		if wait := c.takeRequest(of, roleAnyone, now); wait != 0 {
			t.Errorf("the first request waits %v", wait)
		}
		if wait := c.takeRequest(of, roleAnyone, now.Add(4*time.Second)); wait < 5*time.Second || wait > 6*time.Second+time.Millisecond {
			t.Errorf("the second request, after 4 s, waits %v, want 6 s", wait)
		}
	})
	c = newClients(1e-300)
	c.visit(netip.Addr{}, now, func(of *client) {
		c.takeRequest(of, roleAnyone, now)
		if wait := c.takeRequest(of, roleAnyone, now); wait != maxRetryAfter {
			t.Errorf("at next to no rate: wait %v, want %v", wait, maxRetryAfter)
		}
	})
}

func TestClientAddress(t *testing.T) {
	for _, c := range []struct{ remote, counted, name string }{
		{"192.0.2.7:1234", "192.0.2.7", "192.0.2.7"},
		{"[::ffff:192.0.2.7]:1", "192.0.2.7", "192.0.2.7"},
		{"[2001:db8:1:2:3:4:5:6]:1", "2001:db8:1:2::", "2001:db8:1:2:3:4:5:6"},
		{"[2001:db8:1:2::ff]:9", "2001:db8:1:2::", "2001:db8:1:2::ff"},
		{"[2001:db8:1:3::ff]:9", "2001:db8:1:3::", "2001:db8:1:3::ff"},
		{"[fe80::1%eth0]:9", "fe80::", "fe80::1"},
		{"@", "invalid IP", "@"},
		{"", "invalid IP", ""},
	} {
		if counted, name := clientAddress(c.remote); counted.String() != c.counted || name != c.name {
			t.Errorf("clientAddress(%q) = %v, %q, want %s, %q", c.remote, counted, name, c.counted, c.name)
		}
	}
}

func TestManyAddressesDoNotGrowTheTable(t *testing.T) {
	clk := newClock()
	c := newClients(1)
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	spent := func(i int) bool {
		wait := time.Duration(0)
		c.visit(address(i), clk.Now(), func(of *client) { wait = c.takeRequest(of, roleAnyone, clk.Now()) })
		return wait > 0
	}
	size := func() int {
		return c.byAddress.Len()
	}
	for i := range 10 * maxClients {
		if spent(i) {
			t.Fatalf("address %d is refused its first request", i)
		}
		if i%100 == 0 && !spent(0) && i > 0 {
			t.Fatalf("address 0, in use, was forgotten after %d others", i)
		}
	}
	if got := size(); got != maxClients {
		t.Errorf("%d addresses remembered, want %d", got, maxClients)
	}
	if !spent(10*maxClients - 1) {
		t.Error("the latest address was forgotten")
	}
	if spent(maxClients) {
		t.Error("an address that made room is remembered")
	}
	clk.advance(clientExpiry + time.Second)
	spent(0)
	if got := size(); got != 1 {
		t.Errorf("%d addresses remembered after %v, want 1", got, clientExpiry)
	}
}

// An address that sends wrong tokens is told to wait, and is still let in with the
// right one.
func TestWrongTokensOverTheSocket(t *testing.T) {
	clk := newClock()
	s := serve(t, Config{Token: controlToken, ReadToken: readToken, now: clk.Now}, nil)
	command := func(token string) *answer { return s.do(t, "POST", "/v1/steps", bearer(token)) }
	right := func() {
		t.Helper()
		if a := command(controlToken); a.StatusCode != 200 {
			t.Errorf("the right token: %d, want 200", a.StatusCode)
		}
	}
	for i := range failureBurst {
		if a := command(wrongToken); a.StatusCode != 401 {
			t.Fatalf("wrong token %d: %d, want 401", i, a.StatusCode)
		}
	}
	const many = 300
	for i := range many {
		a := command(wrongToken) // the same again and again, as a forgotten script does
		if a.StatusCode != 429 || a.Header.Get("Retry-After") != "1" || !a.Close {
			t.Fatalf("wrong token %d more: %d, Retry-After %q, closed %v", i, a.StatusCode, a.Header.Get("Retry-After"), a.Close)
		}
		a.problem(t)
	}
	// For the first time from here.
	right()
	// Requests without any token are no guesses.
	if a := command(""); a.StatusCode != 401 {
		t.Errorf("no token: %d, want 401", a.StatusCode)
	}
	for i := range many {
		if a := command("guess-" + strconv.Itoa(i)); a.StatusCode != 429 {
			t.Fatalf("guess %d: %d, want 429", i, a.StatusCode)
		}
	}
	right()
	clk.advance(time.Second)
	if a := command(wrongToken); a.StatusCode != 401 {
		t.Errorf("wrong token a second later: %d, want 401", a.StatusCode)
	}
	if got := s.Stats(); got.Unauthorized != failureBurst+2 || got.Rate != 2*many {
		t.Errorf("stats %+v", got)
	}
}

// The right token passes however many wrong ones come from the same address: the
// first time that it is seen from there, and after a rotation.
func TestWrongTokensLockNobodyOut(t *testing.T) {
	s := serve(t, Config{Token: controlToken, ReadToken: readToken, MaxRequestsPerS: 1000, now: newClock().Now}, nil)
	flood := func() {
		t.Helper()
		for i := range 150 {
			if a := s.do(t, "POST", "/v1/steps", bearer(fmt.Sprint("guess-", i))); a.StatusCode != 401 && a.StatusCode != 429 {
				t.Fatalf("a wrong token: %d", a.StatusCode)
			}
		}
	}
	flood()
	for _, c := range []struct {
		method, path, token string
		want                int
	}{
		{"POST", "/v1/steps", controlToken, 200}, {"GET", "/v1/state", controlToken, 200}, {"GET", "/v1/state", readToken, 200},
		{"POST", "/v1/steps", readToken, 403},
	} {
		if a := s.do(t, c.method, c.path, bearer(c.token)); a.StatusCode != c.want {
			t.Errorf("%s %s after a flood of wrong tokens: %d, want %d", c.method, c.path, a.StatusCode, c.want)
		}
	}
	flood()
	if err := s.Reload("new-control-token-1", "new-read-token-123"); err != nil {
		t.Fatal(err)
	}
	if a := s.do(t, "POST", "/v1/steps", bearer("new-control-token-1")); a.StatusCode != 200 {
		t.Errorf("the new control token: %d, want 200", a.StatusCode)
	}
	if a := s.do(t, "GET", "/v1/state", bearer("new-read-token-123")); a.StatusCode != 200 {
		t.Errorf("the new read token: %d, want 200", a.StatusCode)
	}
	if a := s.do(t, "POST", "/v1/steps", bearer(controlToken)); a.StatusCode != 429 {
		t.Errorf("the old control token: %d, want 429", a.StatusCode)
	}
}

// A dashboard behind the same proxy does not use up what the controller may ask.
func TestReadersDoNotUseUpTheControllersRate(t *testing.T) {
	s := serve(t, Config{Token: controlToken, ReadToken: readToken, MaxRequestsPerS: 3, now: newClock().Now}, nil)
	for range 3 {
		s.do(t, "GET", "/v1/state", bearer(readToken))
	}
	if a := s.do(t, "GET", "/v1/state", bearer(readToken)); a.StatusCode != 429 {
		t.Errorf("reading too fast: %d, want 429", a.StatusCode)
	}
	if a := s.do(t, "POST", "/v1/steps", bearer(controlToken)); a.StatusCode != 200 {
		t.Errorf("a command of the same address: %d, want 200", a.StatusCode)
	}
}

func TestVisitsFromManyGoroutines(t *testing.T) {
	now := newClock().Now()
	c := newClients(100)
	var visiting sync.WaitGroup
	var mu sync.Mutex
	admitted := 0
	for range 8 {
		visiting.Go(func() {
			for range 100 {
				c.visit(netip.Addr{}, now, func(of *client) {
					if c.takeRequest(of, roleAnyone, now) == 0 {
						mu.Lock()
						admitted++
						mu.Unlock()
					}
				})
			}
		})
	}
	visiting.Wait()
	if admitted != 100 {
		t.Errorf("%d requests admitted at once, want 100", admitted)
	}
}
