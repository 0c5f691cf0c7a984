// Package api is the agent's HTTP API: states, events and models to read, batch
// sizes and replica shifts to command, a replay to drive step by step. It is
// described by an OpenAPI document, which it serves, and answers mistakes with
// problem details (RFC 9457) that name the field at fault. The packages below
// it hold the WebSocket streams, the access rules, the metrics and the page.
package api
