package power

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestOneAddressHoweverItIsSpelled: two spellings of a daemon are one daemon.
func TestOneAddressHoweverItIsSpelled(t *testing.T) {
	for want, spellings := range map[string][]Endpoint{
		"node1:4938":       {{Host: "node1"}, {Host: "Node1", Port: 4938}},
		"node1:80":         {{Host: "node1", Port: 80}},
		"[::1]:4938":       {{Host: "::1"}, {Host: "0:0:0:0:0:0:0:1", Port: 4938}},
		"[fe80::1]:4938":   {{Host: "FE80::0001"}},
		"/run/zeusd.sock":  {{Socket: "/run/zeusd.sock"}, {Socket: "/run//./zeusd.sock"}},
		"192.168.0.1:4938": {{Host: "192.168.0.1"}},
	} {
		for _, e := range spellings {
			if got := e.Address(4938); got != want {
				t.Errorf("%+v is %s, want %s", e, got, want)
			}
		}
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
