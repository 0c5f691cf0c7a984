package record

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func addSeeds(f *testing.F, ending string) {
	for _, labels := range [][]string{nil, {"m"}, {`a,"b"`, "é:\n"}} {
		f.Add(encode(f, ending, labels, makeStates(labels, 2)))
	}
}

func FuzzReadCSV(f *testing.F) {
	addSeeds(f, csvEnding)
	f.Fuzz(func(t *testing.T, raw []byte) {
		states, err := decode(csvEnding, raw)
		if err != nil || len(states) == 0 {
			return
		}
		// What was read is written in a form that reads the same.
		again, err := decode(csvEnding, encode(t, csvEnding, labelsOf(states[0]), states))
		if diff := cmp.Diff(states, again, sameBits); err != nil || diff != "" {
			t.Fatalf("states written and read again (-want +got): %v\n%s", err, diff)
		}
	})
}

func FuzzReadJSONL(f *testing.F) {
	addSeeds(f, jsonlEnding)
	f.Fuzz(func(_ *testing.T, raw []byte) { _, _ = decode(jsonlEnding, raw) })
}

func FuzzReadParquet(f *testing.F) {
	addSeeds(f, parquetEnding)
	f.Fuzz(func(_ *testing.T, raw []byte) { _, _ = decode(parquetEnding, raw) })
}

func labelsOf(s datacenter.State) []string {
	var labels []string
	for _, m := range s.Models {
		labels = append(labels, m.ModelLabel)
	}
	return labels
}
