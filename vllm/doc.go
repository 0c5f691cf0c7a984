// Package vllm speaks to one vLLM server: is it there and which models does it
// serve, what does its metrics page say, and how many sequences may it run at once.
// Streaming completions are package completion's.
//
// # Batch-size control
//
// How many sequences a server runs at once, its batch size, can be changed in
// three ways, each an [Actuator]. [Server.ProbeActuator] finds the best one that
// a server has, and [Server.SetBatchSize] is the command: one request, never
// repeated, because a caller that decides anew, on what the metrics say now, does
// better than a command that arrives late. What came of a command that failed is
// in the [CommandError]: whether the server may have obeyed nevertheless.
//
// A lower batch size acts only as running requests finish. What was achieved is
// [Metrics].NumRequestsRunning.
//
// # Metrics
//
// Each number of a metrics page stands by itself: [Server.Metrics] reads the lines
// it wants and no others, and what is wrong with one makes that number unknown.
//
// # What is tried again
//
// [Server.Health], [Server.Models], [Server.CheckModel] and
// [Server.ProbeActuator] ask again after a failed connection, 429 and 5xx: they
// run at the start, where one lost answer should not end the run. Commands and
// [Server.Metrics] are one request each; whoever scrapes periodically asks again
// anyway, and a late answer to an old question would pass for a new one.
//
// Questions follow redirects within the server, commands none. What was refused
// for its key is asked, or commanded, once more if the [Credential] has a new one.
package vllm
