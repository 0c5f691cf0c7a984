// Package zeusd reads the power of GPUs and CPUs from zeusd daemons, one or
// many, versions 0.4 and 0.5, over TCP or a Unix socket.
//
// A daemon sends a device's power only when it changed, without a heartbeat, and
// begins each stream with what it sent last, to whomever and however long ago. So
// silence says nothing, and neither does a stream's beginning: a [Source] asks for
// every device that was silent for a while. An answer confirms the value held. No
// answer says that a driver hangs, or, if the daemon does not tell its time either,
// that the peer is dead, however open its connection looks; then the source connects
// again, for ever. Refusals may pass, and are tried again too.
//
// A daemon before 0.5 cannot be asked while it has listeners; how it is asked
// nevertheless stands in opening.go.
//
// A value is never dropped because its daemon is gone: whoever takes the readings
// keeps it, is told whenever it is known to hold still, and says what is stale. A
// reading that no such device can draw is no value.
//
// Time stamps are the daemon's, mapped to this host's monotonic clock, so that
// neither a daemon clock that is wrong nor one of the two being set moves them.
//
// Connections end with a reset: a daemon that has nothing to send does not notice
// an orderly end, and would keep a descriptor and a listener for each.
package zeusd
