package vllm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"iter"
	"math"
	"strconv"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// wantedName is one of the names that a page is searched for.
type wantedName int

const (
	running wantedName = iota
	waiting
	preemptions
	preemptionsBefore
	kvCache
	kvCacheBefore
	numWantedNames
)

func (w wantedName) String() string {
	return [numWantedNames]string{
		MetricRunning, MetricWaiting, MetricPreemptions, "vllm:num_preemptions", MetricKVCache, "vllm:gpu_cache_usage_perc",
	}[w]
}

// vllmPrefix begins the names of vLLM's own metrics.
const vllmPrefix = "vllm:"

// metricsScan is what was found on a page.
type metricsScan struct {
	modelID  string
	label    string // the model's ID as a label's value has it, with escapes
	ours     bool   // some line is of the model, be it malformed
	families [numWantedNames]metricFamily
	ofVLLM   bool   // there is some metric of vLLM's, be it without a series
	start    string // of the page
	seed     maphash.Seed
	parser   *expfmt.TextParser
	text     []byte // for the parser
}

// metricFamily is the series of one name.
type metricFamily struct {
	series []metricSeries
	place  map[uint64]int // of each in series, by its labels
	err    error          // of a line that is the model's, or may be

	others    int   // of the series are other models'
	othersErr error // of a line that is another model's
}

// metricSeries is one line.
type metricSeries struct {
	modelName string // its label model_name, empty without
	labels    uint64 // stands for all of them, in whatever order
	value     float64
	err       error // why it has no value
}

// read goes through a page line by line. What is kept of it is bounded, whatever
// it is.
func (s *metricsScan) read(r io.Reader) error {
	in := bufio.NewReaderSize(r, maxSampleBytes)
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if first {
			line = bytes.TrimPrefix(line, []byte("\xEF\xBB\xBF"))
			s.start = shorten(string(line[:min(len(line), 2*maxDetailBytes)]))
		}
		tooLong := errors.Is(err, bufio.ErrBufferFull)
		s.line(line, tooLong)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// line takes in a line, or the beginning of one that is too long.
func (s *metricsScan) line(line []byte, tooLong bool) {
	line = bytes.Trim(line, " \t\r\n")
	if len(line) == 0 {
		return
	}
	switch line[0] {
	case '#':
		// The names of what has no series yet.
		s.ofVLLM = s.ofVLLM || bytes.HasPrefix(line, []byte("# TYPE "+vllmPrefix)) || bytes.HasPrefix(line, []byte("# HELP "+vllmPrefix))
		return
	case vllmPrefix[0]:
		if !bytes.HasPrefix(line, []byte(vllmPrefix)) {
			return
		}
		s.ofVLLM = true
	case '{': // the name stands inside, in quotes
		s.ofVLLM = s.ofVLLM || bytes.Contains(line, []byte(`"`+vllmPrefix))
	default:
		return
	}
	for name := range numWantedNames {
		if mayBe(line, name.String()) {
			s.sample(name, line, tooLong)
		}
	}
}

// mayBe reports whether a line is a sample of the name. Of a name in quotes the
// parser has the last word.
func mayBe(line []byte, name string) bool {
	if line[0] == '{' {
		return bytes.Contains(line, []byte(`"`+name+`"`))
	}
	rest, ok := bytes.CutPrefix(line, []byte(name))
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte("{ \t"), rest[0]) >= 0)
}

// sample takes in a line of the name. What is wrong with one of another model is
// kept apart.
func (s *metricsScan) sample(name wantedName, line []byte, tooLong bool) {
	family := &s.families[name]
	model := modelNameIn(line)
	other := len(model) > 0 && string(model) != s.label
	s.ours = s.ours || len(model) > 0 && !other
	if other && family.othersErr != nil || !other && family.err != nil {
		return
	}
	series, err := s.seriesOf(name, line, tooLong)
	if series != nil {
		other = series.modelName != "" && series.modelName != s.modelID
		err = family.add(*series, other)
	}
	switch {
	case other && err != nil:
		family.othersErr = err
	case err != nil:
		family.err = err
	}
}

// seriesOf reads a line of the name; nil if it is of another. An error is of a line
// that cannot be read but, at best, for whose it is.
func (s *metricsScan) seriesOf(name wantedName, line []byte, tooLong bool) (*metricSeries, error) {
	if tooLong {
		return nil, fmt.Errorf("a line is longer than %d bytes", maxSampleBytes)
	}
	labels, value, ok := cutSample(line)
	if !ok {
		return nil, fmt.Errorf("the line %q is malformed", shorten(string(line)))
	}
	metric, err := s.parse(name, labels, value)
	bad := err
	if err != nil {
		// Whose is the value that is none?
		metric, err = s.parse(name, labels, []byte("NaN"))
	}
	if err != nil {
		return nil, fmt.Errorf("the line %q is malformed: %s", shorten(string(line)), shorten(err.Error()))
	}
	if metric == nil {
		return nil, nil
	}
	series := s.newSeries(metric)
	if bad != nil || !(series.value >= 0) || math.IsInf(series.value, 1) {
		series.err = fmt.Errorf("a value is %q, want a finite number from 0 on", shorten(string(value)))
	}
	return &series, nil
}

