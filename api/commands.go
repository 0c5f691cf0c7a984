package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/strictjson"
	"github.com/g2g-agent/g2g-agent/rig"
)

const (
	maxLeaseS = datacenter.MaxLeaseS
	// maxSteps is how far one request can advance a replay.
	maxSteps = 10_000
)

// batchSizesBody is what became of a command of batch sizes.
type batchSizesBody struct {
	TimeS             float64             `json:"time_s" doc:"The time of the step from which on it holds, in seconds since the first."`
	BatchSizes        map[string]int      `json:"batch_size_by_model" doc:"What all models are now commanded to run, in requests, by model label."`
	AchievedBatchSize map[string]*float64 `json:"achieved_batch_size_by_model" doc:"The requests that run, null where that is not known, by model label."`
	LeaseS            map[string]*float64 `json:"lease_s_by_model" doc:"For how many more seconds of the run a leased batch size holds, null without a lease, by model label."`
	Results           []modelResult       `json:"results" nullable:"false" doc:"What became of the command, for each model commanded, in config order."`
}

// TransformSchema lets values by model be null, which the tags of a struct cannot
// say.
func (batchSizesBody) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	for _, name := range []string{"achieved_batch_size_by_model", "lease_s_by_model"} {
		s.Properties[name].AdditionalProperties = &huma.Schema{Type: huma.TypeNumber, Nullable: true}
	}
	return s
}

// modelResult is what became of one model's part of a command.
type modelResult struct {
	ModelLabel string `json:"model_label" doc:"The model."`
	Outcome    string `json:"outcome" enum:"accepted,refused,unreachable,unknown" doc:"accepted: its server runs the new batch size. refused, unreachable: it runs the old one. unknown: there was no answer, it may run either."`
	Detail     string `json:"detail,omitempty" doc:"What went wrong."`
}

// outcomeAccepted is beside vLLM's outcomes, which are those of failures.
const outcomeAccepted = "accepted"

// batchSizesProblem is the answer where some servers did not do as they were told.
type batchSizesProblem struct {
	problem.Problem
	batchSizesBody
}

// replicaShiftBody is what became of a shift.
type replicaShiftBody struct {
	TimeS        float64  `json:"time_s" doc:"The time of the step from which on it holds, in seconds since the first."`
	ModelLabel   string   `json:"model_label" doc:"The model."`
	ReplicaDelta int      `json:"replica_delta" doc:"The replicas added, below 0: taken away."`
	ReplicaShift int      `json:"replica_shift" doc:"All shifts of the model so far."`
	Replicas     int      `json:"replicas" doc:"The replicas it asks for at the next step."`
	FreeReplicas int      `json:"free_replicas" doc:"How many more the free servers hold at the next step."`
	LeaseS       *float64 `json:"lease_s" nullable:"true" doc:"For how many more seconds of the run the leased shifts hold, null without a lease."`
}

// commandInput is the input of every command. The body is read in decode.go.
type commandInput struct {
	Key     string `header:"Idempotency-Key" minLength:"1" maxLength:"128" pattern:"^[!-~]+$" doc:"Makes it safe to send the command again: a request with the same key, path and body gets the first answer again, with the header Idempotency-Replayed, and is not carried out again. 1 to 128 visible ASCII characters. The latest 1000 are remembered, for 10 minutes." example:"6f1c7a52-0c0e-4f0b-9a62-6d7f5b1f0d11"`
	RawBody []byte `contentType:"application/json"`
}

