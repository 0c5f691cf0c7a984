package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// restoreBody is what became of a command to restore what the run began with.
type restoreBody struct {
	batchSizesBody
	ReplicaShift datacenter.ByModel[int] `json:"replica_shift_by_model"`
}

// restoreProblem is the answer where some servers did not do as they were told.
type restoreProblem struct {
	problem.Problem
	restoreBody
}

// Write answers with the problem and, beside its members, what became of the command.
func (p *restoreProblem) Write(w http.ResponseWriter) { p.WriteAs(w, p) }

func (s *Server) restore(ctx context.Context, raw []byte) (any, refusal) {
	command, refused := decodeCommand[datacenter.Restore](raw)
	if refused != nil {
		return nil, refused
	}
	err := s.cfg.Site.Apply(ctx, command)
	var servers *agent.ServersError
	if err != nil && !errors.As(err, &servers) {
		return nil, s.commandFailed(err)
	}
	status := s.cfg.Site.Status()
	all := datacenter.SetBatchSize{BatchSizeByModel: map[string]int{}}
	body := &restoreBody{}
	for i := range status.Models {
		label := status.Models[i].Spec.ModelLabel
		all.BatchSizeByModel[label] = status.Models[i].Spec.InitialBatchSize
	}
	body.ReplicaShift = ofModels(&status, func(m *agent.ModelStatus) int { return m.ReplicaShift })
	body.batchSizesBody = *s.batchSizes(all, servers)
	for i := range status.Models {
		body.FromSeq = max(body.FromSeq, status.Models[i].ShiftSeq)
	}
	body.TimeS = status.DT.Times(body.FromSeq)
	reportResult(ctx, body.Results)
	if servers != nil {
		return nil, &restoreProblem{*problem.New(http.StatusBadGateway, "%v", servers), *body}
	}
	return body, nil
}
