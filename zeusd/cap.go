package zeusd

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// CapRangeW implements [power.Capper] with GET /gpu/get_power_limit_constraints,
// which zeusd has from 0.5 on.
func (s *Source) CapRangeW(ctx context.Context, index int) (leastW, mostW float64, err error) {
	const path = "/gpu/get_power_limit_constraints"
	p := s.conn.controlPeer()
	defer p.close()
	var says map[int]struct {
		MinMW float64 `json:"min_power_limit_mw"`
		MaxMW float64 `json:"max_power_limit_mw"`
	}
	if _, err := p.getJSON(ctx, path, powerQuery(GPU, []int{index}), &says); err != nil {
		return 0, 0, err
	}
	leastW, mostW = says[index].MinMW/1e3, says[index].MaxMW/1e3
	if !(leastW >= 0 && mostW > leastW && mostW <= mostGPUW) {
		return 0, 0, fmt.Errorf("%s: GET %s: GPU %d can be limited to %v to %v W, want more than one value of at most %v",
			p.endpoint, path, index, leastW, mostW, mostGPUW)
	}
	return leastW, mostW, nil
}

// SetCapW implements [power.Capper] with POST /gpu/set_power_limit, sent once, which
// needs the API group and scope gpu-control. The daemon answers when the driver
// has; when it has not within 5 s, the limit may be set all the same.
func (s *Source) SetCapW(ctx context.Context, index int, capW float64) error {
	const path = "/gpu/set_power_limit"
	p := s.conn.controlPeer()
	defer p.close()
	if !(capW > 0 && capW <= mostGPUW) {
		return fmt.Errorf("%s: the limit of GPU %d is to be %v W, want more than 0 and at most %v", p.endpoint, index, capW, mostGPUW)
	}
	ctx, cancel := p.limit(ctx)
	defer cancel()
	resp, err := p.send(ctx, http.MethodPost, path, powerQuery(GPU, []int{index})+"&power_limit_mw="+strconv.FormatInt(int64(math.Round(capW*1e3)), 10)+"&block=true")
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// controlTimeout is for each question of a control peer: a driver may take its time
// to set a limit, which says nothing about whether power can be read.
const controlTimeout = 5 * time.Second

// controlPeer is the daemon over a connection of its own, which no stream holds up
// and over which nothing is sent twice.
func (c *conn) controlPeer() *peer {
	p := newPeer(c.target.Endpoint, controlTimeout, c.cfg.dial)
	p.client.Transport.(*http.Transport).DisableKeepAlives = true
	return p
}