// registerCommand adds a command. Its body is described by schema and read by
// carryOut.
func registerCommand[T any](api huma.API, op huma.Operation, schema string, example any, carryOut func(ctx context.Context, raw []byte) (*T, error)) {
	type output struct{ Body T }
	op.Method, op.Tags, op.Security = http.MethodPost, []string{tagCommand}, needsControl()
	op.SkipValidateBody = true
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{}}
	op.Responses["200"].Headers = map[string]*huma.Param{replayedHeader: {
		Description: "true: this is the answer to an earlier request with the same Idempotency-Key.", Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{"true"}},
	}}
	huma.Register(api, op, func(ctx context.Context, in *commandInput) (*output, error) {
		body, err := carryOut(ctx, in.RawBody)
		if err != nil {
			reportResult(ctx, err.Error())
			return nil, err
		}
		return &output{*body}, nil
	})
	op.RequestBody.Content[contentTypeJSON] = &huma.MediaType{Schema: ref(schema), Example: example}
}

// addCommands adds the operations that change something.
func (s *Server) addCommands(api huma.API) {
	answers := responses("Every model commanded runs its new batch size.", nil, nil, commandProblems(http.StatusNotFound)...)
	answers["502"] = problemResponse("Some vLLM servers did not do as they were told; the others have. results says which.", "BatchSizesProblem")
	registerCommand(api, huma.Operation{
		Path: "/v1/batch-sizes", OperationID: "setBatchSizes", Summary: "Set batch sizes",
		Description: "Sets the batch sizes of one or more models, in requests. Nothing is changed unless everything asked for is in order. " +
			"With lease_s the batch sizes hold for that many seconds of the run unless they are commanded anew.",
		Responses: answers,
	}, "BatchSizesCommand", map[string]any{"batch_size_by_model": map[string]any{"Llama-3.1-8B": 64}, "lease_s": 60}, s.setBatchSizes)

	answers = responses("The replicas are shifted.", nil, nil, commandProblems(http.StatusNotFound)...)
	registerCommand(api, huma.Operation{
		Path: "/v1/replica-shifts", OperationID: "shiftReplicas", Summary: "Shift replicas",
		Description: "Adds replicas to a model or takes some away, on top of its schedule and of earlier shifts. It is refused with status 409 where the capacity would not suffice, now or with the schedules to come.",
		Responses:   answers,
	}, "ReplicaShiftCommand", map[string]any{"model_label": "Llama-3.1-405B", "replica_delta": -20, "lease_s": 60}, s.shiftReplicas)

	answers = responses("The states of the steps computed: fewer than asked for at the replay's end, at last none.", manyStates{}.Schema(nil), nil, commandProblems()...)
	registerCommand(api, huma.Operation{
		Path: "/v1/steps", OperationID: "advance", Summary: "Advance a replay",
		Description: "Computes the next steps of a replay that waits to be driven (replay --pace step) and returns their states, powers in watts and latencies in seconds. Commands sent before hold from the first of them on. Any other run steps by itself: status 409.",
		Responses:   answers,
	}, "StepsCommand", map[string]any{"steps": 10}, s.advance)
}

// decodeCommand reads a body that is a command C.
func decodeCommand[C datacenter.Command](raw []byte) (command C, refused *problem.Problem) {
	decoded, err := datacenter.DecodeCommandBody(command.Name(), raw)
	if err != nil {
		return command, bodyProblem(err)
	}
	command, _ = decoded.(C) // as its name says
	return command, nil
}

func (s *Server) setBatchSizes(ctx context.Context, raw []byte) (*batchSizesBody, error) {
	command, refused := decodeCommand[datacenter.SetBatchSize](raw)
	if refused != nil {
		return nil, refused
	}
	if command.LeaseS == 0 {
		command.LeaseS = s.control.Load().DefaultLeaseS
	}

	err := s.cfg.Site.Apply(ctx, command)
	var servers *agent.ServersError
	if err != nil && !errors.As(err, &servers) {
		return nil, s.commandFailed(err)
	}
	body := s.batchSizes(command, servers)
	reportResult(ctx, body.Results)
	if servers != nil {
		return nil, &batchSizesProblem{*problem.New(http.StatusBadGateway, "%v", servers), *body}
	}
	return body, nil
}

