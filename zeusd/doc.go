// Package zeusd reads the power of GPUs and CPUs from zeusd daemons, one or
// many, versions 0.3 to 0.5, over TCP or a Unix socket.
//
// A daemon sends a device's power only when it changed, without a heartbeat and
// without a first value for a late listener. So silence says nothing, and a
// [Client] asks: it opens the stream, takes a snapshot, and from then on asks for
// every device that was silent for a while. An answer confirms the value held; no
// answer means that the peer is dead, however open its connection looks, and the
// client connects again, for ever, unless the daemon refuses the token.
//
// A value is never dropped because its daemon is gone: [Client.Latest] returns it
// with the time when it was last known to hold, and what is stale is for the
// caller to say.
//
// Time stamps are the daemon's, mapped to this host's monotonic clock, so that
// neither a daemon clock that is wrong nor one of the two being set moves them.
package zeusd
