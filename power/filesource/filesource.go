// Package filesource is a power source that plays readings from a file, in real
// time and again and again: to rehearse a site before its GPUs can be read, and to
// show what a run does with a given power. It implements [power.Source].
//
// The file is CSV with the columns time_s (seconds since the start, not
// decreasing), gpu_index and power_w. After the last row it begins anew, as long
// after it as that came after the time before, or one second after a file of one
// time. A GPU that has no row for a while is one that falls silent.
package filesource

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/internal/textfile"
	"github.com/g2g-agent/g2g-agent/power"
)

// kindName is the kind's name in the config.
const kindName = "file"

const (
	// maxFileBytes bounds what is read: 100 bytes a second for a week.
	maxFileBytes = 64 << 20
	// maxQuoted bounds what a message repeats of a file, in bytes.
	maxQuoted = 100
	// leastPeriod is the shortest time in which a file is played.
	leastPeriod = time.Second
)

// SourceKind is this kind of source.
func SourceKind() power.Kind {
	return power.Kind{Check: check, Identity: identity, Open: open, Counts: counts(0, 0, 0)}
}

func check(e power.Endpoint) []power.Problem {
	var problems []power.Problem
	if e.File == "" {
		problems = append(problems, power.Problem{Key: "file", Text: "is missing; source file plays the readings in it"})
	}
	for key, given := range map[string]bool{"host": e.Host != "", "port": e.Port != 0, "socket": e.Socket != "", "token_file": e.TokenFile != ""} {
		if given {
			problems = append(problems, power.Problem{Key: key, Text: "source file has none; leave it out"})
		}
	}
	slices.SortFunc(problems, func(a, b power.Problem) int { return strings.Compare(a.Key, b.Key) })
	return problems
}

func identity(e power.Endpoint) string { return power.PathIdentity(e.File) }

// Source plays one file.
type Source struct {
	file   string
	rows   []row
	period time.Duration
	ranges map[int][2]float64 // of the GPUs that are wanted, zero for one not given

	running                       atomic.Bool
	readings, implausible, rounds atomic.Uint64
}

// row is one reading of a file, at a time since its start.
type row struct {
	after  time.Duration
	index  int
	powerW float64
}

func open(endpoints []power.Endpoint, _ power.Options) ([]power.Source, error) {
	sources := make([]power.Source, len(endpoints))
	byFile := map[string]*Source{}
	var errs []error
	for i, e := range endpoints {
		s := byFile[identity(e)]
		if s == nil {
			rows, err := load(e.File)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			s = &Source{file: filepath.Clean(e.File), rows: rows, period: periodOf(rows), ranges: map[int][2]float64{}}
			byFile[identity(e)] = s
		}
		for _, index := range e.GPUIndices {
			s.ranges[index] = e.RangeW
			if !slices.ContainsFunc(s.rows, func(r row) bool { return r.index == index }) {
				errs = append(errs, fmt.Errorf("%s: has no reading of GPU %d; it has those of %v", s.file, index, s.indices()))
			}
		}
		sources[i] = s
	}
	return sources, errors.Join(errs...)
}

// indices are the GPUs of which the file has readings.
func (s *Source) indices() []int {
	in := map[int]bool{}
	for _, r := range s.rows {
		in[r.index] = true
	}
	return slices.Sorted(maps.Keys(in))
}

// load reads a file whole.
func load(file string) ([]row, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	limited := &io.LimitedReader{R: f, N: maxFileBytes + 1}
	rows, err := parse(limited)
	switch {
	case limited.N == 0:
		return nil, fmt.Errorf("%s: has more than %d bytes", file, maxFileBytes)
	case errors.Is(err, textfile.ErrUTF16):
		return nil, fmt.Errorf("%s: %w", file, textfile.ErrUTF16)
	case err != nil:
		return nil, fmt.Errorf("%s:%w", file, err)
	}
	return rows, nil
}

// columns are the file's, in the order that is written; a file may have them in
// any.
func columns() []string { return []string{"time_s", "gpu_index", "power_w"} }

// parse reads rows. Its errors begin with the line.
func parse(r io.Reader) ([]row, error) {
	table := csv.NewReader(textfile.NewReader(r))
	table.ReuseRecord = true
	header, err := table.Read()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, atLine(err)
	}
	at := make([]int, len(columns()))
	for i, name := range columns() {
		if at[i] = slices.Index(header, name); at[i] < 0 || len(header) != len(columns()) {
			return nil, fmt.Errorf("1: want the columns %v, got %s", columns(), excerpt.Of(fmt.Sprintf("%q", header), maxQuoted))
		}
	}
	var rows []row
	for {
		record, err := table.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, atLine(err)
		}
		line, _ := table.FieldPos(0)
		next, err := parseRow(record[at[0]], record[at[1]], record[at[2]])
		if err == nil && len(rows) > 0 && next.after < rows[len(rows)-1].after {
			err = fmt.Errorf("time_s is %s, before the row above", excerpt.Printable(record[at[0]], maxQuoted))
		}
		if err != nil {
			return nil, fmt.Errorf("%d: %w", line, err)
		}
		rows = append(rows, next)
	}
	if len(rows) == 0 {
		return nil, errors.New("2: there is no reading")
	}
	return rows, nil
}

