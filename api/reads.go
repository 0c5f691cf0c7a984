package api

import (
	"cmp"
	"encoding/json"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api/guard"
	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/api/stream"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// defaultHistory is the number of states or events that an answer has unless
// another one is asked for, maxEvents the number of events there are at most,
// maxEventID the largest whole number that every JSON reader has exactly.
const (
	defaultHistory = 100
	maxEvents      = 1000
	maxEventID     = 1<<53 - 1
)

// modelBody is a model as GET /v1/models shows it.
type modelBody struct {
	ModelLabel         string   `json:"model_label"`
	ModelID            string   `json:"model_id"`
	GPUsPerReplica     int      `json:"gpus_per_replica"`
	ITLDeadlineS       float64  `json:"itl_deadline_s"`
	FeasibleBatchSizes []int    `json:"feasible_batch_sizes"`
	InitialBatchSize   int      `json:"initial_batch_size"`
	FailsafeBatchSize  int      `json:"failsafe_batch_size"`
	BatchSize          int      `json:"batch_size"`
	AchievedBatchSize  *float64 `json:"achieved_batch_size"`
	BatchSizeActuator  *string  `json:"batch_size_actuator"`
	Replicas           int      `json:"replicas"`
	ReplicaShift       int      `json:"replica_shift"`
	FreeReplicas       int      `json:"free_replicas"`
	FreeGPUs           int      `json:"free_gpus"`
	// AvailableGPUCapacity is the whole site's, as OpenG2G accounts for it.
	AvailableGPUCapacity int `json:"available_gpu_capacity"`
	specBody
	BatchSizeLeaseS *float64 `json:"batch_size_lease_s"`
	ReplicaLeaseS   *float64 `json:"replica_lease_s"`
	Stale           bool     `json:"stale"`
	// Servers are its real servers, none in a replay.
	Servers []serverBody `json:"servers"`
}

// serverBody is one real server of a model.
type serverBody struct {
	VLLMBaseURL       string   `json:"vllm_base_url"`
	Answers           bool     `json:"answers"`
	AchievedBatchSize *float64 `json:"achieved_batch_size"`
	BatchSizeActuator *string  `json:"batch_size_actuator"`
	NoTokenS          float64  `json:"no_token_s"`
}

// serversOf are a model's real servers.
func serversOf(m *agent.ModelStatus) []serverBody {
	servers := make([]serverBody, len(m.Servers))
	for i := range m.Servers {
		s := &m.Servers[i]
		servers[i] = serverBody{VLLMBaseURL: s.URL, Answers: s.Answers, AchievedBatchSize: known(s.AchievedBatchSize), NoTokenS: s.NoTokenS}
		if s.Actuator != "" {
			servers[i].BatchSizeActuator = (*string)(&s.Actuator)
		}
	}
	return servers
}

// infoBody is the answer of GET /v1/info.
type infoBody struct {
	Name         string `json:"name"`
	Version      string `json:"version"`
	Source       string `json:"source"`
	StartedAt    string `json:"started_at"`
	Phase        string `json:"phase"`
	Pace         string `json:"pace"`
	RunID        string `json:"run_id"`
	Seed         uint64 `json:"seed"`
	ConfigDigest string `json:"config_digest"`
	// DT is dt_s exactly, as a fraction.
	DT    string  `json:"dt"`
	DTS   float64 `json:"dt_s"`
	TimeS float64 `json:"time_s"`
	Steps int64   `json:"steps"`
	// DurationS and TotalSteps are null for a run without end, AtEnd for a live run.
	DurationS  *float64 `json:"duration_s"`
	TotalSteps *int64   `json:"total_steps"`
	AtEnd      *string  `json:"at_end"`

	TotalGPUCapacity int `json:"total_gpu_capacity"`
	FreeGPUs         int `json:"free_gpus"`
	// AvailableGPUCapacity is as OpenG2G accounts for it.
	AvailableGPUCapacity int     `json:"available_gpu_capacity"`
	BaseKWPerPhase       float64 `json:"base_kw_per_phase"`
	PowerFactor          float64 `json:"power_factor"`
	GPUsPerServer        int     `json:"gpus_per_server"`
	HistoryStates        int     `json:"history_states"`
	NeedsToken           bool    `json:"control_needs_token"`
	Recording            bool    `json:"recording"`
}

// known returns a pointer to f, nil for NaN.
func known(f float64) *float64 {
	if math.IsNaN(f) {
		return nil
	}
	return &f
}

// state serves the latest state, or with after and wait_s the next one.
func (s *Server) state() http.Handler {
	return goodQuery(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, refused := pollOf(queryOf(r), true)
		switch {
		case refused != nil:
			refused.Write(w)
		case q.after >= 0:
			s.nextState(w, r, q)
		default:
			if state := s.hub.Latest(); state != nil {
				writeJSON(w, http.StatusOK, state)
				return
			}
			problem.New(http.StatusServiceUnavailable, "there is no state before the first step").With("Retry-After", "1").Coded(problem.CodeNoState).Write(w)
		}
	}), "after", "run", "wait_s")
}

