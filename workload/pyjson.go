package workload

import (
	"io"

	"github.com/g2g-agent/g2g-agent/internal/pyjson"
)

// writePyJSON writes an object as OpenG2G does: json.dumps(o, indent=2, sort_keys=True),
// without a line break at the end.
func writePyJSON(w io.Writer, o map[string]any) error {
	text, err := pyjson.AppendIndented(nil, o)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}
