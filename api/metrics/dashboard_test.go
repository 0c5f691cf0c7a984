package metrics

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	dashboard = "../../configs/grafana/g2g-agent.json"
	address   = "127.0.0.1:8480"
)

// asked is what the dashboard asks of Prometheus in one place.
type asked struct{ where, expr, legend string }

// collect finds everything in a dashboard that asks: every expr, at whatever
// depth, and the queries of variables.
func collect(node any, where string, found *[]asked) {
	switch v := node.(type) {
	case map[string]any:
		if title, ok := v["title"].(string); ok {
			where += "/" + title
		} else if name, ok := v["name"].(string); ok {
			where += "/" + name
		}
		if expr, ok := v["expr"].(string); ok {
			legend, _ := v["legendFormat"].(string)
			title, _ := v["titleFormat"].(string)
			text, _ := v["textFormat"].(string)
			*found = append(*found, asked{where, expr, legend + title + text})
		}
		if v["type"] == "query" {
			definition, _ := v["definition"].(string)
			*found = append(*found, asked{where, definition, ""})
		}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			collect(v[key], where, found)
		}
	case []any:
		for _, each := range v {
			collect(each, where, found)
		}
	}
}

func loadDashboard(t *testing.T) (raw []byte, tree map[string]any) {
	t.Helper()
	raw, err := os.ReadFile(dashboard)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &tree); err != nil {
		t.Fatal(err)
	}
	return raw, tree
}

// scraped is what Prometheus has of a live run in which everything has happened:
// it adds the instance and the job.
func scraped(t *testing.T) []sample {
	t.Helper()
	m := liveRun(t).metrics(t)
	use(m)
	all := expand(scrape(t, m))
	for i := range all {
		all[i].labels = maps.Clone(all[i].labels)
		all[i].labels["instance"], all[i].labels["job"] = address, "g2g-agent"
	}
	return all
}

// substitute puts values in for Grafana's variables, the models as given.
func substitute(expr, models string) string {
	return strings.NewReplacer("$instance", address, "$model_label", models, "$__rate_interval", "1m").Replace(expr)
}

// checkAsked returns what is wrong with a query of the dashboard.
func checkAsked(q asked, models string, all []sample) error {
	expr := substitute(q.expr, models)
	if strings.Contains(expr, "$") {
		return fmt.Errorf("%s: a variable that there is not: %s", q.where, expr)
	}
	label := ""
	if m := regexp.MustCompile(`^label_values\((.*), ([a-z_]+)\)$`).FindStringSubmatch(expr); m != nil {
		expr, label = m[1], m[2]
	}
	series, err := query(expr, all)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", q.where, expr, err)
	}
	shown := []string{label}
	for _, m := range regexp.MustCompile(`\{\{ *([^ }]*) *\}\}`).FindAllStringSubmatch(q.legend, -1) {
		shown = append(shown, m[1])
	}
	for _, name := range shown {
		for _, s := range series {
			if _, ok := s[name]; name != "" && !ok {
				return fmt.Errorf("%s: %s: its series %v have no label %s", q.where, expr, s, name)
			}
		}
	}
	return nil
}

