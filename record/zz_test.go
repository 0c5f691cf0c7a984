package record

import (
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"time"
	"fmt"
)

func TestZZ(t *testing.T) {
	raw := encode(t, parquetEnding, []string{"m"}, makeStates([]string{"m"}, 2))
	fmt.Println(len(raw))
	rng := rand.New(rand.NewPCG(1, 2))
	errs := map[string]int{}
	for i := range 40000 {
		b := append([]byte(nil), raw...)
		for range 1 + rng.IntN(3) {
			b[rng.IntN(len(b))] = byte(rng.Uint32())
		}
		os.WriteFile("/tmp/zz_last", b, 0o600)
		start := time.Now()
		var m0, m1 runtime.MemStats
		runtime.ReadMemStats(&m0)
		_, err := decode(parquetEnding, b)
		runtime.ReadMemStats(&m1)
		d := time.Since(start)
		if err != nil {
			e := err.Error()
			if len(e) > 90 { e = e[:90] }
			errs[e]++
		} else { errs["ok"]++ }
		if d > 200*time.Millisecond || m1.TotalAlloc-m0.TotalAlloc > 64<<20 {
			os.WriteFile(fmt.Sprintf("/tmp/zz_slow_%d", i), b, 0o600)
			fmt.Println(i, d, (m1.TotalAlloc-m0.TotalAlloc)>>20, "MB", err)
		}
	}
	for e, n := range errs { if n > 30 {fmt.Println(n, e)} }
}
