package sim

import (
	"bytes"
	_ "embed"
	"fmt"
	"slices"
	"strings"
)

// capturedPage is the metrics page of a vLLM 0.32.0 at rest, as captured, without
// the families of its web framework. It says what families there are, in which
// order, and how their lines are labelled.
//
// The page is written here and not by Prometheus' Go library, because vLLM's is
// written by the one for Python: numbers have a point (1.0), counts stand before
// sums, times of creation are families of their own, and of several API servers'
// page the order is none that the Go library can give.
//
//go:embed vllmpage.txt
var capturedPage string

// The labels of the captured page that differ from server to server.
const (
	capturedEngine = `engine="0"`
	capturedModel  = `model_name="tiny"`
)

// pageFamily is a metric of the page.
type pageFamily struct {
	name, kind, help string
	lines            []pageLine // of one engine
	// plain is what the page has for it where nothing of it changes.
	plain []byte
}

// pageLine is a sample.
type pageLine struct{ name, labels, value string }

// layOutPage is the captured page as this server has it.
func (v *VLLM) layOutPage() []pageFamily {
	var families []pageFamily
	for line := range strings.Lines(capturedPage) {
		line = strings.TrimSuffix(line, "\n")
		if text, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, help, _ := strings.Cut(text, " ")
			families = append(families, pageFamily{name: name, help: help})
			continue
		}
		f := &families[len(families)-1]
		if text, ok := strings.CutPrefix(line, "# TYPE "); ok {
			_, f.kind, _ = strings.Cut(text, " ")
			continue
		}
		series, value := cutLast(line, ' ')
		name, labels, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
		labels = strings.ReplaceAll(labels, capturedModel, `model_name="`+escapeLabel(v.cfg.ModelID)+`"`)
		labels = strings.ReplaceAll(labels, `num_gpu_blocks="8192"`, fmt.Sprintf(`num_gpu_blocks="%d"`, v.cfg.KVCacheTokens/128))
		labels = strings.ReplaceAll(labels, `kv_cache_size_tokens="1048576"`, fmt.Sprintf(`kv_cache_size_tokens="%d"`, v.cfg.KVCacheTokens))
		f.lines = append(f.lines, pageLine{name, labels, value})
	}
	if v.cfg.OldMetricNames {
		i := slices.IndexFunc(families, func(f pageFamily) bool { return f.name == "vllm:kv_cache_usage_perc" })
		const oldName = "vllm:gpu_cache_usage_perc"
		families[i].name = oldName
		families[i].lines[0].name = oldName
	}
	if v.cfg.APIServers > 1 {
		families = multiprocess(families)
	}
	for i := range families {
		f := &families[i]
		var b bytes.Buffer
		f.write(&b, v.cfg.Engines, func(l pageLine, _ int) string {
			if strings.HasSuffix(l.name, "_created") {
				return promFloat(float64(v.base.UnixMicro()) / 1e6)
			}
			return l.value
		})
		f.plain = b.Bytes()
	}
	return families
}

// multiprocess makes a page that of a server with several API servers, who share
// their metrics through files: gauges come first, histograms last, and there is
// nothing of a process or a time of creation.
func multiprocess(families []pageFamily) []pageFamily {
	families = slices.DeleteFunc(families, func(f pageFamily) bool {
		return strings.HasSuffix(f.name, "_created") || !strings.HasPrefix(f.name, "vllm:")
	})
	kinds := []string{"gauge", "counter", "histogram"}
	slices.SortStableFunc(families, func(a, b pageFamily) int { return slices.Index(kinds, a.kind) - slices.Index(kinds, b.kind) })
	for _, f := range families {
		if f.kind == "histogram" { // the sum comes first
			last := len(f.lines) - 1
			sum := f.lines[last]
			copy(f.lines[1:], f.lines[:last])
			f.lines[0] = sum
		}
	}
	return families
}

// write writes the family with a value for each line and engine; lines without an
// engine stand there once.
func (f *pageFamily) write(b *bytes.Buffer, engines int, value func(pageLine, int) string) {
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", f.name, f.help, f.name, f.kind)
	for engine := range engines {
		for _, l := range f.lines {
			labels := strings.Replace(l.labels, capturedEngine, fmt.Sprintf(`engine="%d"`, engine), 1)
			switch {
			case l.labels == "" && engine == 0:
				fmt.Fprintf(b, "%s %s\n", l.name, value(l, engine))
			case labels != l.labels || engine == 0:
				fmt.Fprintf(b, "%s{%s} %s\n", l.name, labels, value(l, engine))
			}
		}
	}
}

func cutLast(text string, separator byte) (before, after string) {
	i := strings.LastIndexByte(text, separator)
	return text[:i], text[i+1:]
}

// escapeLabel makes any text a label's value.
func escapeLabel(text string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(text)
}
