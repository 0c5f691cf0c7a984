package datacenter

// Event is something that happened at a step, for those who watch.
type Event struct {
	// TimeS is the time of the step it happened before, in seconds.
	TimeS float64   `json:"time_s"`
	Topic string    `json:"topic"`
	Data  EventData `json:"data"`
}

// EventData is what an event reports: [BatchSizesUpdated], [ReplicasShifted],
// [BatchSizeLeaseExpired], [ReplicaLeaseExpired], [DataStale] or [DataFresh].
type EventData interface{ Topic() string }

// NewEvent returns the event of data at timeS.
func NewEvent(timeS float64, data EventData) Event { return Event{timeS, data.Topic(), data} }

// BatchSizesUpdated reports all models' batch sizes after a command.
type BatchSizesUpdated struct {
	BatchSizeByModel map[string]int `json:"batch_size_by_model"`
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
