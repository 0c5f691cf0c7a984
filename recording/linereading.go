package recording

import (
	"math"
	"strings"
)

// Power is what arrived of one GPU in one second, in order of arrival. A second has
// several lines of a GPU whose clock was corrected anew within it.
type Power struct {
	Second int64
	// GPU is the name that the header gives it.
	GPU string
	// OffsetNs is the correction of the source's clock that was used: a reading's time
	// on the run's clock, in nanoseconds, is (TMs − [Header.StartMs])·10⁶ + OffsetNs. What
	// exceeds [MaxInteger], as of a host that thinks it is 1970, is written as milliseconds
	// and the rest.
	OffsetNs int64
	// TMs are the source's own time stamps, in Unix milliseconds. Written as differences.
	TMs []int64
	// PowerMW are the readings, in milliwatts.
	PowerMW []int64
	// Steps are the numbers of the first steps that could see each entry.
	Steps []int64
	// Mark has a [Mark] for each entry. Empty, as written where all are readings, stands
	// for that.
	Mark string
}

// Mark says what an entry of [Power] is.
type Mark byte

// The marks.
const (
	MarkReading      Mark = 'r'
	MarkConfirmation Mark = 'c' // the source was asked and said the same
	MarkStale        Mark = 's' // stale from this step on
	MarkFresh        Mark = 'f' // read again, after it was stale
	MarkLost         Mark = 'l' // the source turned out to have no such GPU
)

const marks = "rcsfl"

const nsPerMs = 1_000_000

// MarkOf is the mark of entry i.
func (l *Power) MarkOf(i int) Mark {
	if l.Mark == "" {
		return MarkReading
	}
	return Mark(l.Mark[i])
}

// Kind is [KindPower].
func (*Power) Kind() Kind { return KindPower }

// AppendJSON appends the line without the newline that ends it.
func (l *Power) AppendJSON(b []byte) []byte {
	b = appendInt(start(b, KindPower), "second", l.Second)
	b = appendText(b, "gpu", l.GPU)
	offsetNs := l.OffsetNs
	if offsetNs > MaxInteger || offsetNs < -MaxInteger {
		b = appendInt(b, "offset_ms", offsetNs/nsPerMs)
		offsetNs %= nsPerMs
	}
	b = appendInt(b, "offset_ns", offsetNs)
	b = appendDifferences(b, "t_ms", l.TMs)
	b = appendColumn(b, "power_mw", l.PowerMW)
	b = appendColumn(b, "steps", l.Steps)
	if strings.Trim(l.Mark, string(rune(MarkReading))) != "" {
		b = appendText(b, "mark", l.Mark)
	}
	return append(b, '}')
}

func (l *Power) parse(raw []byte) error {
	var in struct {
		Second   *int64  `json:"second"`
		GPU      *string `json:"gpu"`
		OffsetMs int64   `json:"offset_ms"`
		OffsetNs *int64  `json:"offset_ns"`
		TMs      []int64 `json:"t_ms"`
		PowerMW  []int64 `json:"power_mw"`
		Steps    []int64 `json:"steps"`
		Mark     string  `json:"mark"`
	}
	if err := decode(raw, &in); err != nil {
		return err
	}
	var f fault
	*l = Power{
		Second: f.integer("second", in.Second, 0), GPU: f.text("gpu", in.GPU), OffsetNs: f.integer("offset_ns", in.OffsetNs, -MaxInteger),
		TMs: f.differences("t_ms", in.TMs, -MaxInteger), PowerMW: f.column("power_mw", in.PowerMW, -MaxInteger), Steps: f.column("steps", in.Steps, 0),
		Mark: in.Mark,
	}
	const most = math.MaxInt64/nsPerMs - MaxInteger/nsPerMs - 1 // 292 years
	if in.OffsetMs < -most || in.OffsetMs > most {
		f.say("offset_ms is %d, want at most %d milliseconds", in.OffsetMs, int64(most))
	}
	l.OffsetNs += in.OffsetMs * nsPerMs
	f.sameLength("t_ms", len(l.TMs), "power_mw", len(l.PowerMW))
	f.sameLength("t_ms", len(l.TMs), "steps", len(l.Steps))
	if l.Mark != "" {
		f.sameLength("t_ms", len(l.TMs), "mark", len(l.Mark))
		if i := strings.IndexFunc(l.Mark, func(r rune) bool { return !strings.ContainsRune(marks, r) }); i >= 0 {
			f.say("mark has something else than the letters r, c, s, f and l at %d", i)
		}
	}
	return f.err
}

// ITL is what came of one model's tokens since the step before. A step without tokens
// has no line.
type ITL struct {
	Seq        int64
	ModelLabel string
	// OutputTokens are all tokens that came, for the throughput.
	OutputTokens int64
	// Count is the number of tokens whose latencies were measured, SumNs the sum of the
	// latencies in nanoseconds, exactly.
	Count, SumNs int64
	// Method is how the tokens were counted.
	Method Method
	// Bins are the numbers of the histogram's bins that are not empty, rising, written as
	// differences; Counts how many latencies are in each.
	Bins, Counts []int64
}

