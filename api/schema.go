package api

import (
	"reflect"

	"github.com/danielgtaylor/huma/v2"
)

// maxInt32 bounds batch sizes and replica counts.
const maxInt32 = 1<<31 - 1

// Schema, on each type that writes its JSON itself, is how package huma learns
// what that looks like.

func (oneState) Schema(huma.Registry) *huma.Schema { return ref("State") }

func (manyStates) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeArray, Items: ref("State"), Description: "States, oldest first."}
}

func (eventList) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeArray, Items: ref("Event"), Description: "Events, oldest first."}
}

// closed is an object with these members and no others.
func closed(description string, members map[string]*huma.Schema, required ...string) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, Description: description, Properties: members, Required: required, AdditionalProperties: false}
}

// perModel is an object of values by model label.
func perModel(description string, of *huma.Schema) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, Description: description + ", by model label.", AdditionalProperties: of}
}

// count is a whole number from 0.
func count(description string) *huma.Schema {
	least := 0.0
	return &huma.Schema{Type: huma.TypeInteger, Description: description, Minimum: &least}
}

func number(description string) *huma.Schema {
	return &huma.Schema{Type: huma.TypeNumber, Description: description}
}

// orNull lets a number be missing.
func orNull(s *huma.Schema) *huma.Schema {
	s.Nullable = true
	return s
}

func word(description string, values ...any) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Description: description, Enum: values}
}

func text(description string) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Description: description}
}

// stateSchema is the schema of a State. Watts, seconds and fractions may be null
// where there is no number, never NaN.
func stateSchema() *huma.Schema {
	zero, one := 0.0, 1.0
	three := 3
	perPhase := func(description string) *huma.Schema {
		phase := func(name string) *huma.Schema { return orNull(number("Phase " + name + ", in watts.")) }
		return closed(description, map[string]*huma.Schema{"a": phase("A"), "b": phase("B"), "c": phase("C")}, "a", "b", "c")
	}
	share := &huma.Schema{
		Type: huma.TypeArray, MinItems: &three, MaxItems: &three,
		Items: &huma.Schema{Type: huma.TypeNumber, Nullable: true, Minimum: &zero, Maximum: &one},
	}
	load := closed("", map[string]*huma.Schema{
		"num_requests_running":  orNull(number("Requests that run: the batch size achieved; null when that is not known.")),
		"num_requests_waiting":  orNull(number("Requests that wait, null when that is not known.")),
		"kv_cache_usage_perc":   orNull(number("The part of the KV cache in use, as a fraction, null when that is not known.")),
		"num_preemptions_total": orNull(number("Requests preempted since the server's start, null when that is not known.")),
	}, "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_preemptions_total")
	percentile := func() *huma.Schema { return orNull(number("")) }
	percentiles := closed("", map[string]*huma.Schema{"p50": percentile(), "p90": percentile(), "p95": percentile(), "p99": percentile()},
		"p50", "p90", "p95", "p99")

	replay := map[string]*huma.Schema{
		"seq":                      count("The number of the step, from 0."),
		"time_s":                   number("The time since the start of the run, in seconds."),
		"wall_time":                {Type: huma.TypeString, Format: "date-time", Nullable: true, Description: "The time of day the step was due; null in a replay that does not follow the clock."},
		"source":                   word("Where the readings come from.", "replay"),
		"power_w":                  perPhase("The whole datacenter's power on each phase, in watts: servers, base load and training."),
		"power_by_model_w":         perModel("The power of each model's servers, in watts", orNull(number(""))),
		"batch_size_by_model":      perModel("The batch size each model runs at (vLLM's max_num_seqs), in requests", count("")),
		"active_replicas_by_model": perModel("The replicas each model's servers hold", count("")),
		"observed_itl_s_by_model":  perModel("The mean inter-token latency, in seconds, null where there is none", orNull(number(""))),
		"phase_share_by_model":     perModel("The part of each model's servers on phases A, B and C, 1/3 each without servers", share),
	}
	common := []string{
		"seq", "time_s", "wall_time", "source", "power_w", "power_by_model_w", "batch_size_by_model",
		"active_replicas_by_model", "observed_itl_s_by_model", "phase_share_by_model",
	}
	liveOnly := map[string]*huma.Schema{
		"measured_power_w":             perPhase("What the real GPUs draw, spread evenly over the phases, plus the base load, in watts."),
		"measured_power_w_by_model":    perModel("The power of each model's real GPUs, in watts", orNull(number(""))),
		"augmented_power_w_by_model":   perModel("The power of each model's servers that the real GPUs stand for, in watts; the same as power_by_model_w", orNull(number(""))),
		"augmentation_factor_by_model": perModel("Simulated replicas per real one", orNull(number(""))),
		"prometheus_metrics_by_model":  perModel("The load of each model's vLLM server, null when nothing of it is known; a number that the server does not tell is null by itself", &huma.Schema{AnyOf: []*huma.Schema{load, {Type: "null"}}}),
		"itl_percentiles_s_by_model":   perModel("Percentiles of the inter-token latencies that observed_itl_s_by_model is the mean of, in seconds", percentiles),
		"stale_by_model":               perModel("The models whose power readings have been missing for longer than is allowed, and for how many seconds; their power is the last one read", orNull(number(""))),
	}
	live := map[string]*huma.Schema{}
	required := append([]string{}, common...)
	for name, schema := range replay {
		live[name] = schema
	}
	live["source"] = word("Where the readings come from.", "live")
	for _, name := range []string{
		"measured_power_w", "measured_power_w_by_model", "augmented_power_w_by_model", "augmentation_factor_by_model",
		"prometheus_metrics_by_model", "itl_percentiles_s_by_model", "stale_by_model",
	} {
		live[name] = liveOnly[name]
		required = append(required, name)
	}
	return &huma.Schema{
		Description: "The datacenter at one step.",
		OneOf: []*huma.Schema{
			closed("A step of a replay.", replay, common...),
			closed("A step of a live run: what a replay has, and what only hardware shows.", live, required...),
		},
	}
}

