package main

import (
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/record"
)

// stdoutPath as --out is CSV on standard output.
const stdoutPath = "-"

// openOutput opens what --out names; a paced run's rows are wanted at once.
func openOutput(path string, models []datacenter.ModelSpec, paced bool, term terminal) (record.Output, error) {
	labels := make([]string, len(models))
	for i, m := range models {
		labels[i] = m.ModelLabel
	}
	switch path {
	case "":
		return noOutput{}, nil
	case stdoutPath:
		w, err := record.NewCSVWriter(term.stdout, labels)
		return stdoutOutput{w, paced}, err
	default:
		return record.Create(path, labels)
	}
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
	if err := o.CSVWriter.Write(s); err != nil || !o.paced {
		return err
	}
	return o.Flush()
}

func (o stdoutOutput) Commit() error { return o.Close() }
func (stdoutOutput) Abort()          {}
