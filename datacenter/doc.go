// Package datacenter is the vocabulary of g2g-agent: what a datacenter, its
// models, its commands and its states are. It imports nothing else of the
// project, performs no I/O and reads no clock.
//
// Names and meanings follow the datacenter package of OpenG2G. Power is in
// watts, time in seconds, unless a name says otherwise.
package datacenter

import "errors"

// ErrInvalidInput marks every error that is the fault of what the user handed
// in (a config, a data file, a command) and not of the run. The command line
// maps it to exit status 2.
var ErrInvalidInput = errors.New("invalid input")