// batchSizes is what all models run after a command, and what became of it.
func (s *Server) batchSizes(command datacenter.SetBatchSize, failed *agent.ServersError) *batchSizesBody {
	status := s.cfg.Site.Status()
	body := &batchSizesBody{
		TimeS: status.TimeS, BatchSizes: map[string]int{}, AchievedBatchSize: map[string]*float64{}, LeaseS: map[string]*float64{}, Results: []modelResult{},
	}
	for i := range status.Models {
		m := &status.Models[i]
		label := m.Spec.ModelLabel
		body.BatchSizes[label], body.AchievedBatchSize[label], body.LeaseS[label] = m.BatchSize, known(m.AchievedBatchSize), known(m.BatchSizeLeaseS)
		if _, commanded := command.BatchSizeByModel[label]; !commanded {
			continue
		}
		result := modelResult{ModelLabel: label, Outcome: outcomeAccepted}
		if failed != nil && failed.ByModel[label] != nil {
			err := failed.ByModel[label]
			result.Outcome, result.Detail = string(rig.OutcomeOf(err)), err.Error()
		}
		body.Results = append(body.Results, result)
	}
	return body
}

func (s *Server) shiftReplicas(ctx context.Context, raw []byte) (*replicaShiftBody, error) {
	command, refused := decodeCommand[datacenter.ShiftReplicas](raw)
	if refused != nil {
		return nil, refused
	}
	if command.LeaseS == 0 {
		command.LeaseS = s.control.Load().DefaultLeaseS
	}
	if err := s.cfg.Site.Apply(ctx, command); err != nil {
		return nil, s.commandFailed(err)
	}
	status := s.cfg.Site.Status()
	body := &replicaShiftBody{TimeS: status.TimeS, ModelLabel: command.ModelLabel, ReplicaDelta: command.ReplicaDelta}
	for i := range status.Models {
		if m := &status.Models[i]; m.Spec.ModelLabel == command.ModelLabel {
			body.ReplicaShift, body.Replicas, body.FreeReplicas, body.LeaseS = m.ReplicaShift, m.Replicas, m.FreeReplicas, known(m.ReplicaLeaseS)
		}
	}
	reportResult(ctx, body)
	return body, nil
}

func (s *Server) advance(ctx context.Context, raw []byte) (*manyStates, error) {
	o, err := strictjson.Parse(raw)
	if err != nil {
		return nil, bodyProblem(err)
	}
	o.Members([]string{"steps"})
	steps := o.Whole("steps", 1, maxSteps)
	if err := o.Err(); err != nil {
		return nil, bodyProblem(err)
	}
	if s.cfg.Advance == nil {
		return nil, problem.New(http.StatusConflict, "this run steps by itself; only a replay started with --pace step is advanced by requests")
	}
	states, err := s.cfg.Advance(ctx, steps)
	if err != nil {
		return nil, s.stepsFailed(len(states), err)
	}
	reportResult(ctx, map[string]int{"states": len(states)})
	return (*manyStates)(&states), nil
}

// commandFailed is the answer to a command that was not carried out.
func (s *Server) commandFailed(err error) *problem.Problem {
	if refused := commandProblem(err); refused != nil {
		return refused
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return problem.New(http.StatusServiceUnavailable, "the request ended before the command did: %v", err)
	}
	s.cfg.Log.Error().Err(err).Msg("API: a command failed")
	return problem.New(http.StatusInternalServerError, "the command failed: %v", err)
}

// stepsFailed is the answer where a replay could not be advanced as far as asked.
func (s *Server) stepsFailed(computed int, err error) *problem.Problem {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return problem.New(http.StatusServiceUnavailable, "the request ended after %d steps: %v", computed, err)
	}
	s.cfg.Log.Error().Err(err).Int("steps", computed).Msg("API: the replay failed")
	return problem.New(http.StatusInternalServerError, "the replay failed after %d steps: %v", computed, err)
}
