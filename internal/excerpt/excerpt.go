// Package excerpt cuts text from outside down to what a message or a log repeats
// of it.
package excerpt

import "unicode/utf8"

// Of returns text, or, if it is longer than most bytes, its beginning, marked as
// cut. No character is cut in half.
func Of(text string, most int) string {
	if len(text) <= most {
		return text
	}
	cut := most
	for back := range utf8.UTFMax { // text that is no UTF-8 is cut anywhere
		if back <= most && utf8.RuneStart(text[most-back]) {
			cut = most - back
			break
		}
	}
	return text[:cut] + "…"
}