// Method is how tokens were counted.
type Method string

// The methods.
const (
	MethodUsage    Method = "usage"     // by the server's usage
	MethodPerChunk Method = "per_chunk" // one a chunk
)

// Kind is [KindITL].
func (*ITL) Kind() Kind { return KindITL }

// AppendJSON appends the line without the newline that ends it.
func (l *ITL) AppendJSON(b []byte) []byte {
	b = appendInt(start(b, KindITL), "seq", l.Seq)
	b = appendText(b, "model_label", l.ModelLabel)
	b = appendInt(b, "output_tokens", l.OutputTokens)
	b = appendInt(b, "count", l.Count)
	b = appendInt(b, "sum_ns", l.SumNs)
	b = appendText(b, "method", string(l.Method))
	b = appendDifferences(b, "bins", l.Bins)
	b = appendColumn(b, "counts", l.Counts)
	return append(b, '}')
}

func (l *ITL) parse(raw []byte) error {
	var in struct {
		Seq        *int64  `json:"seq"`
		ModelLabel *string `json:"model_label"`
		Output     *int64  `json:"output_tokens"`
		Count      *int64  `json:"count"`
		SumNs      *int64  `json:"sum_ns"`
		Method     *string `json:"method"`
		Bins       []int64 `json:"bins"`
		Counts     []int64 `json:"counts"`
	}
	if err := decode(raw, &in); err != nil {
		return err
	}
	var f fault
	*l = ITL{
		Seq: f.integer("seq", in.Seq, 0), ModelLabel: f.text("model_label", in.ModelLabel),
		OutputTokens: f.integer("output_tokens", in.Output, 0), Count: f.integer("count", in.Count, 0), SumNs: f.integer("sum_ns", in.SumNs, -MaxInteger), Method: Method(f.text("method", in.Method)),
		Bins: f.differences("bins", in.Bins, 0), Counts: f.column("counts", in.Counts, 0),
	}
	f.sameLength("bins", len(l.Bins), "counts", len(l.Counts))
	for i := 1; i < len(l.Bins); i++ {
		if l.Bins[i] <= l.Bins[i-1] {
			f.say("bins do not rise at [%d]", i)
		}
	}
	return f.err
}

// Metrics is one reading of a vLLM server's load; NaN (null) is what could not be read.
type Metrics struct {
	// Step is the number of the first step that could see it.
	Step       int64
	ModelLabel string
	// TooOld: from this step on nothing is known of the load, as what was read last is too
	// old. It is written only where it is so, and then all numbers are NaN.
	TooOld bool
	// ServerIndex tells the model's servers apart; 0, for the first, is not written.
	ServerIndex                                                                   int64
	NumRequestsRunning, NumRequestsWaiting, KVCacheUsagePerc, NumPreemptionsTotal float64
}

// Kind is [KindMetrics].
func (*Metrics) Kind() Kind { return KindMetrics }

// AppendJSON appends the line without the newline that ends it.
func (l *Metrics) AppendJSON(b []byte) []byte {
	b = appendInt(start(b, KindMetrics), "step", l.Step)
	b = appendText(b, "model_label", l.ModelLabel)
	if l.ServerIndex != 0 {
		b = appendInt(b, "server_index", l.ServerIndex)
	}
	if l.TooOld {
		b = append(member(b, "too_old"), "true"...)
	}
	b = appendFloat(b, "num_requests_running", l.NumRequestsRunning)
	b = appendFloat(b, "num_requests_waiting", l.NumRequestsWaiting)
	b = appendFloat(b, "kv_cache_usage_perc", l.KVCacheUsagePerc)
	b = appendFloat(b, "num_preemptions_total", l.NumPreemptionsTotal)
	return append(b, '}')
}

func (l *Metrics) parse(raw []byte) error {
	var in struct {
		Step        *int64  `json:"step"`
		ModelLabel  *string `json:"model_label"`
		ServerIndex int64   `json:"server_index"`
		TooOld      bool    `json:"too_old"`
		Running     number  `json:"num_requests_running"`
		Waiting     number  `json:"num_requests_waiting"`
		KVCache     number  `json:"kv_cache_usage_perc"`
		Preemptions number  `json:"num_preemptions_total"`
	}
	if err := decode(raw, &in); err != nil {
		return err
	}
	var f fault
	*l = Metrics{
		Step: f.integer("step", in.Step, 0), ModelLabel: f.text("model_label", in.ModelLabel), ServerIndex: f.integer("server_index", &in.ServerIndex, 0), TooOld: in.TooOld,
		NumRequestsRunning: f.number("num_requests_running", in.Running), NumRequestsWaiting: f.number("num_requests_waiting", in.Waiting),
		KVCacheUsagePerc: f.number("kv_cache_usage_perc", in.KVCache), NumPreemptionsTotal: f.number("num_preemptions_total", in.Preemptions),
	}
	return f.err
}
