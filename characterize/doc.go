// Package characterize measures how models run on real servers: for each batch size
// the power, the inter-token latency (ITL) and the throughput, into files that a
// replay reads. Each measured point is durable as soon as it is done, with its raw
// samples, so that a characterization goes on where it was cut off.
//
// What decides (steadiness, which stretches of time count, which points are left) is
// apart from what waits for servers and files.
package characterize
