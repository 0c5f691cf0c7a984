// Package mlenergy makes inference data out of ML.ENERGY benchmark data: it reads a
// compiled benchmark directory (runs/llm.parquet and a results.json a run), chooses the
// runs that a spec asks for, and turns them into power traces, fits of inter-token
// latency (ITL) and logistic fits, as OpenG2G 0.2 does with mlenergy-data 0.4.
//
// Errors of the data wrap [datacenter.ErrInvalidInput] and name the file and, in it,
// the row and column, or the key and byte.
package mlenergy
