package datacenter

// Event is something that happened at a step, for those who watch.
type Event struct {
	// TimeS is the time of the step it happened before, in seconds.
	TimeS float64   `json:"time_s"`
	Topic string    `json:"topic"`
	Data  EventData `json:"data"`
}

// EventData is what an event reports; [EventKinds] lists what there is.
type EventData interface{ Topic() string }

// EventKind is what is known of all events of one topic.
type EventKind struct {
	// Zero is the data of such an event, without values.
	Zero EventData
	// Attention: somebody should look at it.
	Attention bool
	// LoggedAtSource: what sends the event logs it as well, with more to tell.
	LoggedAtSource bool
	// Description says in one line what happened, in Markdown.
	Description string
}

// Topic is the name of the events.
func (k EventKind) Topic() string { return k.Zero.Topic() }

// EventKinds is the one list of events. What shows, counts, logs or describes
// events reads it or is held to it by a test.
func EventKinds() []EventKind {
	return []EventKind{
		{
			Zero:        BatchSizesUpdated{},
			Description: "The batch sizes of all models, after a command or the end of a lease.",
		},
		{
			Zero:        ReplicasShifted{},
			Description: "Replicas were added to a model or taken away: it now asks for `effective_replicas`.",
		},
		{
			Zero: BatchSizeLeaseExpired{}, Attention: true,
			Description: "A leased batch size was not commanded anew in time: the model returns to `failsafe_batch_size`.",
		},
		{
			Zero: ReplicaLeaseExpired{}, Attention: true,
			Description: "Leased shifts were not renewed in time: `replica_delta`, their sum, is taken back.",
		},
		{
			Zero: DataStale{}, Attention: true, LoggedAtSource: true,
			Description: "A model's power was last confirmed `age_s` seconds ago, longer than is allowed.",
		},
		{
			Zero: DataFresh{}, LoggedAtSource: true,
			Description: "A model's power is being read again.",
		},
		{
			Zero: RecordingStopped{}, Attention: true, LoggedAtSource: true,
			Description: "A live run is not recorded any more, because of `cause`; it goes on, and recording is tried again each minute.",
		},
		{
			Zero: RecordingGap{}, Attention: true, LoggedAtSource: true,
			Description: "Seconds of a live run, from `first_second` to `last_second`, are not in its recording, because of `cause`; it is recorded again.",
		},
	}
}

// EventKindOf returns the kind of a topic, false if there is none.
func EventKindOf(topic string) (EventKind, bool) {
	for _, kind := range EventKinds() {
		if kind.Topic() == topic {
			return kind, true
		}
	}
	return EventKind{}, false
}

// NewEvent returns the event of data at timeS.
func NewEvent(timeS float64, data EventData) Event { return Event{timeS, data.Topic(), data} }

// BatchSizesUpdated reports all models' batch sizes after a command.
type BatchSizesUpdated struct {
	BatchSizeByModel ByModel[int] `json:"batch_size_by_model"`
}

// ReplicasShifted reports a shift and the replicas the model has with it.
type ReplicasShifted struct {
	ModelLabel        string `json:"model_label"`
	ReplicaDelta      int    `json:"replica_delta"`
	EffectiveReplicas int    `json:"effective_replicas"`
}

// BatchSizeLeaseExpired reports that a model's leased batch size was not
// commanded anew in time: it returns to FailsafeBatchSize.
type BatchSizeLeaseExpired struct {
	ModelLabel        string `json:"model_label"`
	FailsafeBatchSize int    `json:"failsafe_batch_size"`
}

// ReplicaLeaseExpired reports that a model's leased shifts were not renewed in
// time: ReplicaDelta, their sum, is taken back.
type ReplicaLeaseExpired struct {
	ModelLabel   string `json:"model_label"`
	ReplicaDelta int    `json:"replica_delta"`
}

// DataStale reports that a model's power readings have been missing for AgeS
// seconds, longer than allowed; the last ones are held.
type DataStale struct {
	ModelLabel string  `json:"model_label"`
	AgeS       float64 `json:"age_s"`
	// Cause is what is known to be wrong.
	Cause string `json:"cause"`
}

// DataFresh reports that a model's power is being read again.
type DataFresh struct {
	ModelLabel string `json:"model_label"`
}

// RecordingStopped reports that a live run is not recorded any more.
type RecordingStopped struct {
	Cause string `json:"cause"`
}

// RecordingGap reports seconds of a live run that are not in its recording.
type RecordingGap struct {
	FirstSecond int64  `json:"first_second"`
	LastSecond  int64  `json:"last_second"`
	Cause       string `json:"cause"`
}

// Topic is the event's name; OpenG2G has no such event.
func (RecordingStopped) Topic() string { return "datacenter.recording.stopped" }

// Topic is the event's name; OpenG2G has no such event.
func (RecordingGap) Topic() string { return "datacenter.recording.gap" }

// Topic is the event's name; OpenG2G has no such event.
func (DataStale) Topic() string { return "datacenter.power.stale" }

// Topic is the event's name; OpenG2G has no such event.
func (DataFresh) Topic() string { return "datacenter.power.fresh" }

// Topic is the event's name; OpenG2G has no such event.
func (BatchSizeLeaseExpired) Topic() string { return "datacenter.batch_size.lease_expired" }

// Topic is the event's name; OpenG2G has no such event.
func (ReplicaLeaseExpired) Topic() string { return "datacenter.replicas.lease_expired" }

// Topic is OpenG2G's name of the event.
func (BatchSizesUpdated) Topic() string { return "datacenter.batch_size.updated" }

// Topic is OpenG2G's name of the event.
func (ReplicasShifted) Topic() string { return "datacenter.replicas.shifted" }
