// Package kinds has the kinds of power sources that there are. A new one is a line
// in its table.
package kinds

import (
	"github.com/g2g-agent/g2g-agent/power"
	"github.com/g2g-agent/g2g-agent/power/filesource"
	"github.com/g2g-agent/g2g-agent/zeusd"
)

// Default is the kind of an endpoint whose config names none.
const Default = "zeusd"

// Table is all kinds, by the name that the config has for them.
func Table() map[string]power.Kind {
	return map[string]power.Kind{
		"zeusd": zeusd.SourceKind(),
		"file":  filesource.SourceKind(),
	}
}
