package rig

import "time"

const (
	// lateCommand is for how long after a server answers again a command that it
	// left unanswered may still take effect.
	lateCommand = 10 * time.Second
	// repeatEvery is how often it is told anew meanwhile.
	repeatEvery = time.Second
)

// setting is a batch size and how fast the server comes to it.
type setting struct {
	batchSize  int     // 0: none
	rampUpRate float64 // requests per second; 0: at once
}

// applied is what a vLLM server accepted last, and whether it may run something
// else all the same: a restart forgets it, and a command without an answer may have
// been carried out, or will be.
type applied struct {
	setting
	at         time.Time
	unknown    bool      // what it runs
	refused    setting   // what it was to run and did not take when told again
	unanswered bool      // a command, since it accepted one
	lateUntil  time.Time // until then an unanswered command may take effect
}

// accept notes that the server accepted a setting.
func (a *applied) accept(s setting, now time.Time) {
	a.setting, a.at = s, now
	a.unknown, a.refused = false, setting{}
	if a.unanswered {
		a.unanswered, a.lateUntil = false, now.Add(lateCommand)
	}
}

// leaveUnanswered notes a command that may or may not have been carried out.
func (a *applied) leaveUnanswered() { a.unknown, a.unanswered = true, true }

// refuse notes that the server does not take what it is to run.
func (a *applied) refuse(s setting) { a.unknown, a.refused = false, s }

// forget notes that the server may have been restarted.
func (a *applied) forget() { a.unknown = true }

// drifts reports whether the server may run something else than desired and should
// be told. One that refuses is not told the same once more.
func (a *applied) drifts(desired setting, now time.Time) bool {
	late := now.Before(a.lateUntil) && now.Sub(a.at) >= repeatEvery
	return desired.batchSize != 0 && (a.unknown || a.refused != desired && (late || a.setting != desired))
}

// surelyRuns reports whether the server need not be told: it accepted the setting
// last and nothing has happened since, or it was never told any.
func (a *applied) surelyRuns(s setting, now time.Time) bool {
	return !a.unknown && a.refused.batchSize == 0 && !now.Before(a.lateUntil) && (a.batchSize == 0 || a.setting == s)
}
