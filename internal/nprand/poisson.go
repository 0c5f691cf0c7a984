package nprand

import "math"

// Poisson returns a draw from the Poisson distribution with mean lam, as
// Generator.poisson(lam). Means that NumPy refuses (negative, not a number,
// above 2^62) give 0 and draw nothing.
func (g *Generator) Poisson(lam float64) int64 {
	switch {
	case lam >= 10 && lam <= 1<<62:
		return g.poissonRejection(lam)
	case lam > 0 && lam < 10:
		return g.poissonMultiplication(lam)
	default:
		return 0
	}
}

// poissonMultiplication counts how many uniforms it takes for their product
// to fall to e^-lam (Knuth).
func (g *Generator) poissonMultiplication(lam float64) int64 {
	limit := math.Exp(-lam)
	n := int64(0)
	for product := g.Random(); product > limit; product *= g.Random() {
		n++
	}
	return n
}

// poissonRejection is the transformed rejection method PTRS (Hörmann, "The
// transformed rejection method for generating Poisson random variables", 1993);
// the constants are the paper's.
func (g *Generator) poissonRejection(lam float64) int64 {
	logLam := math.Log(lam)
	b := 0.931 + float64(2.53*math.Sqrt(lam))
	a := -0.059 + float64(0.02483*b)
	invAlpha := 1.1239 + 1.1328/(b-3.4)
	vr := 0.9277 - 3.6224/(b-2)
	for {
		u := g.Random() - 0.5
		v := g.Random()
		us := 0.5 - math.Abs(u)
		k := math.Floor(float64((2*a/us+b)*u) + lam + 0.43)
		if us >= 0.07 && v <= vr {
			return int64(k)
		}
		if k < 0 || us < 0.013 && v > us {
			continue
		}
		logGamma, _ := math.Lgamma(k + 1)
		if math.Log(v)+math.Log(invAlpha)-math.Log(a/float64(us*us)+b) <= float64(k*logLam)-lam-logGamma {
			return int64(k)
		}
	}
}
