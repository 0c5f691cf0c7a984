// Package metrics serves the agent's numbers to Prometheus: what the site draws
// and is told to do, how well it is measured, whether steps keep to their time,
// and what the agent itself costs.
//
// Names follow Prometheus' conventions: they begin with g2g_, and end with the
// unit, spelled out, of what they count. A value that is not known has no series;
// it is never 0 and never NaN. All that one scrape says of the run comes from one
// state, one status and one set of statistics.
//
// docs/metrics.md is generated from the families that this package declares.
package metrics

//go:generate go test -count=1 -run ^TestReference$ -update .
