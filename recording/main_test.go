package recording

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDirectory); dir != "" {
		recordUntilKilled(dir)
	}
	goleak.VerifyTestMain(m)
}
