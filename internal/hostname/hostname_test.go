package hostname

import "testing"

func TestOneHostHoweverItIsSpelled(t *testing.T) {
	for want, spellings := range map[string][]string{
		"":                 {""},
		".":                {"."},
		"node1":            {"node1", "NODE1", "node1.", "Node1.", "node1.."},
		"gpu-1.dc.example": {"gpu-1.dc.example", "GPU-1.DC.Example."},
		"192.168.0.1":      {"192.168.0.1", "192.168.0.1.", "::ffff:192.168.0.1", "::FFFF:c0a8:1", "0:0:0:0:0:ffff:192.168.0.1"},
		"2001:db8::1":      {"2001:db8::1", "2001:DB8:0:0:0:0:0:1", "2001:0db8:0000::0001"},
		"fe80::1%eth0":     {"fe80::1%eth0", "FE80:0::1%eth0"},
		"fe80::1%Eth0":     {"fe80::1%Eth0"},
		"127.0.0.1":        {"127.0.0.1", "::ffff:127.0.0.1", "::ffff:7f00:1"},
		"localhost":        {"localhost", "LOCALHOST."},
	} {
		for _, host := range spellings {
			if got := Canonical(host); got != want {
				t.Errorf("%q is %q, want %q", host, got, want)
			}
		}
	}
}

func TestThisHost(t *testing.T) {
	for _, host := range []string{"localhost", "Localhost.", "127.0.0.1", "::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "localhost.localdomain", "ip6-localhost",
		"localhost6", "agent.localhost", "0.0.0.0", "::", "0:0::0", "::ffff:0.0.0.0"} {
		if got := Identity(host); got != Identity("localhost") {
			t.Errorf("%s is %s, not this host", host, got)
		}
	}
	for _, host := range []string{"127.0.0.2", "node1", "localhost1", "notlocalhost", "0.0.0.1", "::2", "::1%lo", "192.0.2.1"} {
		if got := Identity(host); got != Canonical(host) {
			t.Errorf("%s is %s", host, got)
		}
	}
}

func FuzzCanonical(f *testing.F) {
	f.Add("::FFFF:127.0.0.1.")
	f.Add("fe80::1%Eth0.")
	f.Fuzz(func(t *testing.T, host string) {
		once := Canonical(host)
		if Identity(once) != Identity(host) {
			t.Errorf("%q is %q, and that is another host", host, once)
		}
	})
}
