package logtest

import (
	"fmt"
	"sync"
	"testing"
)

func TestBuffer(t *testing.T) {
	var b Buffer
	var writers sync.WaitGroup
	for i := range 10 {
		writers.Go(func() { fmt.Fprintf(&b, "{\"n\": %d}\n", i) })
		_ = b.String()
	}
	writers.Wait()
	sum := 0.0
	for _, line := range b.Lines(t) {
		n, _ := line["n"].(float64)
		sum += n
	}
	if sum != 45 {
		t.Errorf("the log is %s, want the numbers 0 to 9", b.String())
	}
}
