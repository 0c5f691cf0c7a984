package api

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/rig"
)

// batchSizesBody is what became of a command of batch sizes.
type batchSizesBody struct {
	TimeS             float64                      `json:"time_s"`
	FromSeq           int64                        `json:"from_seq"`
	BatchSizes        datacenter.ByModel[int]      `json:"batch_size_by_model"`
	AchievedBatchSize datacenter.ByModel[*float64] `json:"achieved_batch_size_by_model"`
	LeaseS            datacenter.ByModel[*float64] `json:"lease_s_by_model"`
	Results           []modelResult                `json:"results"`
}

// modelResult is what became of one model's part of a command.
type modelResult struct {
	ModelLabel string `json:"model_label"`
	Outcome    string `json:"outcome"`
	Detail     string `json:"detail,omitempty"`
	// Servers has each server's part, for a model with several.
	Servers []serverResult `json:"servers,omitempty"`
}

// serverResult is what became of one server's part of a command.
type serverResult struct {
	VLLMBaseURL string `json:"vllm_base_url"`
	Outcome     string `json:"outcome"`
	Detail      string `json:"detail,omitempty"`
}

// resultOf is what became of a model's part of a command that failed with err, nil
// if it did not.
func resultOf(m *agent.ModelStatus, err error) modelResult {
	result := modelResult{ModelLabel: m.Spec.ModelLabel, Outcome: outcomeAccepted}
	if err != nil {
		result.Outcome, result.Detail = string(rig.OutcomeOf(err)), err.Error()
	}
	if len(m.Servers) < 2 {
		return result
	}
	failed := map[string]error{}
	if several := (*rig.ServersError)(nil); errors.As(err, &several) {
		for _, f := range several.Failed {
			failed[f.URL] = f.Err
		}
	}
	for i := range m.Servers {
		server := serverResult{VLLMBaseURL: m.Servers[i].URL, Outcome: outcomeAccepted}
		switch why := failed[server.VLLMBaseURL]; {
		case why != nil:
			server.Outcome, server.Detail = string(rig.OutcomeOf(why)), why.Error()
		case err != nil && len(failed) == 0: // it came to none of them
			server.Outcome, server.Detail = result.Outcome, result.Detail
		}
		result.Servers = append(result.Servers, server)
	}
	return result
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
	TimeS        float64  `json:"time_s"`
	FromSeq      int64    `json:"from_seq"`
	ModelLabel   string   `json:"model_label"`
	ReplicaDelta int      `json:"replica_delta"`
	ReplicaShift int      `json:"replica_shift"`
	Replicas     int      `json:"replicas"`
	FreeReplicas int      `json:"free_replicas"`
	LeaseS       *float64 `json:"lease_s"`
}

// Write answers with the problem and, beside its members, what became of the command.
func (p *batchSizesProblem) Write(w http.ResponseWriter) { p.WriteAs(w, p) }

// refusal is a problem, or one with more members.
type refusal interface {
	error
	Write(w http.ResponseWriter)
}

// commanding serves a command: carryOut does what the body says, and returns the
// answer.
func commanding(carryOut func(ctx context.Context, body []byte) (any, refusal)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body) // Server.command has read it
		body, refused := carryOut(r.Context(), raw)
		if refused != nil {
			reportResult(r.Context(), refused.Error())
			refused.Write(w)
			return
		}
		writeJSON(w, http.StatusOK, body)
	})
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

func (s *Server) setBatchSizes(ctx context.Context, raw []byte) (any, refusal) {
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

// ofModels is what value says of each model, in config order.
func ofModels[T any](status *agent.Status, value func(*agent.ModelStatus) T) datacenter.ByModel[T] {
	return datacenter.ByModelOf(status.Models, func(m *agent.ModelStatus) (string, T) { return m.Spec.ModelLabel, value(m) })
}

// batchSizes is what all models run after a command, and what became of it.
func (s *Server) batchSizes(command datacenter.SetBatchSize, failed *agent.ServersError) *batchSizesBody {
	status := s.cfg.Site.Status()
	body := &batchSizesBody{
		FromSeq: -1, Results: []modelResult{},
		BatchSizes:        ofModels(&status, func(m *agent.ModelStatus) int { return m.BatchSize }),
		AchievedBatchSize: ofModels(&status, func(m *agent.ModelStatus) *float64 { return known(m.AchievedBatchSize) }),
		LeaseS:            ofModels(&status, func(m *agent.ModelStatus) *float64 { return known(m.BatchSizeLeaseS) }),
	}
	for i := range status.Models {
		m := &status.Models[i]
		label := m.Spec.ModelLabel
		if _, commanded := command.BatchSizeByModel[label]; !commanded {
			continue
		}
		var err error
		if failed != nil {
			err = failed.ByModel[label]
		}
		if err == nil {
			body.FromSeq = max(body.FromSeq, m.BatchSizeSeq)
		}
		body.Results = append(body.Results, resultOf(m, err))
	}
	if body.FromSeq < 0 { // no model has it
		body.FromSeq = status.Steps
	}
	body.TimeS = status.DT.Times(body.FromSeq)
	return body
}

func (s *Server) shiftReplicas(ctx context.Context, raw []byte) (any, refusal) {
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
	body := &replicaShiftBody{ModelLabel: command.ModelLabel, ReplicaDelta: command.ReplicaDelta}
	for i := range status.Models {
		if m := &status.Models[i]; m.Spec.ModelLabel == command.ModelLabel {
			body.FromSeq = m.ShiftSeq
			body.TimeS = status.DT.Times(m.ShiftSeq)
			body.ReplicaShift = m.ReplicaShift
			body.Replicas = m.Replicas
			body.FreeReplicas = m.FreeReplicas
			body.LeaseS = known(m.ReplicaLeaseS)
		}
	}
	reportResult(ctx, body)
	return body, nil
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
