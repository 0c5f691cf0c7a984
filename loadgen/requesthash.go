package loadgen

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// HashRequests tells requests, in their order, and what is added to each apart: the
// SHA-256 of them as JSON, in hex.
func HashRequests(requests []Request, extraBody map[string]any) (string, error) {
	sum := sha256.New()
	e := json.NewEncoder(sum)
	if err := e.Encode(extraBody); err != nil {
		return "", err
	}
	for _, r := range requests {
		if err := e.Encode(r.fields); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
