package api

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"

	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/recording"
)

const (
	contentTypeZstd = "application/zstd"
	// defaultPoints is the number of points that an answer has at most unless the request
	// says, maxPoints what it may say.
	defaultPoints, maxPoints = 300, 2000
	// damagesTrailer tells at the end of an answer how many parts of the recording could
	// not be read for it.
	damagesTrailer = "Recording-Damages"
)

// past is what a request asks of the recording.
type past struct {
	query   query
	reader  *recording.Reader
	part    recording.ReadOptions
	damages int
}

// recordedBody is the answer of GET /v1/recording.
type recordedBody struct {
	Bytes    int64 `json:"bytes"`
	Segments int   `json:"segments"`
	// DamagedSegments have no header that can be read.
	DamagedSegments int `json:"damaged_segments"`
	// The others are of the run that is recorded now.
	RunID          string            `json:"run_id"`
	DroppedSeconds uint64            `json:"dropped_seconds"`
	StoppedBy      *string           `json:"stopped_by"`
	Runs           []recordedRunBody `json:"runs"`
}

// recordedRunBody is one run in it.
type recordedRunBody struct {
	RunID    string `json:"run_id"`
	StartMs  int64  `json:"start_ms"`
	FromMs   int64  `json:"from_ms"`
	ToMs     int64  `json:"to_ms"`
	Segments int    `json:"segments"`
	Bytes    int64  `json:"bytes"`
}

// recordedStatesBody is the answer of GET /v1/recording/states.
type recordedStatesBody struct {
	*recording.Decimated
	Damages int `json:"damages"`
}

// pastAnswer answers a request for a part of the recording, as [Server.long] has it. Work
// that it does itself is done in turns; what it is given to read is read in turns, too.
type pastAnswer func(w http.ResponseWriter, r *http.Request, p *past, turn func(work func()) error) (begun bool, err error)

// recorded answers requests for parts of the recording.
func (s *Server) recorded(answer pastAnswer, parameters ...string) http.Handler {
	return goodQuery(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := &past{query: queryOf(r)}
		if refused := cmp.Or(p.readPart(), p.checkOwn()); refused != nil {
			refused.Write(w)
			return
		}
		if s.cfg.RecordingDir == "" {
			noRecording("nothing is recorded: start the agent with --record DIR, or with record.dir in its config").Write(w)
			return
		}
		s.long(w, r, func(turn func(work func()) error) (begun bool, err error) {
			if refused, err := p.open(s.cfg.RecordingDir, turn); err != nil || refused != nil {
				if refused != nil {
					refused.Write(w)
				}
				return refused != nil, err
			}
			begun, err = answer(w, r, p, turn)
			if err != nil && !begun && r.Context().Err() == nil {
				problem.New(http.StatusInternalServerError, "the recording cannot be read: %v", err).Write(w)
				return true, nil
			}
			return begun, err
		})
	}), parameters...)
}

func noRecording(format string, args ...any) *problem.Problem {
	return problem.New(http.StatusNotFound, format, args...).Coded(problem.CodeNoRecording)
}

// readPart reads which part of the recording is asked for.
func (p *past) readPart() *problem.Problem {
	from, wrongFrom := p.query.whole("from_ms", 0, 0, maxEventID)
	to, wrongTo := p.query.whole("to_ms", 0, 1, maxEventID)
	runID, named, wrongRun := p.query.one("run")
	p.part = recording.ReadOptions{RunID: runID, FromMs: int64(from), ToMs: int64(to), Damaged: func(recording.Damage) { p.damages++ }}
	switch refused := cmp.Or(wrongFrom, wrongTo, wrongRun); {
	case refused != nil:
		return refused
	case to != 0 && to <= from:
		return badQuery("to_ms", "must be after from_ms, %d, got %d", from, to)
	case named && runID == "":
		return badQuery("run", "must be the run_id of a run in /v1/recording, got an empty one")
	}
	return nil
}

// checkOwn checks the parameters of one path alone.
func (p *past) checkOwn() *problem.Problem {
	_, wrongPoints := p.points()
	_, wrongKind := p.kind()
	return cmp.Or(wrongPoints, wrongKind)
}

func (p *past) points() (int, *problem.Problem) {
	return p.query.whole("points", defaultPoints, 1, maxPoints)
}

// kind is the kind of lines asked for, that of events if it does not say.
func (p *past) kind() (recording.Kind, *problem.Problem) {
	kinds := []recording.Kind{
		recording.KindHeader, recording.KindPower, recording.KindITL, recording.KindMetrics, recording.KindCommand,
		recording.KindEvent, recording.KindState, recording.KindStateHash, recording.KindEnd,
	}
	value, there, refused := p.query.one("kind")
	switch {
	case refused != nil:
		return "", refused
	case !there:
		return recording.KindEvent, nil
	case !slices.Contains(kinds, recording.Kind(value)):
		return "", badQuery("kind", "must be one of %q, got %q", kinds, problem.Shorten(value))
	}
	return recording.Kind(value), nil
}