// eventSchema is the schema of an Event: the data are those of its topic.
func eventSchema() *huma.Schema {
	label := func() *huma.Schema { return text("The model.") }
	kinds := []struct {
		topic, description string
		data               *huma.Schema
	}{
		{"datacenter.batch_size.updated", "Batch sizes were commanded.", closed("", map[string]*huma.Schema{
			"batch_size_by_model": perModel("The batch sizes of all models, in requests", count("")),
		}, "batch_size_by_model")},
		{"datacenter.replicas.shifted", "Replicas were added to a model or taken away.", closed("", map[string]*huma.Schema{
			"model_label":        label(),
			"replica_delta":      {Type: huma.TypeInteger, Description: "Replicas added, below 0: taken away."},
			"effective_replicas": {Type: huma.TypeInteger, Description: "The replicas it has with them."},
		}, "model_label", "replica_delta", "effective_replicas")},
		{"datacenter.batch_size.lease_expired", "A leased batch size was not commanded anew in time.", closed("", map[string]*huma.Schema{
			"model_label":         label(),
			"failsafe_batch_size": count("The batch size it returns to."),
		}, "model_label", "failsafe_batch_size")},
		{"datacenter.replicas.lease_expired", "Leased shifts were not renewed in time.", closed("", map[string]*huma.Schema{
			"model_label":   label(),
			"replica_delta": {Type: huma.TypeInteger, Description: "Their sum, which is taken back."},
		}, "model_label", "replica_delta")},
		{"datacenter.power.stale", "A model's power readings are missing.", closed("", map[string]*huma.Schema{
			"model_label": label(),
			"age_s":       number("For how many seconds."),
			"cause":       text("What is known to be wrong."),
		}, "model_label", "age_s", "cause")},
		{"datacenter.power.fresh", "A model's power is being read again.", closed("", map[string]*huma.Schema{
			"model_label": label(),
		}, "model_label")},
	}
	event := &huma.Schema{Description: "Something that happened at a step."}
	for _, kind := range kinds {
		event.OneOf = append(event.OneOf, closed(kind.description, map[string]*huma.Schema{
			"id":        count("Numbers the events of this start of the agent, from 0."),
			"wall_time": {Type: huma.TypeString, Format: "date-time", Description: "The time of day it happened."},
			"time_s":    number("The time of the step it happened before, in seconds since the start of the run."),
			"topic":     word("What kind it is.", kind.topic),
			"data":      kind.data,
		}, "id", "wall_time", "time_s", "topic", "data"))
	}
	return event
}

