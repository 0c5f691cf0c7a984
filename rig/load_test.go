package rig

import (
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// TestLoadOfSeveralServers: what one server does not tell, or a server that is
// gone, takes nothing from the others' numbers, and a counter never falls.
func TestLoadOfSeveralServers(t *testing.T) {
	nan := math.NaN()
	synctest.Test(t, func(t *testing.T) {
		r := &Rig{cfg: Config{StaleAfter: 2 * time.Second, PrometheusPollInterval: 500 * time.Millisecond}}
		m := &Model{rig: r, servers: []*Server{{rig: r}, {rig: r}}}
		if load, _ := m.ServerLoad(); load != nil {
			t.Errorf("before anything was said: %+v", load)
		}
		for i, c := range []struct {
			said [2]*[4]float64 // nil: nothing, for longer than it may be old
			want [4]float64
		}{
			{[2]*[4]float64{{3, 1, 0.5, nan}, {5, 0, 0.25, nan}}, [4]float64{8, 1, 0.375, nan}},
			{[2]*[4]float64{{3, 1, 0.5, 7}, {5, 0, 0.25, 4}}, [4]float64{8, 1, 0.375, 11}},
			{[2]*[4]float64{{3, nan, 0.5, 8}, {nan, 2, nan, 4}}, [4]float64{3, 2, 0.5, 12}},
			{[2]*[4]float64{{3, nan, nan, nan}, {5, nan, nan, 4}}, [4]float64{8, nan, nan, 12}},
			{[2]*[4]float64{nil, {5, 0, 0.25, 6}}, [4]float64{5, 0, 0.25, 14}},        // dead
			{[2]*[4]float64{{0, 0, 0, nan}, {5, 0, 1, 6}}, [4]float64{5, 0, 0.5, 14}}, // restarted
			{[2]*[4]float64{{1, 0, 0, 0}, {5, 0, 1, 6}}, [4]float64{6, 0, 0.5, 14}},
			{[2]*[4]float64{{1, 0, 0, 2}, {5, 0, 1, 6}}, [4]float64{6, 0, 0.5, 16}},
			{[2]*[4]float64{{1, 0, 0, 1}, {5, 0, 1, 6}}, [4]float64{6, 0, 0.5, 17}}, // restarted again
		} {
			<-time.After(2*time.Second + 1)
			for s, said := range c.said {
				if said != nil {
					m.servers[s].lastLoad.set(datacenter.ServerLoad{NumRequestsRunning: said[0], NumRequestsWaiting: said[1], KVCacheUsagePerc: said[2], NumPreemptionsTotal: said[3]}, time.Now())
				}
			}
			<-time.After(2 * time.Second) // as old as it may be
			load, _ := m.ServerLoad()
			if load == nil {
				t.Fatalf("%d: nothing", i)
			}
			got := [4]float64{load.NumRequestsRunning, load.NumRequestsWaiting, load.KVCacheUsagePerc, load.NumPreemptionsTotal}
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("%d: %v, want %v", i, got, c.want)
			}
		}
		<-time.After(1)
		if load, _ := m.ServerLoad(); load != nil {
			t.Errorf("when all is too old: %+v", load)
		}
	})
}