func TestEveryQueryOfTheDashboardFindsAMetric(t *testing.T) {
	raw, tree := loadDashboard(t)
	var queries []asked
	collect(tree, "", &queries)
	if n := strings.Count(string(raw), `"expr":`) + strings.Count(string(raw), `"definition":`); len(queries) != n || n < 50 {
		t.Fatalf("%d queries of %d were found", len(queries), n)
	}
	all := scraped(t)
	used := map[string]bool{}
	// As Grafana writes it: an expression in a string.
	model := strings.ReplaceAll(regexp.QuoteMeta(llama), `\`, `\\`)
	for _, q := range queries {
		for _, models := range []string{".*", model, "(" + model + "|another)"} {
			if err := checkAsked(q, models, all); err != nil {
				t.Error(err)
				break
			}
		}
		for _, name := range regexp.MustCompile(`\b(g2g|go|process)_[a-z0-9_]+`).FindAllString(q.expr, -1) {
			used[name] = true
		}
	}
	for _, name := range []string{ // what an operator must see
		"g2g_power_watts", "g2g_measured_power_watts", "g2g_model_power_watts", "g2g_model_observed_itl_percentile_seconds", "g2g_model_itl_deadline_seconds", "g2g_model_throughput_tokens_per_second",
		"g2g_model_commanded_batch_size", "g2g_model_achieved_batch_size", "g2g_model_active_replicas", "g2g_model_stale_age_seconds",
		"g2g_step_lateness_seconds_bucket", "g2g_late_steps_total", "g2g_dropped_steps_total", "g2g_stream_clients", "g2g_stream_skipped_total",
		"g2g_load_errors_total", "g2g_power_source_reconnects_total", "g2g_commands_total", "process_cpu_seconds_total", "process_resident_memory_bytes",
	} {
		if !used[name] {
			t.Errorf("no query has %s", name)
		}
	}
}

// The check above must find what it is there for.
func TestWrongQueriesAreFound(t *testing.T) {
	all := scraped(t)
	for _, expr := range []string{
		"", "g2g_power_watt", `g2g_power_watts{fase="a"}`, `g2g_power_watts{phase="d"}`, `g2g_power_watts{instance="$other"}`, "g2g_power_watts)", "sum(g2g_power_watts",
		"g2g_steps_total", "rate(g2g_steps_total)", "rate(g2g_power_watts[1m])", "g2g_late_steps_total[1m]", "sum by (model) (g2g_model_power_watts)",
		"histogram_quantile(0.9, sum by (model_label) (rate(g2g_model_itl_seconds_bucket[1m])))", "rate(g2g_model_itl_seconds[1m])", "histogram_quantile(99, rate(g2g_model_itl_seconds_bucket[1m]))",
		"g2g_power_watts / g2g_model_power_watts", `g2g_model_power_watts{model_label=~"("}`, "label_values(g2g_build_info, host)", "irate(g2g_steps_total[1m])", "g2g_power_watts offset 5m",
		`g2g_power_watts{phase="a"} g2g_free_gpus`, `g2g_power_watts or g2g_free_gpus`,
	} {
		if err := checkAsked(asked{"test", expr, ""}, ".*", all); err == nil {
			t.Errorf("nothing is found wrong with %q", expr)
		}
	}
	if err := checkAsked(asked{"test", "sum(g2g_power_watts)", "{{phase}}"}, ".*", all); err == nil {
		t.Error("nothing is found wrong with a legend of a label that is gone")
	}
	for _, expr := range []string{"sum(g2g_power_watts) / 1000 > 0", "label_values(g2g_build_info, instance)", `sum by (phase) (g2g_power_watts{phase!="a"})`, "(g2g_free_gpus / g2g_capacity_gpus)"} {
		if err := checkAsked(asked{"test", expr, ""}, ".*", all); err != nil {
			t.Error(err)
		}
	}
}

// The alerts that the operating guide suggests are of metrics that there are.
func TestEveryAlertOfTheGuideFindsAMetric(t *testing.T) {
	guide, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(guide), "| alert | PromQL | means |")
	table, _, _ = strings.Cut(table, "\n\n")
	all := scraped(t)
	all = append(all,
		sample{name: "up", labels: map[string]string{"job": "g2g-agent", "instance": address}, value: 1},
		sample{name: "g2g_commands_total", labels: map[string]string{"command": "batch-sizes", "outcome": "server_failed"}, rises: true, value: 1})
	n := 0
	for _, row := range strings.Split(strings.ReplaceAll(table, `\|`, "¦"), "\n")[2:] {
		cells := strings.Split(row, "|")
		if len(cells) != 5 {
			t.Errorf("a row has %d cells: %s", len(cells), row)
			continue
		}
		_, expr, _ := strings.Cut(cells[2], "`")
		expr, _, _ = strings.Cut(expr, "`")
		if _, err := query(strings.ReplaceAll(expr, "¦", "|"), all); err != nil {
			t.Errorf("%s: %s: %v", cells[1], expr, err)
		}
		n++
	}
	if n < 10 || !strings.Contains(table, "g2g_load_tokens_total") {
		t.Errorf("%d alerts were found", n)
	}
}

func TestShapeOfTheDashboard(t *testing.T) {
	_, tree := loadDashboard(t)
	if v, _ := tree["schemaVersion"].(float64); v < 38 { // Grafana 10's
		t.Errorf("schemaVersion is %v", tree["schemaVersion"])
	}
	if _, ok := tree["id"]; ok {
		t.Error("a dashboard to import has no id")
	}
	ids := map[float64]bool{}
	taken := map[[2]int]string{}
	var look func(panels any)
	look = func(panels any) {
		for _, each := range panels.([]any) {
			p := each.(map[string]any)
			title := p["title"].(string)
			id := p["id"].(float64)
			if ids[id] {
				t.Errorf("%s: its id %v is another's", title, id)
			}
			ids[id] = true
			pos := p["gridPos"].(map[string]any)
			at := func(key string) int { return int(pos[key].(float64)) }
			if at("x")+at("w") > 24 {
				t.Errorf("%s is off the grid: %v", title, pos)
			}
			for x := at("x"); x < at("x")+at("w"); x++ {
				for y := at("y"); y < at("y")+at("h"); y++ {
					if over := taken[[2]int{x, y}]; over != "" {
						t.Errorf("%s lies over %s", title, over)
						return
					}
					taken[[2]int{x, y}] = title
				}
			}
			if p["type"] == "row" {
				look(p["panels"])
				continue
			}
			if p["description"] == "" || p["fieldConfig"].(map[string]any)["defaults"].(map[string]any)["unit"] == "" {
				t.Errorf("%s has no description or no unit", title)
			}
			for _, target := range append(p["targets"].([]any), p) {
				if uid := target.(map[string]any)["datasource"].(map[string]any)["uid"]; uid != "${datasource}" {
					t.Errorf("%s asks %v, want the data source that is chosen", title, uid)
				}
			}
		}
	}
	look(tree["panels"])
	if len(ids) < 30 {
		t.Errorf("only %d panels", len(ids))
	}
}
