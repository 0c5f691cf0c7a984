package metrics

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

func TestPromlint(t *testing.T) {
	m := liveRun(t).metrics(t)
	use(m)
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// unitFault is what is wrong with the name of a metric, beside what promlint
// finds: its unit must be a base unit, spelled out, and stand at the end.
func unitFault(name string, k kind) string {
	words := strings.Split(name, "_")
	if words[0] != "g2g" || !regexp.MustCompile(`^[a-z0-9_]+$`).MatchString(name) {
		return "it does not begin with g2g_, or is not in snake_case"
	}
	last := len(words) - 1
	if k == counter {
		if words[last] != "total" {
			return "a counter ends in _total"
		}
		last--
	}
	baseUnits := []string{"watts", "joules", "seconds", "ratio", "bytes", "volts", "amperes", "celsius"}
	shunned := regexp.MustCompile(`^((milli|micro|nano|kilo|mega|giga)?(watts?|joules?|seconds?|bytes?)|[kmg]?wh?|[munk]?s|secs?|j|kj|[kmg]i?b|minutes?|hours?|percent(age)?|perc|pct|fraction|share|total|info|timestamp)$`)
	for i, word := range words {
		switch {
		case slices.Contains(baseUnits, word):
			if i != last {
				return word + " does not stand at the end"
			}
		case word == "second" && i == last && i > 2 && words[i-1] == "per": // a rate of what is counted
		case i == last && word == "info" && k == gauge, i == last-1 && word == "timestamp", i == last+1, word == "share" && words[last] == "ratio":
		case shunned.MatchString(word):
			return word + " is no base unit, or not at its place"
		}
	}
	return ""
}

func TestUnits(t *testing.T) {
	wordOf := map[string]string{"_watts": "in watts", "_seconds": "in seconds", "_ratio": "ratio", "_batch_size": "in requests"}
	m := liveRun(t).metrics(t)
	for _, f := range m.catalog.families {
		if fault := unitFault(f.name, f.kind); fault != "" {
			t.Errorf("%s: %s", f.name, fault)
		}
		for suffix, word := range wordOf {
			if strings.HasSuffix(f.name, suffix) && !strings.Contains(f.help, word) {
				t.Errorf("%s: the help does not say %q: %s", f.name, word, f.help)
			}
		}
		if !strings.HasSuffix(f.help, ".") || strings.ContainsAny(f.help, "|\n") {
			t.Errorf("%s: the help is no sentence in one line of a table: %q", f.name, f.help)
		}
	}
}

func TestUnitsThatAreFound(t *testing.T) {
	for _, bad := range []string{
		"g2g_power_kw", "g2g_power_w", "g2g_lateness_ms", "g2g_itl_s", "g2g_usage_percent", "g2g_kv_cache_usage_perc", "g2g_watts_power", "power_watts",
		"g2g_power_kilowatts", "g2g_energy_kwh", "g2g_steps_total", "g2g_Power_watts", "g2g_power_watt", "g2g_stepsMade", "g2g_info_model",
		"g2g_second_tokens", "g2g_tokens_second", "g2g_tokens_per_second_mean", "g2g_per_second",
	} {
		if unitFault(bad, gauge) == "" {
			t.Errorf("nothing is found wrong with the gauge %s", bad)
		}
	}
	for _, bad := range []string{"g2g_steps", "g2g_steps_count", "g2g_energy_kj_total", "g2g_total_steps", "g2g_joules_energy_total"} {
		if unitFault(bad, counter) == "" {
			t.Errorf("nothing is found wrong with the counter %s", bad)
		}
	}
	for name, k := range map[string]kind{"g2g_energy_joules_total": counter, "g2g_last_step_timestamp_seconds": gauge, "g2g_model_info": gauge, "g2g_tokens_per_second": gauge} {
		if fault := unitFault(name, k); fault != "" {
			t.Errorf("%s: %s", name, fault)
		}
	}
}
