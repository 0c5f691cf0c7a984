package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
	"github.com/g2g-agent/g2g-agent/record"
)

// stdoutPath as --out is CSV on standard output.
const stdoutPath = "-"

// openOutput opens what --out names for a run that can be done again: a file appears
// when it is complete, in place of an earlier one, which is logged then. What runs
// that were interrupted have left is removed.
func openOutput(path string, models []datacenter.ModelSpec, paced bool, term terminal, log zerolog.Logger) (record.Output, error) {
	if path == "" || path == stdoutPath {
		return openStream(path, models, paced, term)
	}
	target, mode, exists, _ := atomicfile.Locate(path) // what is wrong with it, Create says
	file, err := record.Create(path, labelsOf(models))
	if err != nil {
		return nil, err
	}
	atomicfile.TakeLeftovers(target, func(_ *os.File, dead string) {
		if err := os.Remove(dead); err != nil {
			log.Warn().Err(err).Msg("a file left by a run that was interrupted cannot be removed")
			return
		}
		log.Warn().Str("file", dead).Msg("a file left by a run that was interrupted was removed")
	})
	if exists && mode.IsRegular() {
		return replacingOutput{file, func() { log.Info().Str("file", path).Msg("the earlier file was replaced") }}, nil
	}
	return file, nil
}

// openKeptOutput opens what --out names for a run in real time, which nobody can do
// again: see [record.Keep].
func openKeptOutput(path string, models []datacenter.ModelSpec, term terminal) (out record.Output, notices []string, err error) {
	if path == "" || path == stdoutPath {
		out, err := openStream(path, models, true, term)
		return out, nil, err
	}
	return record.Keep(path, labelsOf(models))
}

func openStream(path string, models []datacenter.ModelSpec, paced bool, term terminal) (record.Output, error) {
	if path == "" {
		return noOutput{}, nil
	}
	w, err := record.NewCSVWriter(term.stdout, labelsOf(models))
	return stdoutOutput{w, paced}, err
}

func labelsOf(models []datacenter.ModelSpec) []string {
	labels := make([]string, len(models))
	for i := range models {
		labels[i] = models[i].ModelLabel
	}
	return labels
}

// replacingOutput tells that it has replaced an earlier one.
type replacingOutput struct {
	*record.File
	tell func()
}

func (o replacingOutput) Commit() error {
	err := o.File.Commit()
	if err == nil {
		o.tell()
	}
	return err
}

type noOutput struct{}

func (noOutput) Write(*datacenter.State) error { return nil }
func (noOutput) Commit() error                 { return nil }
func (noOutput) Abort()                        {}

// stdoutOutput is CSV on standard output, in a paced run each row at once.
type stdoutOutput struct {
	*record.CSVWriter
	paced bool
}

func (o stdoutOutput) Write(s *datacenter.State) error {
	err := o.CSVWriter.Write(s)
	if err == nil && o.paced {
		err = o.CSVWriter.Flush()
	}
	if errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("%w: %w", record.ErrReaderGone, err)
	}
	return err
}

func (o stdoutOutput) Commit() error { return o.Close() }
func (stdoutOutput) Abort()          {}
