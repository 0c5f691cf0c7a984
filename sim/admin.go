package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/backoff"
)

// lifecycle is the coming and going of a stand-in: it can die, come back, and
// finally be closed, whoever asks for it, one at a time.
type lifecycle struct {
	up   func(ctx context.Context, wg *sync.WaitGroup) error // starts it; its goroutines are wg's
	down func()                                              // ends it, after wg's goroutines; waits for the others

	mu     sync.Mutex
	base   context.Context // ends with close
	end    context.CancelFunc
	cancel context.CancelFunc // nil while it is down
	wg     sync.WaitGroup

	// outages are restarts that a client asked for, with the time between death
	// and return.
	outages chan time.Duration
	keeper  sync.WaitGroup
}

var errClosed = errors.New("the simulated server is closed")

func (l *lifecycle) start() error {
	l.base, l.end = context.WithCancel(context.Background())
	if err := l.restart(); err != nil {
		l.end()
		return err
	}
	l.outages = make(chan time.Duration, 1)
	l.keeper.Go(l.keep)
	return nil
}

func (l *lifecycle) restart() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.base.Err() != nil {
		return errClosed
	}
	l.killLocked()
	ctx, cancel := context.WithCancel(l.base)
	if err := l.up(ctx, &l.wg); err != nil {
		cancel()
		return err
	}
	l.cancel = cancel
	return nil
}

func (l *lifecycle) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.killLocked()
}

func (l *lifecycle) killLocked() {
	if l.cancel == nil {
		return
	}
	l.cancel()
	l.cancel = nil
	l.wg.Wait()
	l.down()
}

func (l *lifecycle) close() {
	l.end()
	l.kill()
	l.keeper.Wait()
}

// keep brings the stand-in through its outages.
func (l *lifecycle) keep() {
	for {
		select {
		case <-l.base.Done():
			return
		case down := <-l.outages:
			l.kill()
			// Another program may hold the port for a moment.
			for backoff.Sleep(l.base, down) == nil && l.restart() != nil {
				down = 100 * time.Millisecond
			}
		}
	}
}

// outage asks for the stand-in to die now and to come back later, without
// waiting for either: the caller may be one of those that get killed. While an
// outage is due already, it stands for both.
func (l *lifecycle) outage(down time.Duration) {
	select {
	case l.outages <- down:
	default:
	}
}

// admin is what a stand-in's own endpoints need of it.
type admin struct {
	life      *lifecycle
	faults    func() any
	setFaults func(body []byte) error
	truth     func() any
}

// serveAdmin answers requests below /sim/; false for others. These do not obey
// the faults: through them a test heals what it broke.
func serveAdmin(c *conn, req *http.Request, a admin) bool {
	switch req.URL.Path {
	case "/sim/faults", "/sim/restart", "/sim/truth":
	default:
		return false
	}
	switch req.Method + " " + req.URL.Path {
	case "GET /sim/faults":
		c.answerJSON(http.StatusOK, a.faults())
	case "PUT /sim/faults":
		body, ok := c.readBody(req)
		if !ok {
			return true
		}
		if err := a.setFaults(body); err != nil {
			c.answerError(http.StatusBadRequest, "faults: "+err.Error())
			return true
		}
		c.answerJSON(http.StatusOK, a.faults())
	case "GET /sim/truth":
		c.answerJSON(http.StatusOK, a.truth())
	case "POST /sim/restart":
		body, ok := c.readBody(req)
		if !ok {
			return true
		}
		type restart struct {
			DownS float64 `json:"down_s"`
		}
		r, err := decodeStrict[restart](body)
		if err == nil && !(r.DownS >= 0 && r.DownS <= 3600) {
			err = fmt.Errorf("down_s is %v: need 0 to 3600", r.DownS)
		}
		if err != nil {
			c.answerError(http.StatusBadRequest, "restart: "+err.Error())
			return true
		}
		c.last = true
		c.answerJSON(http.StatusAccepted, r)
		a.life.outage(time.Duration(r.DownS * float64(time.Second)))
	default:
		c.answerError(http.StatusMethodNotAllowed, "method not allowed")
	}
	return true
}

// decodeStrict reads one JSON value without unknown names.
func decodeStrict[T any](body []byte) (T, error) {
	var v T
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&v); err != nil {
		return v, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return v, errors.New("more than one JSON value")
	}
	return v, nil
}
