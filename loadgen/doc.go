// Package loadgen keeps one vLLM server under load and measures the inter-token
// latency (ITL) that its clients see.
//
// The load is closed-loop: a set number of requests is in flight, and each that
// ends is followed by the next. The measurement uses the kernel's receive times
// where the system has them, keeps a fixed amount of memory however long it
// runs, and says how good it is: see [Stats].
package loadgen
