package zeusd

import "context"

// EnergyJ implements [power.EnergyMeter] with GET /gpu/get_cumulative_energy. One GPU
// that fails keeps the daemon from telling the others.
func (s *Source) EnergyJ(ctx context.Context, indices []int) (map[int]float64, error) {
	p := s.conn.controlPeer()
	defer p.close()
	mj, err := p.energy(ctx, indices)
	if err != nil {
		return nil, err
	}
	energyJ := make(map[int]float64, len(mj))
	for gpu, v := range mj {
		energyJ[gpu] = v / 1e3
	}
	return energyJ, nil
}
