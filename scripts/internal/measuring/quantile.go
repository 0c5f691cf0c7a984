package measuring

import (
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"
)

// Quantiles returns, for each share in [0, 1], the smallest of the values that at
// least this share of them does not exceed; NaN without values.
func Quantiles(values []float64, shares ...float64) []float64 {
	sorted := slices.Sorted(slices.Values(values))
	quantiles := make([]float64, len(shares))
	for i, share := range shares {
		quantiles[i] = math.NaN()
		if len(sorted) > 0 {
			quantiles[i] = stat.Quantile(share, stat.Empirical, sorted, nil)
		}
	}
	return quantiles
}

// Median is the quantile of one half.
func Median(values []float64) float64 { return Quantiles(values, 0.5)[0] }
