package agent

import (
	"sync"
	"time"
)

const (
	// lateCommand is for how long after a server answers again a command that it
	// left unanswered may still take effect.
	lateCommand = 10 * time.Second
	// tellAgainEvery is how often it is told anew meanwhile.
	tellAgainEvery = time.Second
)

// setting is the batch size that a vLLM server was told, and whether it may run
// another one all the same: a restart forgets it, and a command without an answer
// may have been carried out, or will be.
type setting struct {
	mu         sync.Mutex
	batchSize  int // told last, 0: nothing yet
	rampUpRate float64
	toldAt     time.Time
	doubtful   bool
	rejected   bool      // it did not take what it was told again
	unanswered bool      // since it was told last
	lateUntil  time.Time // until then an unanswered command may take effect
}

// told notes that the server accepted a batch size.
func (s *setting) told(batchSize int, rampUpRate float64, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batchSize, s.rampUpRate, s.toldAt, s.doubtful, s.rejected = batchSize, rampUpRate, now, false, false
	if s.unanswered {
		s.unanswered, s.lateUntil = false, now.Add(lateCommand)
	}
}

// leftUnanswered notes a command that may or may not have been carried out.
func (s *setting) leftUnanswered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubtful, s.unanswered = true, true
}

// refused notes that the server will not take what it is told again.
func (s *setting) refused() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubtful, s.rejected, s.lateUntil = false, true, time.Time{}
}

// doubt notes that the server may have been restarted.
func (s *setting) doubt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubtful = true
}

// toTell is what the server should be told again, ok only if it should.
func (s *setting) toTell(now time.Time) (batchSize int, rampUpRate float64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	late := now.Before(s.lateUntil) && now.Sub(s.toldAt) >= tellAgainEvery
	return s.batchSize, s.rampUpRate, s.batchSize != 0 && (s.doubtful || late)
}

// mayDifferFrom reports whether the server may run anything but the batch size,
// or what it ran before it was told any, or come to it at another rate.
func (s *setting) mayDifferFrom(batchSize int, rampUpRate float64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doubtful || s.rejected || time.Now().Before(s.lateUntil) ||
		s.batchSize != 0 && (s.batchSize != batchSize || s.rampUpRate != rampUpRate)
}
