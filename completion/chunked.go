package completion

import "bytes"

// chunkedDecoder takes the chunked transfer coding (RFC 9112, section 7.1) off a
// body that arrives in pieces, without copying. Extensions and trailers are
// passed over.
type chunkedDecoder struct {
	state  chunkedState
	remain uint64 // bytes of the chunk still to come
	digits int    // of the size read so far
	length int    // of the line, or of all trailers, read so far
	empty  bool   // whether the trailer line has nothing so far
}

type chunkedState uint8

const (
	chunkedSize      chunkedState = iota // in the digits of a size
	chunkedExtension                     // behind them, up to the end of the line
	chunkedData
	chunkedDataCR // at the CR behind the data
	chunkedDataLF
	chunkedTrailer // in the lines behind the last chunk
	chunkedEnd
)

const (
	maxChunkDigits  = 15 // of a size, so that it fits with room to spare
	maxChunkLine    = 4 << 10
	maxTrailerBytes = 64 << 10
)

// next returns the first piece of payload in data, which lies in data, and how
// many bytes of data it has used up. The payload is empty when data holds no
// (more) payload; then all of data is used, unless the body ended within it.
//
// It is long because each state is a case of the one loop over bytes: a call for each
// would cost more than the rest.
func (c *chunkedDecoder) next(data []byte) (payload []byte, used int, err error) {
	for used < len(data) {
		b := data[used]
		switch c.state {
		case chunkedData:
			rest := data[used:]
			if uint64(len(rest)) < c.remain {
				c.remain -= uint64(len(rest))
				return rest, len(data), nil
			}
			payload = rest[:c.remain]
			c.remain = 0
			c.state = chunkedDataCR
			return payload, used + len(payload), nil
		case chunkedSize:
			used++
			digit, isHex := hexDigit(b)
			switch {
			case isHex:
				if c.digits++; c.digits > maxChunkDigits {
					return nil, used, malformed("the size of a chunk has more than %d digits", maxChunkDigits)
				}
				c.remain = c.remain<<4 | uint64(digit)
			case c.digits == 0 || (b != '\r' && b != '\n' && b != ';' && b != ' ' && b != '\t'):
				return nil, used, malformed("the size of a chunk is not a hexadecimal number: found %q", b)
			case b == '\n':
				c.endSize()
			default:
				c.state, c.length = chunkedExtension, 0
			}
		case chunkedExtension:
			if c.length++; c.length > maxChunkLine {
				return nil, used, malformed("the line of a chunk's size is longer than %d bytes", maxChunkLine)
			}
			used++
			if b == '\n' {
				c.endSize()
			}
		case chunkedDataCR:
			if b != '\r' {
				return nil, used, malformed("a chunk is longer than its size: %q follows it, want CR", b)
			}
			used++
			c.state = chunkedDataLF
		case chunkedDataLF:
			if b != '\n' {
				return nil, used, malformed("the CR behind a chunk is followed by %q, want LF", b)
			}
			used++
			c.state, c.digits = chunkedSize, 0
		case chunkedTrailer:
			if c.length++; c.length > maxTrailerBytes {
				return nil, used, malformed("the trailers are longer than %d bytes", maxTrailerBytes)
			}
			used++
			switch {
			case b == '\n' && c.empty:
				c.state = chunkedEnd
				return nil, used, nil
			case b == '\n':
				c.empty = true
			case b != '\r':
				c.empty = false
			}
		case chunkedEnd:
			return nil, used, nil
		}
	}
	return nil, used, nil
}

func (c *chunkedDecoder) endSize() {
	if c.remain == 0 {
		c.state, c.length, c.empty = chunkedTrailer, 0, true
		return
	}
	c.state = chunkedData
}

func hexDigit(b byte) (value byte, ok bool) {
	switch {
	case b >= '0' && b <= '9':
		return b - '0', true
	case b >= 'a' && b <= 'f':
		return b - 'a' + 10, true
	case b >= 'A' && b <= 'F':
		return b - 'A' + 10, true
	}
	return 0, false
}

// headEnd is the index behind the empty line that ends a response head, or -1.
// It looks for the end in data[from:], which may start in the middle of it.
func headEnd(data []byte, from int) int {
	for i := max(0, from-3); ; {
		at := bytes.IndexByte(data[i:], '\n')
		if at < 0 {
			return -1
		}
		i += at + 1
		rest := data[i:]
		if len(rest) > 0 && rest[0] == '\n' {
			return i + 1
		}
		if len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n' {
			return i + 2
		}
	}
}
