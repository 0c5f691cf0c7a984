// Package sim has stand-ins for what an agent talks to: zeusd daemons and vLLM
// servers. They speak the real protocols over real sockets, can be told to fail
// in the ways the real ones do, and know the truth a client tries to measure.
// The demo and the tests of the other rooms run against them.
//
// A stand-in's choices (noise, lengths of iterations, sizes of chunks) derive
// from a seed; when things happen is up to the machine's clock.
package sim