// stream serves the WebSocket of states.
func (s *Server) stream() http.Handler {
	sockets := s.sockets.States()
	return goodQuery(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, refused := pollOf(queryOf(r), true); refused != nil {
			refused.Write(w)
			return
		}
		sockets.ServeHTTP(w, r)
	}), "after", "run")
}

// usualHistory is the number of states that an answer has unless the request says.
func (s *Server) usualHistory() int { return min(defaultHistory, s.cfg.Settings.HistoryStates) }

// history serves the latest states.
func (s *Server) history() http.Handler {
	return goodQuery(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, refused := queryOf(r).whole("n", s.usualHistory(), 1, s.cfg.Settings.HistoryStates)
		if refused != nil {
			refused.Write(w)
			return
		}
		s.long(w, r, func(turn func(work func()) error) (begun bool, err error) {
			w.Header().Set("Content-Type", contentTypeJSON)
			return writeStates(w, s.hub.History(n), datacenter.StateFields{}, turn)
		})
	}), "n")
}

// long answers with what takes long to make. answer makes it with turns, a piece
// in each, and writes between them: a client that does not read keeps nobody else
// waiting. turn fails when the request has ended, or the run; answer then returns its
// error, and whether it has begun to write.
func (s *Server) long(w http.ResponseWriter, r *http.Request, answer func(turn func(work func()) error) (begun bool, err error)) {
	client := guard.ClientOf(r.Context())
	leave, ok := s.turns.enter(client)
	if !ok {
		problem.New(http.StatusTooManyRequests, "too many long answers are under way: %d for each client, %d for all; to follow states, use the WebSocket",
			maxLongPerClient, maxLong).With("Retry-After", "1").Write(w)
		return
	}
	defer leave()
	begun, err := answer(func(work func()) error { //nolint:contextcheck // it is the request's, as that of answer
		if err := s.turns.take(r.Context(), client); err != nil {
			return err
		}
		defer s.turns.give()
		work()
		return nil
	})
	switch {
	case err == nil:
	case begun:
		// The connection is cut off, so that a part of an answer does not look like all of it.
		panic(http.ErrAbortHandler) //nolint:forbidigo // net/http's way to do so
	default:
		problem.New(http.StatusServiceUnavailable, "the run ended before this answer was made").Write(w)
	}
}

func (s *Server) models(query) (any, *problem.Problem) {
	status := s.cfg.Site.Status()
	return modelBodies(&status), nil
}

// events serves the events kept or, where the request says follow, the WebSocket.
func (s *Server) events() http.Handler {
	sockets := s.sockets.Events()
	return goodQuery(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := queryOf(r)
		follow, refused := q.flag("follow")
		n, wrongN := q.whole("n", defaultHistory, 1, maxEvents)
		poll, wrongPoll := pollOf(q, false)
		if follow && poll.waits {
			wrongPoll = cmp.Or(wrongPoll, badQuery("wait_s", "does not go with follow, which waits by itself"))
		}
		switch refused = cmp.Or(refused, wrongN, wrongPoll); {
		case refused != nil:
			refused.Write(w)
		case follow:
			sockets.ServeHTTP(w, r)
		default:
			if poll.wait > 0 && !s.awaitEvents(w, r, n, poll) {
				return
			}
			s.long(w, r, func(turn func(work func()) error) (begun bool, err error) {
				var body []byte
				var encodeErr error
				if err := turn(func() { body, encodeErr = json.Marshal(eventsAfter(s.hub.Events(n), poll.after)) }); err != nil {
					return false, err
				}
				writeEncoded(w, http.StatusOK, body, encodeErr)
				return true, nil
			})
		}
	}), "n", "after", "wait_s", "follow")
}

