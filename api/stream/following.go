package stream

import (
	"context"
	"sync/atomic"
)

// catchUpBytes is about how much of what a client has missed is encoded at a time.
const catchUpBytes = 16 << 10

// following is what is known of a client that follows the states; without a hub it follows
// something else.
type following struct {
	hub *Hub
	// told is the run that the client knows of; anew: it is to be told of it.
	told *run
	anew bool
	// reached is the index of the first message that it neither has nor is told to miss,
	// missed the number of those before that it is yet to be told of.
	reached, missed int64
	// resumes: what the feed does not keep for it comes from the history.
	resumes bool
	// turn does work that takes long, nil: at once.
	turn func(ctx context.Context, work func()) error
}

// present is the run that there is now for a client that has all before cursor, nil if
// there are states of an earlier one for it, or if runs do not matter.
func (f *following) present(cursor int64) *run {
	if f.hub == nil {
		return nil
	}
	if of := f.hub.run.Load(); of.states <= cursor {
		return of
	}
	return nil
}

// begin tells a client that resumes another run of the present one.
func (c *client) begin() error {
	as := &c.states
	if !as.anew {
		return nil
	}
	return c.text(runNotice(as.told.id))
}

// introduce tells the client what there is to tell before a message of a run, or before
// whatever the run begins with: what it misses of the runs before, the run, and what it
// misses of that.
func (c *client) introduce(of *run, count *atomic.Uint64, index int64) error {
	as := &c.states
	skipped := index - as.reached
	before := as.missed
	isNew := of != nil && of != as.told
	if isNew {
		ofThose := min(max(of.states-as.reached, 0), skipped)
		before, skipped = before+ofThose, skipped-ofThose
	} else {
		before, skipped = 0, skipped+before
	}
	as.reached, as.missed = index, 0
	if err := c.notice(before, count); err != nil {
		return err
	}
	if isNew {
		as.told = of
		if err := c.text(runNotice(of.id)); err != nil {
			return err
		}
	}
	return c.notice(skipped, count)
}

// catchUp sends some of the states from index cursor on that the feed does not keep any
// more, out of the history, and returns where to go on. What that does not keep either
// the client misses.
func (c *client) catchUp(ctx context.Context, cursor int64) (int64, error) {
	as := &c.states
	h, end := as.hub, as.hub.states.oldest.Load()
	of := h.run.Load()
	// Of the runs before the feed alone may have states.
	if cursor = max(cursor, min(max(of.states, h.history.oldest()), end)); cursor == end {
		return cursor, nil
	}
	if err := c.introduce(of, &h.states.skipped, cursor); err != nil {
		return cursor, err
	}
	var encoded []byte
	var ends []int
	work := func() {
		for i := cursor; i < end && len(encoded) < catchUpBytes; i++ {
			state := h.history.at(i)
			if state == nil {
				return
			}
			encoded = state.AppendJSON(encoded)
			ends = append(ends, len(encoded))
		}
	}
	if as.turn == nil {
		work()
	} else if as.turn(ctx, work) != nil {
		return cursor, nil // it is about to end
	}
	begin := 0
	for _, end := range ends {
		if err := c.text(encoded[begin:end]); err != nil {
			return cursor, err
		}
		begin = end
		cursor++
		as.reached = cursor
	}
	return cursor, nil
}
