// Package excerpt quotes what others say, which may be endless or no text at all.
package excerpt

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Sign stands for what is left out.
const Sign = "…"

// Of returns the start of text: at most maxBytes, without cutting a character, and
// then [Sign] if it goes on. What is no UTF-8 becomes U+FFFD.
func Of(text string, maxBytes int) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= maxBytes {
		return text
	}
	end := max(maxBytes, 0)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + Sign
}

// Quote returns the start of text as [strconv.Quote] does, at most maxBytes within
// the quotes, and then [Sign] if it goes on: nothing in it reaches a terminal as it
// is.
func Quote(text string, maxBytes int) string {
	shown, cut := escape(text, maxBytes, func(rune) bool { return false })
	shown = `"` + shown + `"`
	if cut {
		shown += Sign
	}
	return shown
}

// Printable is [Of], with control characters and others that are not seen escaped
// as in [strconv.Quote]. What keep lists stays.
func Printable(text string, maxBytes int, keep ...rune) string {
	shown, cut := escape(text, maxBytes, func(r rune) bool { return r == '"' || r == '\\' || slices.Contains(keep, r) })
	if cut {
		shown += Sign
	}
	return shown
}

// escape escapes text as in a quoted one, but for what keep says, until it has
// maxBytes, and reports whether text goes on then.
func escape(text string, maxBytes int, keep func(rune) bool) (shown string, cut bool) {
	var b strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		piece := text[i : i+size]
		if quoted := strconv.Quote(piece); !keep(r) {
			piece = quoted[1 : len(quoted)-1]
		}
		if b.Len()+len(piece) > maxBytes {
			return b.String(), true
		}
		b.WriteString(piece)
		i += size
	}
	return b.String(), false
}
