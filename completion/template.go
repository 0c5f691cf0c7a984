package completion

// eventTemplate is an event that was read in full, with places for what changes
// from one event to the next, of this answer or another: the id and the time, the
// text, and the numbers of the usage. An event that is the same but for these says
// the same but for these, so it need not be read in full.
//
// Streams that are read by one goroutine share one: one for each would be out of
// the cache whenever it is needed.
type eventTemplate struct {
	event     []byte // empty without one
	places    [3 + maxUsageNumbers]place
	numPlaces int
	hasTokens bool // the number of tokens is among them
	otherText bool // there is output beside the text
}

// place is a part of an event that may be another one.
type place struct {
	span
	kind placeKind
}

type placeKind uint8

const (
	textPlace placeKind = iota
	otherTextPlace
	numberPlace
	tokensPlace
)

// maxTemplateBytes keeps long events out, which are rare.
const maxTemplateBytes = 2 << 10

// take makes e, which was read and failed for nothing, the template, if most
// events are like it.
func (t *eventTemplate) take(e *chatEvent) {
	if len(e.data) > maxTemplateBytes || e.chunk.Last || e.chunk.OddUsage != "" || !e.output || e.text.to == 0 {
		return
	}
	t.numPlaces, t.hasTokens, t.otherText = 0, false, e.otherText
	t.add(place{e.text, textPlace})
	if id := e.id.in(e.data); len(id) > 1 && id[0] == '"' {
		t.add(place{span{e.id.from + 1, e.id.to - 1}, otherTextPlace})
	}
	if created := e.created.in(e.data); len(created) > 0 && skipNumber(created, 0) == len(created) {
		t.add(place{e.created, numberPlace})
	}
	for _, number := range e.numbers[:e.numNumbers] {
		kind := numberPlace
		if number == e.completion {
			kind = tokensPlace
			t.hasTokens = true
		}
		t.add(place{number, kind})
	}
	if t.hasTokens != (e.chunk.Tokens >= 0) { // a usage of too many numbers
		t.event, t.numPlaces = t.event[:0], 0
		return
	}
	t.event = append(t.event[:0], e.data...)
}

// add keeps the places in their order.
func (t *eventTemplate) add(p place) {
	i := t.numPlaces
	for ; i > 0 && t.places[i-1].from > p.from; i-- {
		t.places[i] = t.places[i-1]
	}
	t.places[i] = p
	t.numPlaces++
}

// match reads an event that is the template but for what is in its places; it is
// not ok for any other.
func (t *eventTemplate) match(event []byte) (chunk Chunk, ok bool) {
	chunk.Tokens = -1
	at, from, text := 0, 0, t.otherText
	for i := range t.places[:t.numPlaces] {
		p := &t.places[i]
		fixed := t.event[from:p.from]
		if len(event)-at < len(fixed) || string(event[at:at+len(fixed)]) != string(fixed) {
			return chunk, false
		}
		at += len(fixed)
		start := at
		switch p.kind {
		case textPlace:
			at = textEnd(event, at)
			text = text || at > start
		case otherTextPlace:
			at = textEnd(event, at)
		case numberPlace:
			_, at = plainNumber(event, at)
		case tokensPlace:
			if chunk.Tokens, at = plainNumber(event, at); chunk.Tokens > maxTokens {
				return chunk, false
			}
		}
		if at < 0 {
			return chunk, false
		}
		from = p.to
	}
	chunk.Content = text
	fixed := t.event[from:]
	return chunk, len(fixed) > 0 && string(event[at:]) == string(fixed)
}

// plainNumber reads a number that is nothing but digits; end is -1 for any other.
func plainNumber(data []byte, at int) (n, end int) {
	const most = 18 // as many as surely fit
	end = at
	for end < len(data) && data[end] >= '0' && data[end] <= '9' {
		n = n*10 + int(data[end]-'0')
		end++
	}
	if end == at || end > at+most || data[at] == '0' && end > at+1 {
		return 0, -1
	}
	return n, end
}
