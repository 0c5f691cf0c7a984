// Package buffer keeps the recent power readings of a model and answers what the
// power was at a time, for one time or for all the servers of a pool at once.
//
// One goroutine writes and any number read, without locks: the writer never
// waits for a reader, and a reader never waits for the writer.
package buffer
