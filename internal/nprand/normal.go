package nprand

import "math"

//go:generate go run gen_tables.go

// ziggurat holds, for each of the 256 layers, what the accepting test reads
// (see gen_tables.go for where the numbers come from).
type ziggurat struct {
	accept uint64  // a 52-bit draw below this lies inside the layer's rectangle
	width  float64 // the layer's x per unit of the 52-bit draw
}

const draw52 = 1<<52 - 1

// StandardNormal returns a draw from the standard normal distribution by the
// 256-layer ziggurat (Marsaglia and Tsang, 2000), as Generator.standard_normal.
func (g *Generator) StandardNormal() float64 {
	r := g.Uint64()
	layer := &zigguratNormal[r&0xff]
	m := r >> 9 & draw52
	x := signed(float64(float64(int64(m))*layer.width), r>>8)
	if m < layer.accept {
		return x
	}
	return g.normalOutside(r, x)
}

// FillStandardNormal fills dst with standard normal draws, as
// Generator.normal(0, 1, size=len(dst)).
func (g *Generator) FillStandardNormal(dst []float64) {
	// As StandardNormal, with the state held in registers: this loop is the
	// larger part of a step's cost.
	state := g.state
	for i := range dst {
		state = state.next(g.inc)
		r := state.output()
		layer := &zigguratNormal[r&0xff]
		m := r >> 9 & draw52
		x := signed(float64(float64(int64(m))*layer.width), r>>8)
		if m >= layer.accept {
			g.state = state
			x = g.normalOutside(r, x)
			state = g.state
		}
		dst[i] = x
	}
	g.state = state
}

// normalOutside finishes a draw r whose candidate x fell outside its layer's
// rectangle: into the tail, the wedge, or nowhere.
func (g *Generator) normalOutside(r uint64, x float64) float64 {
	for {
		layer := r & 0xff
		m := r >> 9 & draw52
		switch {
		case m < zigguratNormal[layer].accept:
			return x
		case layer == 0:
			// Marsaglia's tail method beyond the last rectangle. The sign is bit 8
			// of the 52-bit draw, not the candidate's.
			for {
				xx := float64(-zigguratRInv * math.Log1p(-g.Random()))
				yy := -math.Log1p(-g.Random())
				if yy+yy > float64(xx*xx) {
					return signed(zigguratR+xx, m>>8)
				}
			}
		default:
			above, below := zigguratDensity[layer-1], zigguratDensity[layer]
			if float64((above-below)*g.Random())+below < math.Exp(-0.5*x*x) {
				return x
			}
		}
		r = g.Uint64()
		m = r >> 9 & draw52
		x = signed(float64(float64(int64(m))*zigguratNormal[r&0xff].width), r>>8)
	}
}

// signed returns x, negated when the lowest bit of sign is set.
func signed(x float64, sign uint64) float64 {
	return math.Float64frombits(math.Float64bits(x) ^ sign<<63)
}

// Normal returns a draw from the normal distribution, as
// Generator.normal(loc, scale).
func (g *Generator) Normal(loc, scale float64) float64 {
	return loc + float64(scale*g.StandardNormal())
}

// LogNormal returns a draw whose logarithm is normal with the given mean and
// standard deviation, as Generator.lognormal(mean, sigma).
func (g *Generator) LogNormal(mean, sigma float64) float64 {
	return math.Exp(g.Normal(mean, sigma))
}
