package api

import (
	"context"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/g2g-agent/g2g-agent/agent"
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

// eventList is events as the body of an answer.
type eventList []stream.Event

// modelBody is a model as GET /v1/models shows it.
type modelBody struct {
	ModelLabel         string   `json:"model_label" doc:"Names the model in commands and states."`
	ModelID            string   `json:"model_id" doc:"The Hugging Face id, which vLLM serves the model under."`
	GPUsPerReplica     int      `json:"gpus_per_replica" doc:"GPUs that one replica occupies."`
	ITLDeadlineS       float64  `json:"itl_deadline_s" doc:"The inter-token latency to hold the model to, in seconds."`
	FeasibleBatchSizes []int    `json:"feasible_batch_sizes" nullable:"false" doc:"The batch sizes it may be commanded to run, in requests."`
	InitialBatchSize   int      `json:"initial_batch_size" doc:"The batch size a run begins with."`
	FailsafeBatchSize  int      `json:"failsafe_batch_size" doc:"The batch size it returns to when a lease runs out."`
	BatchSize          int      `json:"batch_size" doc:"The batch size commanded."`
	AchievedBatchSize  *float64 `json:"achieved_batch_size" nullable:"true" doc:"The number of requests that run, null when that is not known; in a replay the batch size."`
	BatchSizeActuator  *string  `json:"batch_size_actuator" nullable:"true" doc:"How a real server's batch size is set, null in a replay and before the start has found out."`
	Replicas           int      `json:"replicas" doc:"Replicas that it asks for at the next step."`
	ReplicaShift       int      `json:"replica_shift" doc:"The part of them that commands have added, below 0: taken away."`
	FreeReplicas       int      `json:"free_replicas" doc:"How many more the free servers hold at the next step."`
	FreeGPUs           int      `json:"free_gpus" doc:"GPUs of the whole site that no model asks for at the next step."`
	BatchSizeLeaseS    *float64 `json:"batch_size_lease_s" nullable:"true" doc:"For how many more seconds of the run a leased batch size holds, null without a lease."`
	ReplicaLeaseS      *float64 `json:"replica_lease_s" nullable:"true" doc:"For how many more seconds of the run leased shifts hold, null without a lease."`
	Stale              bool     `json:"stale" doc:"The model's power readings have been missing for longer than is allowed."`
}

// infoBody is the answer of GET /v1/info.
type infoBody struct {
	Name             string  `json:"name" doc:"The datacenter's name."`
	Version          string  `json:"version" doc:"The agent's version."`
	Source           string  `json:"source" enum:"live,replay" doc:"Where readings come from."`
	StartedAt        string  `json:"started_at" format:"date-time" doc:"When the agent was started. Another time tells of another run, whose steps and events are numbered from 0."`
	Phase            string  `json:"phase" enum:"starting,stepping,waiting,ended" doc:"How far the run has come: hardware is being warmed up, steps are computed in real time, steps wait to be asked for, the run is over."`
	Pace             string  `json:"pace" enum:"real_time,lockstep" doc:"Whether steps follow the clock or POST /v1/steps."`
	DTS              float64 `json:"dt_s" doc:"The time between two steps, in seconds."`
	TimeS            float64 `json:"time_s" doc:"The time of the next step, in seconds since the first."`
	Steps            int64   `json:"steps" doc:"Steps computed."`
	TotalGPUCapacity int     `json:"total_gpu_capacity" doc:"GPUs that the datacenter can host."`
	FreeGPUs         int     `json:"free_gpus" doc:"GPUs that no model asks for at the next step."`
	BaseKWPerPhase   float64 `json:"base_kw_per_phase" doc:"The constant load beside the servers, in kilowatts on each phase."`
	PowerFactor      float64 `json:"power_factor" doc:"The lagging power factor of the whole load."`
	GPUsPerServer    int     `json:"gpus_per_server" doc:"GPUs in one server."`
	HistoryStates    int     `json:"history_states" doc:"States kept in memory."`
	NeedsToken       bool    `json:"control_needs_token" doc:"Commands need a token."`
}

// known returns a pointer to f, nil for NaN.
func known(f float64) *float64 {
	if math.IsNaN(f) {
		return nil
	}
	return &f
}

// addReads adds the operations that change nothing.
func (s *Server) addReads(api huma.API) {
	type nothing struct{}
	type stateOutput struct{ Body oneState }
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/v1/state", OperationID: "getState", Tags: []string{tagRead}, Security: needsRead(),
		Summary: "The latest state", Description: "The state of the latest step: powers in watts, latencies in seconds.",
		Responses: responses("The latest state.", ref("State"), exampleState(), readProblems(http.StatusServiceUnavailable)...),
	}, func(context.Context, *nothing) (*stateOutput, error) {
		if state := s.hub.Latest(); state != nil {
			return &stateOutput{oneState{state}}, nil
		}
		return nil, problem.New(http.StatusServiceUnavailable, "there is no state before the first step").With("Retry-After", "1")
	})
	s.addHistory(api)
	s.addEvents(api)

	type modelsOutput struct {
		Body []modelBody `nullable:"false"`
	}
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/v1/models", OperationID: "listModels", Tags: []string{tagRead}, Security: needsRead(),
		Summary:     "The models, their limits and what they run",
		Description: "In config order. Batch sizes are in requests, times in seconds; free capacity is that of the next step.",
		Responses:   responses("The models.", nil, nil, readProblems()...),
	}, func(context.Context, *nothing) (*modelsOutput, error) {
		status := s.cfg.Site.Status()
		return &modelsOutput{modelBodies(&status)}, nil
	})
	type infoOutput struct{ Body infoBody }
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/v1/info", OperationID: "getInfo", Tags: []string{tagRead}, Security: needsRead(),
		Summary:   "What this agent is and how far it has come",
		Responses: responses("The agent.", nil, nil, readProblems()...),
	}, func(context.Context, *nothing) (*infoOutput, error) { return &infoOutput{s.info()}, nil })
}

