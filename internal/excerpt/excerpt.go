// Package excerpt quotes what others say, which may be endless or no text at all.
package excerpt

import (
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
