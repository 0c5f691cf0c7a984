// Package stream keeps the latest states and events of a run in memory and sends
// them to those who follow it over WebSockets.
//
// The step loop publishes to a [Hub]; [Sockets] serve its followers. A follower
// has a goroutine of its own that takes what is new at its own speed, so that
// however slow it is, it delays neither a step nor another follower. A message
// is encoded once, by the first who sends it.
//
// A client of the states gets the latest one at once and then each new one, in
// order. Should more than 50 wait for it for longer than 5 s, or more than 1024 at
// all, it goes on with the newest, and is told before that how many it missed:
//
//	{"skipped":N}
//
// A client of the states that says which it had last goes on after it: what is kept
// for longer comes out of the history, also when it falls behind, and it misses only
// what that does not keep either. When another run begins all are told of it before
// its first state:
//
//	{"run_id":"…"}
//
// A client of the events gets those kept, 1000 at most, and then each new one. It
// is told likewise how many it missed, and goes on with the oldest one left.
//
// The agent pings every 20 s, and gives a follower up that sends nothing for
// 2 minutes or takes no message for 30 s. Followers have nothing to say: their
// messages of up to 512 bytes are ignored, longer ones end the connection with
// 1009, more than 10 frames a second, after the first 100, with 1008. When the
// agent ends, so do the connections, with 1001. Messages are not compressed. A
// client that offers sub-protocols must offer g2g-agent.v1, which is chosen.
//
// [Conversations] are WebSockets of another kind: each message of a client, of up to 64 KiB,
// is answered by one. They follow nothing, are not pinged and may be silent for ever.
package stream