func (s *Server) addHistory(api huma.API) {
	least, most := 1.0, float64(s.cfg.Settings.HistoryStates)
	usual := min(defaultHistory, s.cfg.Settings.HistoryStates)
	type input struct {
		N string `query:"n"`
		query
	}
	type output struct{ Body manyStates }
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/v1/history", OperationID: "listStates", Tags: []string{tagRead}, Security: needsRead(),
		Summary:     "The latest states",
		Description: "The latest n states that are kept in memory, oldest first; all there are, if that is fewer. Powers in watts, latencies in seconds.",
		Parameters: []*huma.Param{{
			Name: "n", In: "query", Description: "How many states, at most as many as are kept (api.history_states).", Example: 10,
			Schema: &huma.Schema{Type: huma.TypeInteger, Minimum: &least, Maximum: &most, Default: usual},
		}},
		Responses: responses("The states.", manyStates{}.Schema(nil), nil, readProblems()...),
	}, func(_ context.Context, in *input) (*output, error) {
		n, refused := in.whole("n", usual, 1, s.cfg.Settings.HistoryStates)
		if refused != nil {
			return nil, refused
		}
		return &output{s.hub.History(n)}, nil
	})
}

func (s *Server) addEvents(api huma.API) {
	least, zero, most, latest := 1.0, 0.0, float64(maxEvents), float64(maxEventID)
	type input struct {
		N      string `query:"n"`
		After  string `query:"after"`
		Follow string `query:"follow"`
		query
	}
	type output struct{ Body eventList }
	answers := responses("The events.", eventList{}.Schema(nil), nil,
		readProblems(http.StatusBadRequest, http.StatusUpgradeRequired, http.StatusServiceUnavailable)...)
	answers["101"] = &huma.Response{Description: "With follow: the WebSocket is open. Each message is a text: a JSON object as in #/components/schemas/EventMessage."}
	answers["400"] = problemResponse("The WebSocket handshake is malformed.", "Problem")
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/v1/events", OperationID: "listEvents", Tags: []string{tagRead}, Security: needsRead(),
		Summary: "Recent events, or, with follow, a WebSocket of events",
		Description: "The latest n events, oldest first: batch sizes commanded, replicas shifted, leases run out, power readings missing and there again. Times in seconds. " +
			"With follow it is a WebSocket (RFC 6455, subprotocol g2g-agent.v1 if one is asked for): the recent events at once, then each new one, as a message of its own; " +
			"a client that reads too slowly is told how many it misses, by {\"skipped\": N}.",
		Parameters: []*huma.Param{
			{Name: "n", In: "query", Description: "How many events. With follow, all that are kept come.", Schema: &huma.Schema{Type: huma.TypeInteger, Minimum: &least, Maximum: &most, Default: defaultHistory}, Example: 10},
			{Name: "after", In: "query", Description: "Only events whose id is above this one. An id that there has not been, from an earlier start of the agent, leaves out none.", Schema: &huma.Schema{Type: huma.TypeInteger, Minimum: &zero, Maximum: &latest}},
			{
				Name: "follow", In: "query", AllowEmptyValue: true, Description: "Ask for the WebSocket: present without a value, or true.",
				Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{"", "true", "1", "false", "0"}},
			},
		},
		Responses: answers,
	}, func(_ context.Context, in *input) (*output, error) {
		n, refused := in.whole("n", defaultHistory, 1, maxEvents)
		if refused != nil {
			return nil, refused
		}
		after, refused := in.whole("after", -1, 0, maxEventID)
		if refused != nil {
			return nil, refused
		}
		return &output{eventsAfter(s.hub.Events(n), int64(after))}, nil
	})
}

