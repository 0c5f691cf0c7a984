package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/config"
)

func TestLogLevelCanChange(t *testing.T) {
	var out bytes.Buffer
	log := newLiveLog(config.Log{Level: "warn"}, &out, func() {})
	log.Info().Msg("too fine")
	log.Warn().Msg("one")
	log.level.set(config.Log{Level: "debug"})
	log.Debug().Msg("two")
	before := time.Now()
	log.level.set(config.Log{Level: "error"})
	log.Warn().Msg("too fine again")
	var messages []string
	for line := range strings.Lines(out.String()) {
		var l struct {
			Message string
			Time    time.Time
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		if d := before.Sub(l.Time); d < 0 || d > time.Minute {
			t.Errorf("a line of %v was written before %v", l.Time, before)
		}
		messages = append(messages, l.Message)
	}
	if got := strings.Join(messages, ","); got != "one,two" {
		t.Errorf("the log has %s, want one,two", got)
	}
}

func TestConsoleLogHasTheTime(t *testing.T) {
	var out bytes.Buffer
	log := newLogger(config.Log{Level: "info", Format: "console"}, &out)
	log.Info().Msg("a line")
	clock, _, _ := strings.Cut(out.String(), " ")
	if _, err := time.Parse(time.TimeOnly, clock); err != nil {
		t.Errorf("the line %q begins with no time: %v", out.String(), err)
	}
}
