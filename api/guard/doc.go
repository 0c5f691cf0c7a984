// Package guard decides who may talk to the control API: it listens, with TLS
// and a limit on connections, and checks each request before the API sees it.
//
// [Guard.Wrap] checks in this order, and the first check that fails answers:
//
//  1. Host. While no token is configured, only requests that name this host by a
//     loopback name are served, so that a web page cannot reach the agent through
//     a name of its own that it points at 127.0.0.1 (403). Where commands need a
//     token and reading does not, reading is held to names of this host likewise:
//     its addresses, its own name, those configured. Health checks are exempt.
//  2. Room. Beyond the limits on connections only probes, commands and callers with
//     a token are served, and the connection is closed (429).
//  3. Rate. Each client address may make so many requests a second; callers with
//     the control token, with the read token and without are counted apart, so that
//     others cannot use up what is theirs. Health checks are exempt (429).
//  4. Origin. Preflight requests are answered for the allowed origins and for no
//     other; requests that change something, and WebSockets, are refused when a
//     browser sends them for a page of another origin (403).
//  5. Token. Commands need the control token, if there is one; reading needs
//     either token if there is a read token; the rest needs none (401, 403, and
//     429 after too many wrong tokens).
//  6. Size. A request has at most 64 KiB (413).
//
// The right token always passes, whatever else comes from the address. Wrong ones
// beyond ten are answered with 429, one a second excepted, and each costs its sender
// a connection; what they cost the agent is a digest and a look into a table.
//
// Tokens are taken from the Authorization header and, since browsers cannot set
// that for WebSockets, from a WebSocket sub-protocol; never from the query, which
// ends up in logs. Neither is logged here, and both are taken out of a request
// before it is handed on. Addresses are those of the connections: headers such as
// X-Forwarded-For are anyone's to write, and are not read.
package guard
