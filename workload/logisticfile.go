package workload

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// logisticSchema is the schema of logistic_fit.json.
const logisticSchema = "logistic_v1"

// logisticParam is a parameter of the curve as files spell it.
type logisticParam struct {
	name string
	at   func(*LogisticFit) *float64
}

func logisticParams() []logisticParam {
	return []logisticParam{
		{"L", func(f *LogisticFit) *float64 { return &f.L }},
		{"x0", func(f *LogisticFit) *float64 { return &f.X0 }},
		{"k", func(f *LogisticFit) *float64 { return &f.K }},
		{"b0", func(f *LogisticFit) *float64 { return &f.B0 }},
	}
}

// logisticMetric is one of the curves as files name it.
type logisticMetric struct {
	name string
	of   func(*LogisticFits) *LogisticFit
}

// logisticMetrics are the curves in the order OpenG2G 0.1 writes them.
func logisticMetrics() []logisticMetric {
	return []logisticMetric{
		{"latency", func(f *LogisticFits) *LogisticFit { return &f.LatencyS }},
		{"power", func(f *LogisticFits) *LogisticFit { return &f.PowerW }},
		{"throughput", func(f *LogisticFits) *LogisticFit { return &f.ThroughputTokensPerS }},
	}
}

// WriteLogisticFit writes one model's curves as logistic_fit.json, byte for byte as
// OpenG2G does.
func WriteLogisticFit(w io.Writer, modelLabel string, fits *LogisticFits) error {
	o := map[string]any{"schema": logisticSchema, "model_label": modelLabel}
	for _, m := range logisticMetrics() {
		params := map[string]any{}
		for _, p := range logisticParams() {
			params[p.name] = *p.at(m.of(fits))
		}
		o[m.name] = params
	}
	return writePyJSON(w, o)
}

// loadLogisticFit reads one model's curves from OpenG2G 0.2's logistic_fit.json. The
// errors are [*FileError].
func loadLogisticFit(file string) (*LogisticFits, error) {
	var content struct {
		Schema     string              `json:"schema"`
		Power      map[string]*float64 `json:"power"`
		Latency    map[string]*float64 `json:"latency"`
		Throughput map[string]*float64 `json:"throughput"`
	}
	if err := readJSON(file, &content); err != nil {
		return nil, err
	}
	if content.Schema != logisticSchema {
		return nil, fileErrorf(file, 0, "schema is %s, want %q", quote(content.Schema), logisticSchema)
	}
	fits := &LogisticFits{}
	params := map[string]map[string]*float64{"power": content.Power, "latency": content.Latency, "throughput": content.Throughput}
	for _, m := range logisticMetrics() {
		for _, p := range logisticParams() {
			v := params[m.name][p.name]
			if v == nil {
				return nil, fileErrorf(file, 0, "%s.%s is missing", m.name, p.name)
			}
			*p.at(m.of(fits)) = *v
		}
	}
	return fits, nil
}

// logisticColumns are the columns of logistic_fits.csv that are read.
func logisticColumns() []string {
	columns := []string{"model_label", "metric"}
	for _, p := range logisticParams() {
		columns = append(columns, p.name)
	}
	return columns
}

// loadLogisticFits reads the curves by model label from OpenG2G 0.1's
// logistic_fits.csv. The errors are [*FileError].
func loadLogisticFits(file string) (map[string]*LogisticFits, error) {
	fits := map[string]*LogisticFits{}
	seen := map[[2]string]int{}
	err := readTable(file, logisticColumns(), func(row *table) error {
		label, metric := row.text(0), row.text(1)
		if first, dup := seen[[2]string{label, metric}]; dup {
			return row.errorf("a second fit of %s for model %s; the first is in line %d", quote(metric), quote(label), first)
		}
		seen[[2]string{label, metric}] = row.line
		for _, m := range logisticMetrics() {
			if m.name != metric {
				continue
			}
			if fits[label] == nil {
				fits[label] = &LogisticFits{}
			}
			for i, p := range logisticParams() {
				v, err := row.finite(2 + i)
				if err != nil {
					return err
				}
				*p.at(m.of(fits[label])) = v
			}
			return nil
		}
		return row.errorf("metric is %s, want power, latency or throughput", quote(metric))
	})
	if err != nil {
		return nil, err
	}
	for _, label := range sortedKeys(fits) {
		for _, m := range logisticMetrics() {
			if seen[[2]string{label, m.name}] == 0 {
				return nil, fileErrorf(file, 0, "has no fit of %s for model %s", m.name, quote(label))
			}
		}
	}
	return fits, nil
}

// writeLogisticFits writes the curves as logistic_fits.csv, in the given order.
func writeLogisticFits(w io.Writer, models []Measured) error {
	b := bufio.NewWriter(w)
	b.WriteString("model_label,num_gpus,metric,L,x0,k,b0\n")
	for _, m := range models {
		if m.Logistic == nil {
			continue
		}
		for _, metric := range logisticMetrics() {
			line := datacenter.AppendCSVField(nil, m.Spec.ModelLabel)
			line = strconv.AppendInt(append(line, ','), int64(m.Spec.GPUsPerReplica), 10)
			line = append(line, ","+metric.name...)
			for _, p := range logisticParams() {
				v := *p.at(metric.of(m.Logistic))
				if math.IsNaN(v) || math.IsInf(v, 0) {
					return fmt.Errorf("model %s, %s: %s is %v, no finite number", quote(m.Spec.ModelLabel), metric.name, p.name, v)
				}
				line = datacenter.AppendFloat(append(line, ','), v)
			}
			b.Write(append(line, '\n'))
		}
	}
	return b.Flush()
}