// atLine puts the line in front of an error of the CSV reader.
func atLine(err error) error {
	if parseErr := (*csv.ParseError)(nil); errors.As(err, &parseErr) {
		return fmt.Errorf("%d: %w", parseErr.Line, parseErr.Err)
	}
	return fmt.Errorf(" %w", err)
}

func parseRow(timeS, index, powerW string) (row, error) {
	s, err := strconv.ParseFloat(timeS, 64)
	if err != nil || !(s >= 0 && s <= math.MaxInt32) {
		return row{}, fmt.Errorf("time_s is %s, want seconds from 0 to %d", excerpt.Quote(timeS, maxQuoted), math.MaxInt32)
	}
	i, err := strconv.Atoi(index)
	if err != nil || i < 0 || i > power.MaxGPUIndex {
		return row{}, fmt.Errorf("gpu_index is %s, want 0 to %d", excerpt.Quote(index, maxQuoted), power.MaxGPUIndex)
	}
	w, err := strconv.ParseFloat(powerW, 64)
	if err != nil || !(w >= 0) || math.IsInf(w, 0) {
		return row{}, fmt.Errorf("power_w is %s, want a finite number of watts from 0 on", excerpt.Quote(powerW, maxQuoted))
	}
	return row{time.Duration(s * float64(time.Second)), i, w}, nil
}

// periodOf is the time from one playing of the rows to the next.
func periodOf(rows []row) time.Duration {
	last := rows[len(rows)-1].after
	for i := len(rows) - 2; i >= 0; i-- {
		if before := rows[i].after; before < last {
			return max(last+last-before-rows[0].after, leastPeriod)
		}
	}
	return leastPeriod
}

// String implements [power.Source].
func (s *Source) String() string { return s.file }

// Kind implements [power.Source].
func (s *Source) Kind() string { return kindName }

// Probe implements [power.Source]: the file was read before.
func (s *Source) Probe(context.Context) power.Report {
	r := power.Report{
		Findings: []string{fmt.Sprintf("%d readings of %d GPUs, %d of them used, over %v s",
			len(s.rows), len(s.indices()), len(s.ranges), s.period.Seconds())},
		PowerW: map[int]float64{}, Unread: map[int]error{},
	}
	for index := range s.ranges {
		first := slices.IndexFunc(s.rows, func(r row) bool { return r.index == index && s.plausible(r) })
		if first < 0 {
			r.Unread[index] = fmt.Errorf("%s: no reading of GPU %d is within power_range_w %v", s.file, index, s.ranges[index])
			continue
		}
		r.PowerW[index] = s.rows[first].powerW
	}
	return r
}

// plausible reports whether a GPU can draw what the row says.
func (s *Source) plausible(r row) bool {
	rangeW := s.ranges[r.index]
	return rangeW == [2]float64{} || r.powerW >= rangeW[0] && r.powerW <= rangeW[1]
}

// Run implements [power.Source].
func (s *Source) Run(ctx context.Context, to power.Sink) error {
	s.running.Store(true)
	defer s.running.Store(false)
	timer := time.NewTimer(0)
	defer timer.Stop()
	start := time.Now()
	for begin := start; ; begin = begin.Add(s.period) {
		for _, r := range s.rows {
			due := begin.Add(r.after - s.rows[0].after)
			timer.Reset(time.Until(due))
			select {
			case <-ctx.Done():
				return nil
			case <-timer.C:
			}
			s.play(r, due, to)
		}
		s.rounds.Add(1)
	}
}

func (s *Source) play(r row, due time.Time, to power.Sink) {
	if _, wanted := s.ranges[r.index]; !wanted {
		return
	}
	if !s.plausible(r) {
		s.implausible.Add(1)
		return
	}
	s.readings.Add(1)
	to.Read(power.Reading{Index: r.index, PowerW: r.powerW, At: due})
}

// Health implements [power.Source].
func (s *Source) Health() power.Health {
	return power.Health{Connected: s.running.Load(), Counts: counts(s.readings.Load(), s.implausible.Load(), s.rounds.Load())}
}

func counts(readings, implausible, rounds uint64) []power.Count {
	return []power.Count{
		{Name: "readings", Help: "Readings that were played.", N: readings},
		{Name: "implausible_readings", Help: "Readings that no such GPU can draw; they are treated as missing.", N: implausible},
		{Name: "rounds", Help: "How often the file was played from its beginning.", N: rounds},
	}
}
