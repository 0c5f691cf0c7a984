package zeusd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/internal/credential"
)

func TestEndpointString(t *testing.T) {
	for _, c := range []struct {
		e    Endpoint
		want string
	}{
		{Endpoint{Host: "node1", Token: credential.Fixed("secret")}, "node1:4938"},
		{Endpoint{Host: "::1", Port: 80, Token: credential.Fixed("secret")}, "[::1]:80"},
		{Endpoint{Socket: "/run/zeusd/zeusd.sock", Token: credential.Fixed("secret")}, "/run/zeusd/zeusd.sock"},
	} {
		for _, format := range []string{"%v", "%+v", "%s"} {
			if got := fmt.Sprintf(format, c.e); got != c.want {
				t.Errorf("%s: %q, want %q", format, got, c.want)
			}
		}
		if got := fmt.Sprintf("%#v %v", c.e, Target{Endpoint: c.e}); strings.Contains(got, "secret") {
			t.Error(got)
		}
	}
}

func TestTargetsOfOneEndpointAreMerged(t *testing.T) {
	got, err := mergeTargets([]Target{
		{Endpoint: Endpoint{Host: "Node1"}, GPUs: []int{3, 1}},
		{Endpoint: Endpoint{Socket: "/run//zeusd.sock"}, CPU: true},
		{Endpoint: Endpoint{Host: "node1", Port: defaultPort, Token: credential.Fixed("t")}, GPUs: []int{1, 0}, CPU: true},
		{Endpoint: Endpoint{Host: "node1", Port: 1}, GPUs: []int{0}},
		{Endpoint: Endpoint{Socket: "/run/zeusd.sock"}, GPUs: []int{0}},
	})
	want := []Target{
		{Endpoint: Endpoint{Host: "node1", Port: defaultPort, Token: credential.Fixed("t")}, GPUs: []int{0, 1, 3}, CPU: true},
		{Endpoint: Endpoint{Socket: "/run/zeusd.sock"}, GPUs: []int{0}, CPU: true},
		{Endpoint: Endpoint{Host: "node1", Port: 1}, GPUs: []int{0}},
	}
	byKey := cmp.Comparer(func(a, b *credential.Credential) bool { return a.Key() == b.Key() })
	if diff := cmp.Diff(want, got, byKey); diff != "" || err != nil {
		t.Errorf("merged targets (-want +got): %v\n%s", err, diff)
	}
}

func TestConfigErrors(t *testing.T) {
	_, err := newClient(Config{AskAfter: -1, RequestTimeout: -1, Targets: []Target{
		{GPUs: []int{0}},
		{Endpoint: Endpoint{Host: "a", Socket: "/b"}, GPUs: []int{0}},
		{Endpoint: Endpoint{Host: "a", Port: 70000}, GPUs: []int{0}},
		{Endpoint: Endpoint{Socket: "/b", Port: 1}, GPUs: []int{0}},
		{Endpoint: Endpoint{Host: "http://a"}, GPUs: []int{0}},
		{Endpoint: Endpoint{Host: "a", Token: credential.Fixed("se\ncret")}, GPUs: []int{0}},
		{Endpoint: Endpoint{Host: "a"}},
		{Endpoint: Endpoint{Host: "a", Token: credential.Fixed("secret1")}, GPUs: []int{-1}},
		{Endpoint: Endpoint{Host: "A", Token: credential.Fixed("secret2")}, GPUs: []int{0}},
	}})
	if err == nil {
		t.Fatal("no error")
	}
	want := `zeusd target 0: endpoint: needs host or socket, has neither
zeusd target 1: endpoint: needs host or socket, has both
zeusd target 2: endpoint port: must be a port, 0 to 65535, got 70000
zeusd target 3: endpoint port: a socket has no port; leave it out, got 1
zeusd target 4: endpoint host: must be a name or an IP address alone, such as node1 or ::1, got "http://a"; scheme, path and blanks do not belong there, and the port has a key of its own
zeusd target 5: endpoint a:4938: token: the key has a space, a line break or another character that cannot be sent; want printable ASCII
zeusd target 6 (a:4938): names no GPU and no CPU
zeusd target 7 (a:4938): gpu_indices[0]: must be >= 0, got -1
zeusd target 8 (A:4938): another target gives this endpoint another token; one connection has one
AskAfter is -1ns, want more than 0
RequestTimeout is -1ns, want more than 0`
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("the error (-want +got):\n%s", diff)
	}
}
