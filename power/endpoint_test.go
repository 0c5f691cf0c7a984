package power

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestOneAddressHoweverItIsSpelled: two spellings of a daemon are one daemon.
func TestOneAddressHoweverItIsSpelled(t *testing.T) {
	for want, spellings := range map[string][]Endpoint{
		"node1:4938":       {{Host: "node1"}, {Host: "Node1", Port: 4938}, {Host: "node1."}, {Host: "NODE1.", Port: 4938}},
		"node1:80":         {{Host: "node1", Port: 80}},
		"[::1]:4938":       {{Host: "::1"}, {Host: "0:0:0:0:0:0:0:1", Port: 4938}},
		"127.0.0.1:4938":   {{Host: "127.0.0.1"}, {Host: "::ffff:127.0.0.1"}},
		"localhost:4938":   {{Host: "localhost"}, {Host: "LocalHost."}},
		"127.0.0.2:4938":   {{Host: "127.0.0.2"}, {Host: "::ffff:7f00:2"}},
		"[fe80::1%eth0]:1": {{Host: "FE80:0::1%eth0", Port: 1}},
		"[fe80::1]:4938":   {{Host: "FE80::0001"}},
		"/run/zeusd.sock":  {{Socket: "/run/zeusd.sock"}, {Socket: "/run//./zeusd.sock"}, {Socket: "/run/../run/zeusd.sock"}},
		"192.168.0.1:4938": {{Host: "192.168.0.1"}, {Host: "::FFFF:192.168.0.1"}},
	} {
		for _, e := range spellings {
			if got := e.Address(4938); got != want {
				t.Errorf("%+v is %s, want %s", e, got, want)
			}
		}
	}
}

// TestOneIdentityOfThisHost: it has several addresses and one set of GPUs.
func TestOneIdentityOfThisHost(t *testing.T) {
	for _, e := range []Endpoint{{Host: "::1"}, {Host: "localhost", Port: 4938}, {Host: "127.0.0.1"}, {Host: "::ffff:127.0.0.1"}, {Host: "LocalHost."}} {
		if got, want := e.Identity(4938), "[::1]:4938"; got != want {
			t.Errorf("%+v is %s, want %s", e, got, want)
		}
	}
	if e := (Endpoint{Host: "Node1."}); e.Identity(1) != e.Address(1) {
		t.Errorf("another host is %s and %s", e.Identity(1), e.Address(1))
	}
}

func TestChecks(t *testing.T) {
	for name, c := range map[string]struct{ got, want []Problem }{
		"indices": {CheckGPUs([]int{0, MaxGPUIndex}), nil},
		"indices out of range": {CheckGPUs([]int{-1, 1, MaxGPUIndex + 1}), []Problem{
			{"gpu_indices[0]", "must be >= 0, got -1"}, {"gpu_indices[2]", "must be at most 65535, got 65536"},
		}},
		"no range":        {CheckRange(nil), nil},
		"range":           {CheckRange([]float64{0, 700}), nil},
		"range of one":    {CheckRange([]float64{700}), []Problem{{"power_range_w", "must be [least, most] in watts, 0 <= least < most <= 1e+06, got [700]"}}},
		"range backwards": {CheckRange([]float64{700, 0}), []Problem{{"power_range_w", "must be [least, most] in watts, 0 <= least < most <= 1e+06, got [700 0]"}}},
		"address":         {(&Endpoint{Host: "n", Port: 1}).CheckAddress(), nil},
		"socket":          {(&Endpoint{Socket: "/s"}).CheckAddress(), nil},
		"no address":      {(&Endpoint{}).CheckAddress(), []Problem{{"", "needs host or socket, has neither"}}},
		"password": {(&Endpoint{Host: "me:secret@n"}).CheckAddress(), []Problem{{"host", "must be a name or an IP address alone, such as node1 or ::1, " +
			"got something with an @ in it, which is not shown since it may hold a password; scheme, path and blanks do not belong there, and the port has a key of its own"}}},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestRelativeAndAbsolutePaths are one path.
func TestRelativeAndAbsolutePaths(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, there := range []bool{false, true} {
		if there {
			if err := os.WriteFile("z.sock", nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		absolute, err := filepath.Abs("z.sock")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"z.sock", "./z.sock", "run/../z.sock"} {
			if got, want := PathIdentity(path), PathIdentity(absolute); got != want {
				t.Errorf("%s is %s, want %s", path, got, want)
			}
		}
	}
}

// TestLinksLeadToOneSocket, be it there or not.
func TestLinksLeadToOneSocket(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	run, link := filepath.Join(dir, "run"), filepath.Join(dir, "var-run")
	if err := errors.Join(os.Mkdir(run, 0o700), os.Symlink(run, link), os.WriteFile(filepath.Join(run, "a.sock"), nil, 0o600),
		os.Symlink("a.sock", filepath.Join(run, "b.sock"))); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(link, "a.sock"):            filepath.Join(run, "a.sock"),
		filepath.Join(run, "b.sock"):             filepath.Join(run, "a.sock"),
		filepath.Join(link, "none.sock"):         filepath.Join(run, "none.sock"),
		link + "/../run//none.sock":              filepath.Join(run, "none.sock"),
		filepath.Join(dir, "no", "..", "a.sock"): filepath.Join(dir, "a.sock"),
		filepath.Join(dir, "no", "a.sock"):       filepath.Join(dir, "no", "a.sock"),
	} {
		if got := PathIdentity(path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
}
