package api

import "sync"

// maxKept is the largest buffer that is kept for another answer, in bytes.
const maxKept = 1 << 20

// buffers are for answers, of one after the other.
type buffers struct{ pool sync.Pool }

func (p *buffers) get() *[]byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, stateBytes)
	return &b
}

func (p *buffers) put(b *[]byte) {
	if cap(*b) <= maxKept {
		p.pool.Put(b)
	}
}
