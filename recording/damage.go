package recording

import (
	"fmt"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// Damage is something of a recording that cannot be read and was left out.
type Damage struct {
	// File is the segment's name.
	File string
	// Offset is where in the file the damage begins, in bytes. Of a line that makes no
	// sense it is that of its frame, which is sound.
	Offset int64
	// Bytes are those left out, Frames the frames that begin in them, as far as that can be
	// told. Both are 0 for a line.
	Bytes  int64
	Frames int
	// Frame is the number, from 0 in its file, of the first frame left out, or of the one
	// that Line, counted from 1, is in. Line is 0 where frames are damaged.
	Frame, Line int
	// After and Before are the last second of the run read before the damage, and the
	// first one read after it, nil where there is none.
	After, Before *int64
	// Cut: the file ends within a frame, as it does where the writer was killed.
	Cut bool
	// Missing: segments before this one are not there.
	Missing bool
	Err     error
}

// maxReason bounds what a message has of a damage's cause, in bytes.
const maxReason = 300

// String says what is damaged, where, and between which seconds of the run.
func (d Damage) String() string {
	reason := excerpt.Printable(d.Err.Error(), maxReason)
	switch {
	case d.Missing:
		return fmt.Sprintf("%s: %s%s", d.File, reason, d.between())
	case d.Line > 0:
		return fmt.Sprintf("%s: frame %d at byte %d, line %d: %s%s", d.File, d.Frame, d.Offset, d.Line, reason, d.between())
	case d.Cut:
		return fmt.Sprintf("%s: frame %d at byte %d: the file is cut within it, %d bytes are left out%s", d.File, d.Frame, d.Offset, d.Bytes, d.between())
	}
	frames := "1 frame"
	if d.Frames != 1 {
		frames = fmt.Sprintf("%d frames", d.Frames)
	}
	return fmt.Sprintf("%s: frame %d at byte %d: %s, %d bytes, cannot be read (%s)%s", d.File, d.Frame, d.Offset, frames, d.Bytes, reason, d.between())
}

func (d Damage) between() string {
	switch {
	case d.After != nil && d.Before != nil:
		return fmt.Sprintf(", between seconds %d and %d of the run", *d.After, *d.Before)
	case d.After != nil:
		return fmt.Sprintf(", after second %d of the run", *d.After)
	case d.Before != nil:
		return fmt.Sprintf(", before second %d of the run", *d.Before)
	}
	return ""
}
