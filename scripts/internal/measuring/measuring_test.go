package measuring

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProcess(t *testing.T) {
	var log, output []string
	ctx, p, err := Start(t.Context(), Program{
		Binary: "sh", Args: []string{"-c", `echo "$GREETING"; echo a >&2; printf 'b\nc' >&2; exit 3`}, Env: []string{"GREETING=hello"},
		OnLog:    func(line []byte) { log = append(log, string(line)) },
		OnOutput: func(line []byte) { output = append(output, string(line)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	err = p.Wait()
	if err == nil || !strings.Contains(err.Error(), "exit status 3\na\nb\nc\n") {
		t.Errorf("the error is %v", err)
	}
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, err) {
		t.Errorf("the context ended with %v, want %v", cause, err)
	}
	if !slices.Equal(log, []string{"a", "b", "c"}) || !slices.Equal(output, []string{"hello"}) {
		t.Errorf("the log is %q, the output %q", log, output)
	}
}

func TestProcessIsStopped(t *testing.T) {
	begun := make(chan struct{})
	ctx, p, err := Start(t.Context(), Program{
		Binary: "sh", Args: []string{"-c", `trap 'exit 0' INT; echo >&2; while :; do sleep 0.01; done`},
		OnLog: func([]byte) { close(begun) },
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-begun:
	case <-ctx.Done():
		t.Fatal(context.Cause(ctx))
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if p.CPU() < 0 || ctx.Err() == nil {
		t.Errorf("after the end, %v of CPU and context error %v", p.CPU(), ctx.Err())
	}
}

func TestTheTailOfALogIsKept(t *testing.T) {
	var log tail
	for range 1000 {
		log.add([]byte(strings.Repeat("x", 1000)))
	}
	log.add([]byte("the end"))
	if n := len(log.text); n < maxTailBytes || n > 2*maxTailBytes || !strings.HasSuffix(string(log.text), "x\nthe end\n") {
		t.Errorf("%d bytes are kept", n)
	}
}

func TestQuantiles(t *testing.T) {
	values := []float64{3, 1, 4, 2}
	if got := Quantiles(values, 0, 0.25, 0.5, 0.99, 1); !slices.Equal(got, []float64{1, 1, 2, 4, 4}) || values[0] != 3 {
		t.Errorf("the quantiles of %v are %v", values, got)
	}
	if got := Median(nil); !math.IsNaN(got) {
		t.Errorf("the median of nothing is %v", got)
	}
}