// addSchemas adds the schemas that are written by hand.
func addSchemas(r huma.Registry) {
	one := 1.0
	schemas := r.Map()
	schemas["State"] = stateSchema()
	schemas["Event"] = eventSchema()
	skipped := closed("The client read too slowly.", map[string]*huma.Schema{
		"skipped": {Type: huma.TypeInteger, Minimum: &one, Description: "How many messages it misses before the next."},
	}, "skipped")
	schemas["StreamMessage"] = &huma.Schema{Description: "A message of /v1/stream.", AnyOf: []*huma.Schema{ref("State"), skipped}}
	schemas["EventMessage"] = &huma.Schema{Description: "A message of /v1/events?follow.", AnyOf: []*huma.Schema{ref("Event"), skipped}}
	schemas["Problem"] = problemSchema(nil)
	schemas["BatchSizesProblem"] = problemSchema(r.Schema(reflect.TypeFor[batchSizesBody](), false, ""))
	schemas["BatchSizesProblem"].Description = "Some vLLM servers did not do as they were told; the others have."
	schemas["BatchSizesCommand"], schemas["ReplicaShiftCommand"], schemas["StepsCommand"] = batchSizesSchema(), replicaShiftSchema(), stepsSchema()
}

// problemSchema is the schema of a problem, with the members of more beside its
// own.
func problemSchema(more *huma.Schema) *huma.Schema {
	values := &huma.Schema{Description: "What stood there, shortened."}
	members := map[string]*huma.Schema{
		"type":     text("A URI that identifies the kind of problem; missing: about:blank."),
		"title":    text("The kind of problem in words."),
		"status":   {Type: huma.TypeInteger, Description: "The HTTP status."},
		"detail":   text("What was wrong and what would be right."),
		"instance": text("A URI that identifies this occurrence."),
		"errors": {Type: huma.TypeArray, Description: "The parts of the request at fault.", Items: closed("", map[string]*huma.Schema{
			"message":  text("What was wrong with it and what would be right."),
			"location": text("Where it stands, such as body.batch_size_by_model.Llama-3.1-8B, query.n or header.Idempotency-Key."),
			"value":    values,
		}, "message", "location")},
	}
	required := []string{"title", "status", "detail"}
	if more != nil {
		for name, schema := range more.Properties {
			members[name] = schema
		}
		required = append(required, more.Required...)
	}
	s := closed("What went wrong (RFC 9457).", members, required...)
	s.PrecomputeMessages()
	return s
}

func batchSizesSchema() *huma.Schema {
	one, zero, most := 1.0, 0.0, float64(maxInt32)
	least := 1
	s := closed("Batch sizes of one or more models.", map[string]*huma.Schema{
		"batch_size_by_model": {
			Type: huma.TypeObject, MinProperties: &least,
			Description:          "The batch size (vLLM's max_num_seqs) in requests, by model label: one of the model's feasible_batch_sizes, unless the agent allows others.",
			AdditionalProperties: &huma.Schema{Type: huma.TypeInteger, Minimum: &one, Maximum: &most},
		},
		"ramp_up_rate_by_model": {
			Type: huma.TypeObject, MinProperties: &least,
			Description:          "How fast a live server grows into a larger batch, in requests per second, by model label. Models left out, and 0: at once. Only models in batch_size_by_model.",
			AdditionalProperties: &huma.Schema{Type: huma.TypeNumber, Minimum: &zero},
		},
		"lease_s": leaseSchema("the batch sizes hold unless they are commanded anew; the models then return to their failsafe batch sizes"),
	}, "batch_size_by_model")
	return s
}

func leaseSchema(what string) *huma.Schema {
	zero, most := 0.0, float64(maxLeaseS)
	return &huma.Schema{
		Type: huma.TypeNumber, ExclusiveMinimum: &zero, Maximum: &most,
		Description: "For how many seconds of the run " + what + ". Missing: the configured default_lease_s; if that is 0, for ever.",
	}
}

func replicaShiftSchema() *huma.Schema {
	least, most := float64(-maxInt32), float64(maxInt32)
	one := 1
	return closed("Replicas to add to a model or to take away.", map[string]*huma.Schema{
		"model_label":   {Type: huma.TypeString, MinLength: &one, Description: "The model."},
		"replica_delta": {Type: huma.TypeInteger, Minimum: &least, Maximum: &most, Description: "Replicas to add, below 0: to take away, on top of the model's schedule and of earlier shifts. 0 renews the lease."},
		"lease_s":       leaseSchema("the model's leased shifts hold unless they are renewed by another leased shift; they are then undone"),
	}, "model_label", "replica_delta")
}

func stepsSchema() *huma.Schema {
	one, most := 1.0, float64(maxSteps)
	return closed("How far to advance a replay.", map[string]*huma.Schema{
		"steps": {Type: huma.TypeInteger, Minimum: &one, Maximum: &most, Description: "The number of steps to compute."},
	}, "steps")
}
