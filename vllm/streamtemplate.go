package vllm

// eventTemplate is an event that was read in full, with places for what changes
// from one event of an answer to the next: the text, and the numbers of the usage.
// An event that is the same but for these says the same but for these, so it need
// not be read in full.
type eventTemplate struct {
	event     []byte // empty without one
	places    [1 + maxUsageNumbers]place
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
	numberPlace
	tokensPlace
)

// maxTemplateBytes keeps long events out: they are rare, and there is a template
// for each stream.
const maxTemplateBytes = 2 << 10

// take makes e, which was read and failed for nothing, the template, if events
// like it are to be expected.
func (t *eventTemplate) take(e *chatEvent) {
	if len(e.data) > maxTemplateBytes || e.chunk.Last || e.chunk.OddUsage != "" || !e.hasChoices {
		return
	}
	t.numPlaces, t.hasTokens, t.otherText = 0, false, e.otherText
	if e.text.to > 0 {
		t.add(place{e.text, textPlace})
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
func (t *eventTemplate) match(event []byte) (chunk StreamChunk, ok bool) {
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
		if p.kind == textPlace {
			if at = textEnd(event, at); at < 0 {
				return chunk, false
			}
			text = text || at > start
		} else {
			var n int
			if n, at = plainNumber(event, at); at < 0 {
				return chunk, false
			}
			if p.kind == tokensPlace {
				chunk.Tokens = n
			}
		}
		from = p.to
	}
	chunk.Content = text && !t.hasTokens
	fixed := t.event[from:]
	return chunk, len(fixed) > 0 && string(event[at:]) == string(fixed)
}

// plainNumber reads a number of a few digits; end is -1 for any other.
func plainNumber(data []byte, at int) (n, end int) {
	const most = 7 // as many as maxTokens has
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
