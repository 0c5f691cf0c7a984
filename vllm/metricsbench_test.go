package vllm

import (
	"bytes"
	"os"
	"testing"
)

func BenchmarkParseMetrics(b *testing.B) {
	page, err := os.ReadFile("../testdata/captures/vllm-0.32.0-metrics-load.txt")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetBytes(int64(len(page)))
	for b.Loop() {
		if _, err := parseMetrics(bytes.NewReader(page), "tiny"); err != nil {
			b.Fatal(err)
		}
	}
}
