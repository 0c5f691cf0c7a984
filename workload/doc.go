// Package workload reads, writes and generates what the datacenter serves:
// inference power traces and inter-token latency (ITL) fits in OpenG2G's data
// directories, and training traces. From the traces it builds the per-GPU power
// templates a replay steps through.
//
// Files are checked strictly: every error is a [*FileError] that names the file
// and, where there is one, the line.
package workload
