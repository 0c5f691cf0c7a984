package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/g2g-agent/g2g-agent/api"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// checkedBody is what check --json prints of a config in which nothing is wrong.
type checkedBody struct {
	OK      bool   `json:"ok"`
	Version string `json:"version"`
	// Config is the effective config.
	Config       json.RawMessage `json:"config"`
	ConfigDigest string          `json:"config_digest"`
	DT           string          `json:"dt"`
	DTS          float64         `json:"dt_s"`
	// DurationS and TotalSteps are a replay's; null if it has no end, or there is none.
	DurationS  *float64 `json:"duration_s"`
	TotalSteps *int64   `json:"total_steps"`
	Seed       uint64   `json:"seed"`
	For        []string `json:"for"`
	// Models are as [api.StaticModels] has them.
	Models   any      `json:"models"`
	Warnings []string `json:"warnings"`
}

// refusedBody is what check --json prints of a config in which something is wrong.
type refusedBody struct {
	OK     bool         `json:"ok"`
	Errors []wrongInput `json:"errors"`
}

// wrongInput is one fault: Path is the key, empty if the fault is none of a single key's.
type wrongInput struct {
	Path    string `json:"path"`
	Message string `json:"message"`
}

// printJSON checks the file, unless reading it failed with err already, and prints what
// was found. What is wrong is also the error.
func (cmd checkCmd) printJSON(ctx context.Context, term terminal, file *config.File, err error) error {
	var found *checked
	if err == nil {
		found, err = check(ctx, term, file)
	}
	var body any
	if err == nil {
		body, err = found.body()
	}
	if err != nil {
		body = refusedBody{Errors: faultsOf(err, config.DisplayName(cmd.Config))}
	}
	text, jsonErr := json.Marshal(body)
	if jsonErr == nil {
		_, jsonErr = io.WriteString(term.stdout, string(text)+"\n")
	}
	return errors.Join(err, jsonErr)
}

func (found *checked) body() (*checkedBody, error) {
	c := found.config
	digest, err := c.Digest()
	if err != nil {
		return nil, err
	}
	effective, err := c.Effective()
	if err != nil {
		return nil, err
	}
	body := &checkedBody{
		OK: true, Version: programVersion(), Config: effective, ConfigDigest: digest, DT: c.DT.String(), DTS: c.DT.Float64(), Seed: c.Seed,
		For: []string{}, Warnings: []string{},
	}
	if found.replay != nil {
		body.For = append(body.For, "replay")
		if !found.replay.Replay.Endless() {
			duration, steps := c.Replay.Duration.Float64(), found.replay.Replay.Steps()
			body.DurationS, body.TotalSteps = &duration, &steps
		}
	}
	if found.live {
		body.For = append(body.For, "run")
	}
	models, err := found.specs()
	if err != nil {
		return nil, err
	}
	body.Models = api.StaticModels(models)
	for _, w := range found.warnings {
		if !slices.Contains(body.Warnings, w) {
			body.Warnings = append(body.Warnings, w)
		}
	}
	return body, nil
}

// specs are the models in config order, with what a run of the config would know of them.
func (found *checked) specs() ([]datacenter.ModelSpec, error) {
	if found.models != nil {
		return found.models, nil
	}
	return found.config.ModelSpecs() // the config is for no run
}

// faultsOf takes an error apart into the faults in a config of that name.
func faultsOf(err error, name string) []wrongInput {
	if invalid := (*config.Error)(nil); errors.As(err, &invalid) && err == error(invalid) { //nolint:errorlint // the tree is walked node by node
		faults := make([]wrongInput, len(invalid.Problems))
		for i, p := range invalid.Problems {
			faults[i] = wrongInput{p.Path, excerpt.Printable(p.Message, maxMessage, '\n')}
		}
		return faults
	}
	if joined, is := err.(interface{ Unwrap() []error }); is && strings.Contains(err.Error(), "\n") {
		var faults []wrongInput
		for _, e := range joined.Unwrap() {
			faults = append(faults, faultsOf(e, name)...)
		}
		return faults
	}
	message := strings.ReplaceAll(err.Error(), datacenter.ErrInvalidInput.Error()+": ", "")
	message = strings.TrimPrefix(message, name+": ")
	path := ""
	if key, rest, found := strings.Cut(message, ": "); found && regexp.MustCompile(`^[a-z_]+(\[\d+\])?(\.[a-z_]+(\[\d+\])?)+$`).MatchString(key) {
		path, message = key, rest
	}
	return []wrongInput{{path, excerpt.Printable(message, maxMessage, '\n')}}
}