// open opens the recording. refused is what it lacks.
func (p *past) open(dir string, turn func(work func()) error) (refused *problem.Problem, err error) {
	var failed error
	if err := turn(func() { p.reader, failed = recording.OpenReader(dir) }); err != nil {
		return nil, err
	}
	switch {
	case errors.Is(failed, datacenter.ErrInvalidInput):
		return noRecording("nothing was recorded so far that can be read: %v", failed), nil
	case failed != nil:
		return problem.New(http.StatusInternalServerError, "the recording cannot be read: %v", failed), nil
	}
	p.part.Turn = turn
	ofRun := func(s recording.Segment) bool { return s.RunID == p.part.RunID }
	if p.part.RunID != "" && !slices.ContainsFunc(p.reader.Segments(), ofRun) {
		return noRecording("the recording has no run %q; /v1/recording says which it has", problem.Shorten(p.part.RunID)), nil
	}
	return nil, nil
}

// recordedRuns says what there is, by the headers of segments alone.
func (s *Server) recordedRuns(w http.ResponseWriter, _ *http.Request, p *past, _ func(work func()) error) (begun bool, err error) {
	body := recordedBody{RunID: s.cfg.Site.Status().RunID, Runs: []recordedRunBody{}}
	if s.cfg.Recording != nil {
		stats := s.cfg.Recording()
		body.DroppedSeconds = stats.DroppedSeconds
		if stats.Stopped {
			body.StoppedBy = &stats.StoppedBy
		}
	}
	for _, segment := range p.reader.Segments() {
		body.Segments++
		body.Bytes += segment.Bytes
		if !segment.HasHeader {
			body.DamagedSegments++
			continue
		}
		if n := len(body.Runs); n == 0 || body.Runs[n-1].RunID != segment.RunID {
			from := segment.StartMs + 1000*segment.Second
			body.Runs = append(body.Runs, recordedRunBody{RunID: segment.RunID, StartMs: segment.StartMs, FromMs: from})
		}
		run := &body.Runs[len(body.Runs)-1]
		run.Segments++
		run.Bytes += segment.Bytes
		run.ToMs = max(run.FromMs, segment.Modified.UnixMilli())
	}
	writeJSON(w, http.StatusOK, body)
	return true, nil
}

// recordedStates serves full states, decimated.
func (s *Server) recordedStates(w http.ResponseWriter, r *http.Request, p *past, turn func(work func()) error) (begun bool, err error) {
	points, _ := p.points()
	decimated, err := p.reader.Decimate(r.Context(), p.part, points)
	if err != nil {
		return false, err
	}
	var body []byte
	var encodeErr error
	if err := turn(func() { body, encodeErr = json.Marshal(recordedStatesBody{decimated, p.damages}) }); err != nil {
		return false, err
	}
	writeEncoded(w, http.StatusOK, body, encodeErr)
	return true, nil
}

// recordedLines serves the lines of one kind as they stand.
func (s *Server) recordedLines(w http.ResponseWriter, r *http.Request, p *past, _ func(work func()) error) (begun bool, err error) {
	kind, _ := p.kind()
	p.part.Kinds = []recording.Kind{kind}
	out := p.stream(w, contentTypeLines)
	if r.Method == http.MethodHead {
		return true, nil
	}
	var chunk []byte
	for entry, err := range p.reader.Lines(r.Context(), p.part) {
		if err != nil {
			return out.begun, err
		}
		if chunk = append(append(chunk, entry.Raw...), '\n'); len(chunk) < writeChunk {
			continue
		}
		if _, err := out.Write(chunk); err != nil {
			return true, err
		}
		chunk = chunk[:0]
	}
	_, err = out.Write(chunk)
	out.end()
	return true, err
}

// recordedSegment serves a part of a run as a recording of one segment.
func (s *Server) recordedSegment(w http.ResponseWriter, r *http.Request, p *past, _ func(work func()) error) (begun bool, err error) {
	if p.part.RunID == "" {
		for _, segment := range p.reader.Segments() {
			p.part.RunID = cmp.Or(segment.RunID, p.part.RunID)
		}
	}
	if p.part.RunID == "" {
		noRecording("no segment has a header that can be read").Write(w)
		return true, nil
	}
	out := p.stream(w, contentTypeZstd)
	w.Header().Set("Content-Disposition", `attachment; filename="`+recording.SegmentName(0)+`"`)
	if r.Method == http.MethodHead {
		return true, nil
	}
	err = p.reader.CutTo(r.Context(), p.part, out)
	if errors.Is(err, recording.ErrNothingThere) {
		for _, name := range []string{"Content-Disposition", "Trailer"} {
			w.Header().Del(name)
		}
		noRecording("the recording has nothing of that time").Write(w)
		return true, nil
	}
	out.end()
	return out.begun, err
}

// pastStream is a streamed answer, which ends with the number of damages.
type pastStream struct {
	http.ResponseWriter
	past  *past
	begun bool
}

func (p *past) stream(w http.ResponseWriter, contentType string) *pastStream {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Trailer", damagesTrailer)
	return &pastStream{ResponseWriter: w, past: p}
}

func (s *pastStream) Write(b []byte) (int, error) {
	s.begun = true
	return s.ResponseWriter.Write(b)
}

func (s *pastStream) end() { s.Header().Set(damagesTrailer, strconv.Itoa(s.past.damages)) }
