package guard

import (
	"context"
	"encoding/json"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// AuditEntry is a command that was carried out or refused.
type AuditEntry struct {
	// Command is its name, such as batch-sizes.
	Command string
	// Body is what was asked for, Result what came of it; both are logged as JSON,
	// cut to a bearable length.
	Body any
	// Status is the answer's HTTP status.
	Status int
	Result any
	// Took is the time from the request to the answer.
	Took           time.Duration
	IdempotencyKey string
	// Replayed: the answer is that of an earlier request with the same key.
	Replayed bool
}

const (
	// auditTime is the form of times in the audit lines.
	auditTime = "2006-01-02T15:04:05.000000Z07:00"
	// maxAuditJSON bounds a logged body or result, maxAuditText other text, in
	// bytes.
	maxAuditJSON, maxAuditText = 4096, 200
)

// Audit logs one line for a command: who gave it (see callerFrom), what it was
// and what came of it; as a warning when it was refused. It is written at every
// log level.
func (g *Guard) Audit(ctx context.Context, e AuditEntry) { g.audit(callerFrom(ctx), e, 0) }

// audit is Audit; unlogged is how many were not logged since the last line.
func (g *Guard) audit(by caller, e AuditEntry, unlogged uint64) {
	level := zerolog.InfoLevel
	if e.Status >= 400 {
		level = zerolog.WarnLevel
	}
	// A line without a level of its own passes whatever levels are wanted.
	line := g.cfg.Log.Log().Stringer(zerolog.LevelFieldName, level).Bool("audit", true).Str("at", g.cfg.now().UTC().Format(auditTime)).
		Str("role", by.Role).Str("address", by.Address).Str("user_agent", by.UserAgent).
		Str("command", printable(e.Command))
	line = withJSON(line, "body", e.Body)
	if e.IdempotencyKey != "" {
		line = line.Str("idempotency_key", printable(e.IdempotencyKey))
	}
	if e.Replayed {
		line = line.Bool("replayed", true)
	}
	line = withJSON(line.Int("status", e.Status), "result", e.Result).Float64("took_s", e.Took.Seconds())
	if unlogged > 0 {
		line = line.Uint64("unlogged", unlogged)
	}
	line.Msg("command")
}

// withJSON adds a value, or the beginning of one that is too long.
func withJSON(line *zerolog.Event, key string, value any) *zerolog.Event {
	if value == nil {
		return line
	}
	text, err := json.Marshal(value)
	switch {
	case err != nil:
		return line.Str(key, "not JSON: "+printable(err.Error()))
	case len(text) > maxAuditJSON:
		return line.Str(key, excerpt.Of(string(text), maxAuditJSON)).Int(key+"_bytes", len(text))
	default:
		return line.RawJSON(key, text)
	}
}

// printable is text from outside made fit for a log.
func printable(text string) string { return excerpt.Printable(text, maxAuditText) }
