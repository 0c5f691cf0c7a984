package sim

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// BenchmarkChunks writes to streams whose client only drops what it reads, and
// reports chunks per second of one core's time, client and kernel included.
func BenchmarkChunks(b *testing.B) {
	for _, streams := range []int{64, 512, 2048} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			// Iterations shorter than the writing: the engine does nothing else.
			v := startVLLM(b, VLLMConfig{MaxNumSeqs: streams, Profile: steady(time.Microsecond)})
			var wg sync.WaitGroup
			var read atomic.Int64
			conns := make([]net.Conn, streams)
			for i := range conns {
				c, err := (&net.Dialer{}).DialContext(b.Context(), "tcp", v.Addr())
				if err != nil {
					b.Fatal(err)
				}
				conns[i] = c
				if _, err := io.WriteString(c, post("/v1/chat/completions", chatBody(maxOutputTokens))); err != nil {
					b.Fatal(err)
				}
				wg.Go(func() {
					n, _ := io.Copy(io.Discard, c) // until it is closed
					read.Add(n)
				})
			}
			ticker := time.NewTicker(time.Millisecond)
			defer ticker.Stop()
			for v.Truth().Running < streams {
				<-ticker.C
			}
			v.ResetTruth()
			cpu := cpuTime(b)
			b.ResetTimer()
			for v.Truth().Chunks < int64(b.N) {
				<-ticker.C
			}
			b.StopTimer()
			used := (cpuTime(b) - cpu).Seconds()
			b.ReportMetric(float64(v.Truth().Chunks)/b.Elapsed().Seconds(), "chunks/s")
			b.ReportMetric(used/float64(v.Truth().Chunks)*1e6, "cpu-us/chunk")
			for _, c := range conns {
				c.Close()
			}
			wg.Wait()
		})
	}
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