// eventsAfter are the events whose id is above after. An id that there has not been
// is from an earlier start of the agent and leaves out none, as with follow.
func eventsAfter(events []stream.Event, after int64) eventList {
	if n := len(events); n == 0 || after > events[n-1].ID {
		return append(eventList{}, events...)
	}
	first := slices.IndexFunc(events, func(e stream.Event) bool { return e.ID > after })
	if first < 0 {
		return eventList{}
	}
	return events[first:]
}

// followOr is next, or, where the request says follow, the WebSocket.
func (s *Server) followOr(next http.Handler) http.Handler {
	follow := s.sockets.Events()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := query{r.URL.Query()}
		asked, refused := q.flag("follow")
		if refused == nil && asked {
			_, refused = q.whole("n", defaultHistory, 1, maxEvents)
			if refused == nil {
				_, refused = q.whole("after", -1, 0, maxEventID)
			}
		}
		switch {
		case refused != nil:
			refused.Write(w)
		case asked:
			follow.ServeHTTP(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
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
			Replicas: m.Replicas, ReplicaShift: m.ReplicaShift, FreeReplicas: m.FreeReplicas, FreeGPUs: status.FreeGPUs,
			BatchSizeLeaseS: known(m.BatchSizeLeaseS), ReplicaLeaseS: known(m.ReplicaLeaseS), Stale: m.Stale,
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

func (s *Server) info() infoBody {
	status := s.cfg.Site.Status()
	source, pace := datacenter.SourceReplay, "real_time"
	if s.cfg.LiveStats != nil {
		source = datacenter.SourceLive
	}
	if s.cfg.Advance != nil {
		pace = "lockstep"
	}
	f := &status.Facility
	return infoBody{
		Name: f.Name, Version: s.cfg.Version, Source: string(source), StartedAt: s.startedAt.Format(time.RFC3339Nano), Phase: string(status.Phase), Pace: pace, DTS: status.DT.Float64(), TimeS: status.TimeS,
		Steps: status.Steps, TotalGPUCapacity: f.TotalGPUCapacity, FreeGPUs: status.FreeGPUs, BaseKWPerPhase: f.BaseKWPerPhase, PowerFactor: f.PowerFactor,
		GPUsPerServer: f.GPUsPerServer, HistoryStates: s.cfg.Settings.HistoryStates, NeedsToken: s.needsToken.Load(),
	}
}
