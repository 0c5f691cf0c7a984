// Package plots draws what was measured and what was run as PNG or SVG, good
// enough for a paper: power traces, inter-token latency fits, logistic fits and
// whole runs.
//
// Building and drawing are apart. [Power], [ITL], [Logistic] and [Run] turn data
// into a [Figure], which is plain numbers and words; [WriteFile] lays it out and
// draws it. The same figure and [Style] give the same bytes.
//
// Colours tell apart for the colour-blind as well: Okabe and Ito's for names, a
// scale from dark to bright for batch sizes. What has the same colour differs in its
// dashes. Legends stand above the data, never on it.
package plots
