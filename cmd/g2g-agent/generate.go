package main

import (
	"errors"

	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
	"github.com/g2g-agent/g2g-agent/workload"
)

type generateCmd struct {
	Requests      requestsCmd      `cmd:"" help:"Write request files of a live run, a file LABEL.jsonl a model, from a data set or prompts of your own."`
	InferenceData inferenceDataCmd `cmd:"" help:"Make an OpenG2G data directory from ML.ENERGY benchmark data: power traces, ITL fits, logistic fits."`
	TrainingTrace trainingTraceCmd `cmd:"" help:"Write a synthetic power trace of one training GPU as CSV (t_s,power_W)."`
}

// trainingTraceCmd has OpenG2G's TrainingTraceParams as flags.
type trainingTraceCmd struct {
	Out           string    `default:"-" placeholder:"FILE" help:"CSV file to write, - for standard output."`
	DurationS     float64   `default:"1000" help:"Length of the trace in seconds."`
	DTS           float64   `name:"dt-s" default:"0.1" help:"Seconds between samples."`
	Seed          uint64    `default:"2" help:"Random seed."`
	PHi           float64   `name:"p-hi" default:"225" help:"Power of the high plateaus in watts."`
	PLo           float64   `name:"p-lo" default:"175" help:"Power of the low plateaus in watts."`
	SigmaHi       float64   `default:"50" help:"Noise on the high plateaus, standard deviation in watts."`
	SigmaLo       float64   `default:"50" help:"Noise on the low plateaus, standard deviation in watts."`
	SegLoRange    []float64 `default:"10,15" placeholder:"LOW,HIGH" help:"Length of the low plateaus in seconds."`
	SegHiRange    []float64 `default:"35,40" placeholder:"LOW,HIGH" help:"Length of the high plateaus in seconds."`
	DipProbPerSec float64   `default:"0.01" help:"Expected short dips per second."`
	DipDepthRange []float64 `default:"120,125" placeholder:"LOW,HIGH" help:"Depth of the dips in watts."`
	DipDurRange   []float64 `default:"0.06,0.14" placeholder:"LOW,HIGH" help:"Length of the dips in seconds."`
	SmoothWindowS float64   `default:"0.3" help:"Width of the moving average in seconds."`
	RampS         float64   `default:"18" help:"Length of the ramp at the start in seconds."`
	RampFrom      float64   `default:"50" help:"Power the ramp starts from in watts."`
}

func (cmd trainingTraceCmd) Run(term terminal) error {
	params := workload.TrainingTraceParams{
		DurationS: cmd.DurationS, DTS: cmd.DTS, Seed: cmd.Seed,
		PHi: cmd.PHi, PLo: cmd.PLo, SigmaHi: cmd.SigmaHi, SigmaLo: cmd.SigmaLo,
		DipProbPerSec: cmd.DipProbPerSec, SmoothWindowS: cmd.SmoothWindowS, RampS: cmd.RampS, RampFrom: cmd.RampFrom,
	}
	var errs []error
	for _, r := range []struct {
		flag string
		from []float64
		to   *[2]float64
	}{
		{"seg-lo-range", cmd.SegLoRange, &params.SegLoRange}, {"seg-hi-range", cmd.SegHiRange, &params.SegHiRange},
		{"dip-depth-range", cmd.DipDepthRange, &params.DipDepthRange}, {"dip-dur-range", cmd.DipDurRange, &params.DipDurRange},
	} {
		if len(r.from) != len(r.to) {
			errs = append(errs, invalidf("--%s wants LOW,HIGH, got %d numbers", r.flag, len(r.from)))
			continue
		}
		copy(r.to[:], r.from)
	}
	if err := errors.Join(append(errs, params.Validate()...)...); err != nil {
		return err
	}
	trace := workload.GenerateTrainingTrace(params)
	if cmd.Out == "-" {
		return workload.WriteTrainingTrace(term.stdout, trace)
	}
	file, err := atomicfile.Create(cmd.Out)
	if err != nil {
		return invalidf("%w", err)
	}
	defer file.Abort()
	if err := workload.WriteTrainingTrace(file, trace); err != nil {
		return err
	}
	return file.Commit()
}