// eventsAfter are the events whose id is above after. An id that there has not been
// is from an earlier start of the agent and leaves out none, as with follow.
func eventsAfter(events []stream.Event, after int64) []stream.Event {
	if n := len(events); n == 0 || after > events[n-1].ID {
		return append([]stream.Event{}, events...)
	}
	first := slices.IndexFunc(events, func(e stream.Event) bool { return e.ID > after })
	if first < 0 {
		return []stream.Event{}
	}
	return events[first:]
}

// modelBodies are the models of a status, in config order.
func modelBodies(status *agent.Status) []modelBody {
	models := make([]modelBody, len(status.Models))
	for i := range models {
		m := &status.Models[i]
		models[i] = modelBody{
			ModelLabel: m.Spec.ModelLabel, ModelID: m.Spec.ModelID, GPUsPerReplica: m.Spec.GPUsPerReplica, ITLDeadlineS: m.Spec.ITLDeadlineS,
			FeasibleBatchSizes: m.Spec.FeasibleBatchSizes, InitialBatchSize: m.Spec.InitialBatchSize, FailsafeBatchSize: m.Spec.Failsafe(),
			BatchSize: m.BatchSize, AchievedBatchSize: known(m.AchievedBatchSize),
			Replicas: m.Replicas, ReplicaShift: m.ReplicaShift, FreeReplicas: m.FreeReplicas, FreeGPUs: status.FreeGPUs, AvailableGPUCapacity: status.AvailableGPUCapacity,
			BatchSizeLeaseS: known(m.BatchSizeLeaseS), ReplicaLeaseS: known(m.ReplicaLeaseS), Stale: m.Stale, Servers: serversOf(m),
			specBody: specOf(&m.Spec),
		}
		if m.Actuator != "" {
			models[i].BatchSizeActuator = &m.Actuator
		}
		if models[i].FeasibleBatchSizes == nil {
			models[i].FeasibleBatchSizes = []int{}
		}
	}
	return models
}

func (s *Server) info(query) (any, *problem.Problem) {
	status := s.cfg.Site.Status()
	return s.infoOf(&status), nil
}

// infoOf is what is told of a run.
func (s *Server) infoOf(status *agent.Status) *infoBody {
	source, pace := datacenter.SourceReplay, "real_time"
	if s.cfg.LiveStats != nil {
		source = datacenter.SourceLive
	}
	if s.cfg.Lockstep != nil {
		pace = "lockstep"
	}
	f := &status.Facility
	info := &infoBody{
		Name: f.Name, Version: s.cfg.Version, Source: string(source), StartedAt: s.startedAt.Format(time.RFC3339Nano),
		Phase: string(status.Phase), Pace: pace, RunID: status.RunID, Seed: status.Seed, ConfigDigest: s.cfg.ConfigDigest,
		DT: status.DT.String(), DTS: status.DT.Float64(), TimeS: status.TimeS, Steps: status.Steps, DurationS: known(status.DurationS),
		TotalGPUCapacity: f.TotalGPUCapacity, FreeGPUs: status.FreeGPUs, AvailableGPUCapacity: status.AvailableGPUCapacity,
		BaseKWPerPhase: f.BaseKWPerPhase, PowerFactor: f.PowerFactor,
		GPUsPerServer: f.GPUsPerServer, HistoryStates: s.cfg.Settings.HistoryStates, NeedsToken: s.needsToken.Load(), Recording: s.cfg.RecordingDir != "",
	}
	if status.AtEnd != "" {
		info.AtEnd = &status.AtEnd
	}
	if status.TotalSteps > 0 {
		info.TotalSteps = &status.TotalSteps
	}
	return info
}
