package api

import (
	"bytes"
	"crypto/sha256"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/internal/credential"
)

const (
	idempotencyHeader = "Idempotency-Key"
	replayedHeader    = "Idempotency-Replayed"
	maxKeyBytes       = 128
	// maxAnswers is the number of first answers remembered, answersFor for how
	// long, maxAnswerBytes how large one may be to be kept and allAnswerBytes how
	// large all together. Of one that is larger only that it was given is
	// remembered.
	maxAnswers     = 1000
	answersFor     = 10 * time.Minute
	maxAnswerBytes = 16 << 20
	allAnswerBytes = 64 << 20
)

// answers remembers the first answers to requests with an Idempotency-Key, so
// that a repeated request gets the same one and is not carried out again. The
// zero value is ready.
type answers struct {
	mu       sync.Mutex
	underWay map[answerKey]*answer // no more than there are connections
	done     *simplelru.LRU[answerKey, *answer]
	bytes    int // of all bodies kept
}

type answerKey struct{ path, key string }

// answer is a request with a key and what was answered.
type answer struct {
	request [sha256.Size]byte // of its body
	at      time.Time         // it came
	status  int
	// contentType is of body.
	contentType string
	body        []byte
	dropped     bool // the body is not kept
}

// begin returns the answer given before, or the problem of repeating the request
// now, or neither: the caller then answers it, and calls finish.
func (a *answers) begin(k answerKey, body []byte, now time.Time) (*answer, *problem.Problem) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done == nil {
		a.underWay = map[answerKey]*answer{}
		a.done, _ = simplelru.NewLRU(maxAnswers, func(_ answerKey, old *answer) { a.bytes -= len(old.body) }) // fails for a size of 0
	}
	for _, oldest, ok := a.done.GetOldest(); ok && now.Sub(oldest.at) > answersFor; _, oldest, ok = a.done.GetOldest() {
		a.done.RemoveOldest()
	}
	request := sha256.Sum256(body)
	const location = "header." + idempotencyHeader
	before, isDone := a.done.Peek(k)
	if !isDone {
		before = a.underWay[k]
	}
	switch {
	case before == nil:
		a.underWay[k] = &answer{request: request, at: now}
		return nil, nil
	case before.request != request:
		return nil, problem.New(http.StatusUnprocessableEntity, "the %s was used before for another body", idempotencyHeader).
			At(location, "was used before for another body; use a new one for each new command").Coded(problem.CodeKeyReused)
	case !isDone:
		return nil, problem.New(http.StatusConflict, "the first request with this %s is under way", idempotencyHeader).
			At(location, "the first request with it is under way; ask again later").With("Retry-After", "1").Coded(problem.CodeInProgress)
	case before.dropped:
		return nil, problem.New(http.StatusConflict,
			"the request with this %s was answered with status %d before and is not carried out again; the answer is not kept",
			idempotencyHeader, before.status).At(location, "was used before; the answer is not kept")
	}
	kept := *before // its body may be dropped while it is written
	return &kept, nil
}

// finish remembers what was answered; of an answer that was broken off, keep being
// nil, only that there was a request.
func (a *answers) finish(k answerKey, w *response) {
	a.mu.Lock()
	defer a.mu.Unlock()
	done := a.underWay[k]
	delete(a.underWay, k)
	done.status, done.dropped = w.status, w.keep == nil
	if !done.dropped {
		done.contentType, done.body = w.Header().Get("Content-Type"), bytes.Clone(w.keep.Bytes())
	}
	a.bytes += len(done.body)
	a.done.Add(k, done)
	if a.bytes <= allAnswerBytes {
		return
	}
	for _, old := range a.done.Values() { // the oldest first
		if len(old.body) > 0 && a.bytes > allAnswerBytes {
			a.bytes -= len(old.body)
			old.body, old.dropped = nil, true
		}
	}
}

// write gives the answer again.
func (a *answer) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", a.contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set(replayedHeader, "true")
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // a client that is gone cannot be told
}

// checkKey returns the Idempotency-Key of a request, empty for none.
func checkKey(r *http.Request) (string, *problem.Problem) {
	values := r.Header.Values(idempotencyHeader)
	if len(values) == 0 {
		return "", nil
	}
	key := values[0]
	if len(values) > 1 || key == "" || len(key) > maxKeyBytes || credential.Unsendable(key) >= 0 {
		message := "must be one key of 1 to 128 visible ASCII characters"
		return "", problem.New(http.StatusUnprocessableEntity, "header %s: %s", idempotencyHeader, message).At("header."+idempotencyHeader, message)
	}
	return key, nil
}
