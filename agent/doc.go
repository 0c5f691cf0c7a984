// Package agent is the step loop. A [Pipeline] turns a [Source]'s readings into
// the datacenter's states, one per step, and applies commands between steps; a
// [Replay] runs a pipeline over recorded traces from its first step to its last.
package agent
