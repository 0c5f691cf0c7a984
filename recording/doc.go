// Package recording keeps what a live run saw: a directory of segments, each a file of
// JSON lines in Zstandard frames with checksums, one frame a second. What is in them is
// enough to run it again bit for bit, and any tool that knows JSON lines and Zstandard
// can read it. docs/recording.md describes the format.
package recording
