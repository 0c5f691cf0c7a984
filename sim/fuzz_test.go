package sim

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func FuzzFaults(f *testing.F) {
	f.Add([]byte(`{"freeze":true,"silent_gpus":[0,1],"garbage_events":3,"status":500,"delay_s":0.5}`))
	f.Add([]byte(`{"slow_down":2.5,"no_done":1,"metrics_status":404,"delay_s":1e-9}`))
	f.Add([]byte(`{"delay_s":-1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		// What is accepted means something, and survives a round trip.
		if z, err := decodeStrict[ZeusdFaults](raw); err == nil {
			again := mustRoundTrip(t, z)
			if z.Delay < 0 || z.GarbageEvents < 0 || !cmp.Equal(z, again, sameDelay()) {
				t.Errorf("%+v, %+v", z, again)
			}
		}
		if v, err := decodeStrict[VLLMFaults](raw); err == nil {
			again := mustRoundTrip(t, v)
			if v.Delay < 0 || v.NoDone < 0 || !cmp.Equal(v, again, sameDelay()) {
				t.Errorf("%+v, %+v", v, again)
			}
		}
	})
}

// sameDelay allows for a nanosecond lost on the way through seconds.
func sameDelay() cmp.Option {
	return cmp.Comparer(func(a, b time.Duration) bool { return (a - b).Abs() <= 1 })
}

func mustRoundTrip[T any](t *testing.T, v T) T {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	again, err := decodeStrict[T](raw)
	if err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return again
}

func FuzzParseIDs(f *testing.F) {
	for _, query := range []string{"", "gpu_ids=0,2", "gpu_ids=", "gpu_ids=-1", "cpu_ids=0", "gpu_ids=%31", "gpu_ids=0,,1", "gpu_ids=0;1"} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		z := Zeusd{gpus: pollers{devices: make([]device, 3)}}
		ids, refusal := z.parseIDs(query, false, true)
		if refusal != "" {
			return
		}
		slices.Sort(ids)
		if len(ids) == 0 || len(slices.Compact(ids)) != len(ids) || ids[0] < 0 || ids[len(ids)-1] > 2 {
			t.Error(query, ids)
		}
	})
}
