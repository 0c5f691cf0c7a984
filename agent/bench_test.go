package agent

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// BenchmarkStep is the whole step of a replay: readings, augmentation, latency,
// state. scripts/compare_openg2g.sh sets it against OpenG2G's.
func BenchmarkStep(b *testing.B) {
	cases := []struct {
		name, config string
		edit         func(*config.Config)
	}{
		{"three_models_noise_ramps_training", "three_models_noise_ramps_training", nil},
		{"ten_thousand_servers", "ten_thousand_servers", nil},
		{"million_gpus", "ten_thousand_servers", millionGPUs},
	}
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			replay := setUp(b, c.config, c.edit).Replay
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				_, err := replay.Step(time.Time{})
				if errors.Is(err, io.EOF) {
					b.StopTimer()
					if err = replay.Reset(); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
					_, err = replay.Step(time.Time{})
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// millionGPUs grows the case of 10,000 servers to 125,000, 119,000 of them busy.
func millionGPUs(c *config.Config) {
	c.Datacenter.TotalGPUCapacity = 1_000_000
	for i := range c.Models {
		n := *c.Models[i].Replicas.Initial * 25 / 2
		c.Models[i].Replicas.Initial = &n
	}
	c.Replay.Duration, _ = datacenter.ParseSeconds("300")
}
