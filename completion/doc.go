// Package completion makes streaming chat completions on a vLLM server and tells what
// each read brought, and when: one [Stream] a connection, many of a [Client]'s in one
// goroutine, stamped by the kernel as their bytes came.
//
// A response is read as it arrives: HTTP/1.1 and its chunks, server-sent events, and of
// each event only what counts tokens, says that the answer has ended or tells of a
// failure. An event that differs from the one before in its text and numbers alone is
// not read in full. Each way to fail is an [ErrorKind].
package completion