// modelNameIn is the value of the label model_name in a line that may be malformed,
// with its escapes; empty if it cannot be told, or there is none.
func modelNameIn(line []byte) []byte {
	brace := bytes.IndexByte(line, '{')
	if brace < 0 {
		return nil
	}
	for i, c := range unquoted(line, brace+1) {
		switch {
		case c == '}':
			return nil
		case c == 'm' && bytes.IndexByte([]byte("{, \t"), line[i-1]) >= 0:
			if rest, ok := bytes.CutPrefix(line[i:], []byte("model_name")); ok {
				return quotedValue(rest)
			}
		}
	}
	return nil
}

// quotedValue is what stands in quotes behind an equals sign.
func quotedValue(text []byte) []byte {
	text, ok := bytes.CutPrefix(bytes.TrimLeft(text, " \t"), []byte("="))
	if !ok {
		return nil
	}
	text, ok = bytes.CutPrefix(bytes.TrimLeft(text, " \t"), []byte(`"`))
	for i := 0; ok && i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return text[:i]
		}
	}
	return nil
}

// parse has the parser read one sample; nil if it is of another name.
func (s *metricsScan) parse(name wantedName, labels, value []byte) (*dto.Metric, error) {
	if s.parser == nil {
		parser := expfmt.NewTextParser(model.UTF8Validation)
		s.parser = &parser
	}
	s.text = append(append(append(append(s.text[:0], labels...), ' '), value...), '\n')
	families, err := s.parser.TextToMetricFamilies(bytes.NewReader(s.text))
	if err != nil {
		return nil, err
	}
	if found := families[name.String()].GetMetric(); len(found) == 1 {
		return found[0], nil
	}
	return nil, nil
}

func (s *metricsScan) newSeries(m *dto.Metric) metricSeries {
	series := metricSeries{value: m.GetUntyped().GetValue()}
	for _, l := range m.GetLabel() {
		if l.GetName() == "model_name" {
			series.modelName = l.GetValue()
		}
		series.labels += maphash.Comparable(s.seed, [2]string{l.GetName(), l.GetValue()})
	}
	return series
}

// add adds a series, of another model or not. One that is there already counts
// once, if both say the same. It fails if there are too many.
func (f *metricFamily) add(series metricSeries, other bool) error {
	i, again := f.place[series.labels]
	if !again {
		count := len(f.series) - f.others
		if other {
			count = f.others
			f.others++
		}
		if count == maxSeries {
			return fmt.Errorf("there are more than %d series", maxSeries)
		}
		if f.place == nil {
			f.place = map[uint64]int{}
		}
		f.place[series.labels] = len(f.series)
		f.series = append(f.series, series)
		return nil
	}
	first := &f.series[i]
	if first.err == nil && series.err == nil && first.value != series.value {
		series.err = fmt.Errorf("duplicate series, with the values %v and %v", first.value, series.value)
	}
	if first.err == nil {
		first.err = series.err
	}
	return nil
}

// cutSample cuts a line into a name with its labels, and the value. What may
// follow, a time and an exemplar as OpenMetrics has them, is of no use here.
func cutSample(line []byte) (labels, value []byte, ok bool) {
	end, ok := endOfLabels(line)
	if !ok {
		return nil, nil, false
	}
	labels = line[:end]
	value, rest := cutBlank(line[end:])
	if len(value) == 0 {
		return nil, nil, false
	}
	if len(rest) > 0 && rest[0] != '#' {
		var at []byte
		at, rest = cutBlank(rest)
		if _, err := strconv.ParseFloat(string(at), 64); err != nil {
			return nil, nil, false
		}
	}
	return labels, value, len(rest) == 0 || rest[0] == '#'
}

// cutBlank cuts off the first word.
func cutBlank(text []byte) (word, rest []byte) {
	text = bytes.TrimLeft(text, " \t")
	if i := bytes.IndexAny(text, " \t"); i >= 0 {
		return text[:i], bytes.TrimLeft(text[i:], " \t")
	}
	return text, nil
}

// endOfLabels is where the name and its labels end; not ok if the labels do not,
// or if there are too many.
func endOfLabels(line []byte) (end int, ok bool) {
	end = bytes.IndexAny(line, "{ \t")
	if end < 0 {
		return 0, false
	}
	next := len(line) - len(bytes.TrimLeft(line[end:], " \t"))
	if next == len(line) || line[next] != '{' {
		return end, true
	}
	labels := 1
	for i, c := range unquoted(line, next+1) {
		switch c {
		case ',':
			if labels++; labels > maxLabels {
				return 0, false
			}
		case '}':
			return i + 1, true
		}
	}
	return 0, false
}

// unquoted walks over the bytes of line[from:] outside of quotes, the quotes left
// out, with their indices. In quotes a backslash takes the next byte's meaning away.
func unquoted(line []byte, from int) iter.Seq2[int, byte] {
	return func(yield func(int, byte) bool) {
		quoted := false
		for i := from; i < len(line); i++ {
			switch c := line[i]; {
			case quoted && c == '\\':
				i++
			case c == '"':
				quoted = !quoted
			case !quoted && !yield(i, c):
				return
			}
		}
	}
}
