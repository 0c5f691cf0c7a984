package config

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
)

// inUTF16 is a text in UTF-16 with its mark; littleEndian as Windows has it.
func inUTF16(text string, littleEndian bool) string {
	var b []byte
	for _, unit := range utf16.Encode([]rune("\ufeff" + text)) {
		if littleEndian {
			b = append(b, byte(unit), byte(unit>>8))
		} else {
			b = append(b, byte(unit>>8), byte(unit))
		}
	}
	return string(b)
}

// TestSpellingsOfOneConfig: what is before, around and behind a document changes
// nothing.
func TestSpellingsOfOneConfig(t *testing.T) {
	asJSON, err := json.Marshal(map[string]any{"seed": 7, "models": []any{map[string]any{
		"model_label": "m", "gpus_per_replica": 1, "itl_deadline_s": 0.1, "feasible_batch_sizes": []int{8, 16},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	text := oneModel + "seed: 7\n"
	for name, spelling := range map[string]string{
		"plain":                        text,
		"mark":                         "\ufeff" + text,
		"mark, comment, start":         "\ufeff# my site\n---\n" + text,
		"mark, blank line, start":      "\ufeff\n---\n" + text,
		"mark, blanks, comment, start": "\ufeff   \n\n  # é\n--- # here\n" + text,
		"mark, start":                  "\ufeff---\n" + text,
		"mark, directive":              "\ufeff%YAML 1.2\n---\n" + text,
		"directive 1.1":                "%YAML 1.1\n---\n" + text,
		"directive 1.2":                "%YAML 1.2\n---\n" + text,
		"directive with more":          "# ä \U0001F50B\n\n%YAML   1.2   # we use this\n%TAG !x! tag:x,2000:\n---\n" + text + "...\n",
		"end":                          text + "...\n",
		"end, comment":                 "---\n" + text + "...\n# that was it\n",
		"two ends":                     text + "...\n...\n",
		"no line end":                  strings.TrimSuffix(text, "\n"),
		"CR LF":                        strings.ReplaceAll("# a\n---\n"+text, "\n", "\r\n"),
		"mark, CR LF":                  "\ufeff" + strings.ReplaceAll("# a\n%YAML 1.2\n---\n"+text+"...\n", "\n", "\r\n"),
		"CR alone":                     strings.ReplaceAll("# a\n---\n"+text, "\n", "\r"),
		"UTF-16LE":                     inUTF16("# ä\n---\n"+text, true),
		"UTF-16BE":                     inUTF16("%YAML 1.2\n---\n"+text, false),
		"UTF-16LE, CR LF":              inUTF16(strings.ReplaceAll(text, "\n", "\r\n"), true),
		"JSON":                         string(asJSON),
		"JSON with a mark":             "\ufeff" + string(asJSON) + "\n",
		"JSON in UTF-16":               inUTF16(string(asJSON), true),
		"hyphens in a text":            "log: {level: \"info\"} # ---\n" + text,
	} {
		c, problems := parse([]byte(spelling), nil, ForAnything, "")
		if len(problems) > 0 {
			t.Errorf("%s is refused: %v", name, problems)
			continue
		}
		if diff := cmp.Diff(parsed(t, text), c, sameSeconds); diff != "" {
			t.Errorf("the config with %s (-want +got):\n%s", name, diff)
		}
	}
}

// TestDocumentsThatAreNone: each is refused with the line at fault.
func TestDocumentsThatAreNone(t *testing.T) {
	const second = "a second YAML document begins; a config is a single one"
	for text, want := range map[string]string{
		"seed: 1\n---\nseed: 2\n":                      "line 2: " + second,
		"seed: 1\n---\n":                               "line 2: " + second,
		"---\n---\nseed: 1\n":                          "line 2: " + second,
		"\ufeff# a\n---\nseed: 1\n...\n---\nseed: 2\n": "line 5: " + second,
		"seed: 1\n...\nseed: 2\n":                      "line 3: " + second,
		"seed: 1\r--- # x\rseed: 2\r":                  "line 2: " + second,
		"{\"seed\": 1}\n--- {\"seed\": 2}":             "line 2: " + second,
		inUTF16("seed: 1\n---\nseed: 2\n", true):       "line 2: " + second,
		"seed: 1\n---\n{":                              "line 3: did not find expected node content",
		"%YAML 1.3\n---\nseed: 1\n":                    "line 1: the version that %YAML names is not read; want 1.2, or no such line",
		"# a\n%YAML 2.0\n---\nseed: 1\n":               "line 2: the version that %YAML names is not read; want 1.2, or no such line",
		"%YAML 1.2\n%YAML 1.2\n---\nseed: 1\n":         "line 2: found duplicate %YAML directive",
		"%YAML 1.2\nseed: 1\n":                         "line 2: mapping values are not allowed in this context",
		"%SEED 1\n---\nseed: 1\n":                      "line 1: found unknown directive name",
		"seed: {\n":                                    "line 1: did not find expected node content",
		"seed: 1\n\xff":                                "line 2: invalid leading UTF-8 octet (value: 255)",
		"\n\nlog: \x1b":                                "line 3: control characters are not allowed (value: 27)",
		"seed: *x":                                     "line 1: unknown anchor 'x' referenced",
		"\nmodels: &x [*x]":                            "line 2: anchor 'x' value contains itself",
		"\n? [seed]\n: 1":                              "line 2: a key is a list or a map; want a name",
		"seed: 1\n\"seed\": 1":                         "line 2: mapping key \"seed\" already defined at line 1",
		"seed: \"\\q\"":                                "line 1: found unknown escape character",
		"[8]":                                          "line 1: a config is a map of keys, such as \"seed: 42\"; this file holds something else",
	} {
		_, problems := parse([]byte(text), nil, ForAnything, "")
		if len(problems) != 1 || problems[0].String() != want {
			t.Errorf("%q: the problems are %v, want %s", text, problems, want)
		}
	}
}

// TestEscapes: what JSON may escape is read, and what is no escape stays.
func TestEscapes(t *testing.T) {
	for value, want := range map[string]string{
		`"org\/m"`:                        "org/m",
		`"\"\\\/\b\f\n\r\t"`:              "\"\\/\b\f\n\r\t",
		`"\u0041\u00e9\u20AC"`:            "Aé€",
		`"\ud83d\udd0b"`:                  "\U0001F50B",
		`"\uD83D\uDD0B"`:                  "\U0001F50B",
		`"a\ud83d\udd0bb\uD83d\uDD0b"`:    "a\U0001F50Bb\U0001F50B",
		`"\ud800\udc00\udbff\udfff"`:      "\U00010000\U0010FFFF",
		`"\\\ud83d\udd0b"`:                "\\\U0001F50B",
		`"\\ud83d\\udd0b"`:                `\ud83d\udd0b`,
		`"\\\\\ud83d\udd0b"`:              "\\\\\U0001F50B",
		`"\U0001F50B\x41"`:                "\U0001F50BA",
		`'\ud83d\udd0b\/'`:                `\ud83d\udd0b\/`,
		`\ud83d\udd0b \\ud83d\udd0b`:      `\ud83d\udd0b \\ud83d\udd0b`,
		"|-\n    \\ud83d\\udd0b":          `\ud83d\udd0b`,
		"\"\\ud83d\\udd0b\\\n    \\\\x\"": "\U0001F50B\\x",
		"\"\U000F0000\\ud83d\\udd0b\"":    "\U000F0000\U0001F50B",
		`"\udb80\udc00\ud83d\udd0b"`:      "\U000F0000\U0001F50B",
	} {
		c, problems := parse([]byte(oneModel+"datacenter:\n  name: "+value+"\n"), nil, ForAnything, "")
		if len(problems) > 0 || c.Datacenter.Name != want {
			t.Errorf("%s is %v, want %q; problems: %v", value, c, want, problems)
		}
	}
	for _, value := range []string{`"\ud83d"`, `"\udd0b\ud83d"`, `"\ud83d\ud83d"`, `"\\ud83d\udd0b"`, `"\ud83d \udd0b"`, `"\ud83d\ud83d\udd0b"`, `"\ud83d\u0041"`} {
		_, problems := parse([]byte("# a\nlog: {level: "+value+"}"), nil, ForAnything, "")
		if want := "line 2: found invalid Unicode character escape code"; len(problems) != 1 || problems[0].String() != want {
			t.Errorf("%s: the problems are %v, want %s", value, problems, want)
		}
	}
	// In keys too, and twice the same key is one.
	refused(t, `{"\ud83d\udd0b": 1, "`+"\U0001F50B"+`": 2}`, nil, "line 1: mapping key \"\U0001F50B\" already defined at line 1")
}

// TestJSONIsYAML: whatever Go's and Python's encoders make of a text, comes back.
func TestJSONIsYAML(t *testing.T) {
	for _, name := range []string{"site \U0001F50B/1", "</>&\u2028\x7f", `C:\ud83d\udd0b`, "a\tb\\u0041", "\U000F0000\U0010FFFD"} {
		plain, err := json.Marshal(name)
		if err != nil {
			t.Fatal(err)
		}
		ascii := strings.Builder{}
		for _, r := range string(plain) {
			if r < 0x7f {
				ascii.WriteRune(r)
				continue
			}
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&ascii, `\u%04x`, unit)
			}
		}
		for _, value := range []string{string(plain), ascii.String()} {
			text := `{"models": [{"model_label": "m", "gpus_per_replica": 1, "itl_deadline_s": 1e-1, "feasible_batch_sizes": [8]}], "datacenter": {"name": ` + value + `}}`
			c, problems := parse([]byte(text), nil, ForAnything, "")
			if len(problems) > 0 || c.Datacenter.Name != name {
				t.Errorf("%s: %v, want %q; problems: %v", value, c, name, problems)
			}
		}
	}
}

// oddNumbers are numbers that readers of YAML differ on, and what to write.
func oddNumbers() map[string]string {
	return map[string]string{
		"0100": "100", "010": "10", "08": "8", "008": "8", "0o17": "15", "0x1F": "31", "0X1f": "31", "0b101": "5", "1_000": "1000",
		"-010": "-10", "+012": "12", "00": "0", "0500.5": "500.5", "00.5": "0.5", "01e3": "1e3", "1_0.5": "10.5", "0_1": "1", "-0x10": "-16",
	}
}

// TestNumbersThatReadersDifferOn are refused wherever they stand, with what would be
// right.
func TestNumbersThatReadersDifferOn(t *testing.T) {
	says := func(number, decimal string) string {
		return fmt.Sprintf("%s is a number that readers of YAML differ on: write %s, or put it in quotes if it is a text", number, decimal)
	}
	for number, decimal := range oddNumbers() {
		for text, path := range map[string]string{
			oneModel + "seed: " + number:                                                                               "seed",
			oneModel + "replay: {duration_s: " + number + "}":                                                          "replay.duration_s",
			oneModel + "datacenter: {base_kw_per_phase: !!float " + number + "}":                                       "datacenter.base_kw_per_phase",
			oneModel + "    batch_sizes: [8, " + number + "]":                                                          "models[0].batch_sizes[1]",
			oneModel + "    spec_hash: " + number:                                                                      "models[0].spec_hash",
			oneModel + "    live: {request_extra_body: {a: {b: [" + number + "]}}}":                                    "models[0].live.request_extra_body.a.b[0]",
			oneModel + "replay: {commands: [{t: 0, set_batch_size: {m: " + number + "}}]}":                             "replay.commands[0].set_batch_size.m",
			oneModel + "replay: {commands: [{t: 0, shift_replicas: {model_label: m, replica_delta: " + number + "}}]}": "replay.commands[0].shift_replicas.replica_delta",
		} {
			if strings.Contains(text, "!!float") && strings.ContainsAny(number, "boxX") {
				continue // not a number of that kind
			}
			refused(t, text, nil, path+": "+says(number, decimal))
		}
		for variable, path := range map[string]string{
			"SEED=" + number:                                                 "seed",
			"REPLAY__DURATION_S=" + number:                                   "replay.duration_s",
			"MODELS__0__FEASIBLE_BATCH_SIZES__1=" + number:                   "models[0].feasible_batch_sizes[1]",
			"MODELS__0__FEASIBLE_BATCH_SIZES=[8, " + number + "]":            "models[0].feasible_batch_sizes[1]",
			"MODELS__0__REPLICAS={initial: " + number + "}":                  "models[0].replicas.initial",
			"MODELS__0__LIVE__REQUEST_EXTRA_BODY__A=" + number:               "models[0].live.request_extra_body.a",
			"MODELS__0__LIVE__REQUEST_EXTRA_BODY={a: [{b: " + number + "}]}": "models[0].live.request_extra_body.a[0].b",
			"REPLAY__COMMANDS=[{t: " + number + ", set_batch_size: {m: 8}}]": "replay.commands[0].t",
		} {
			refused(t, oneModel, []string{envPrefix + variable}, path+": "+says(number, decimal))
		}
		// A text in the environment needs no quotes, and one in quotes is a text.
		if got := parsed(t, oneModel, envPrefix+"DATACENTER__NAME="+number).Datacenter.Name; got != number {
			t.Errorf("the name %s from the environment is %q", number, got)
		}
		if got := parsed(t, oneModel+"datacenter: {name: '"+number+"'}").Datacenter.Name; got != number {
			t.Errorf("the name '%s' is %q", number, got)
		}
	}
	refused(t, strings.Replace(oneModel, "[8, 16]", "[8, 16, 1,024]", 1), nil, "models[0].feasible_batch_sizes[3]: "+says("024", "24"))
	refused(t, oneModel, []string{envPrefix + "MODELS__0__FEASIBLE_BATCH_SIZES=[8, 16, 1,024]"}, "models[0].feasible_batch_sizes[3]: "+says("024", "24"))
	// An alias complains once, where its value stands.
	refused(t, "seed: &n 010\ndatacenter: {total_gpu_capacity: *n}\n"+oneModel, nil, "seed: "+says("010", "10"))
}

// TestNumbersThatAllReadAlike: plain decimal ones are taken, others are no numbers.
func TestNumbersThatAllReadAlike(t *testing.T) {
	for text, want := range map[string]float64{
		"0": 0, "5": 5, "+5": 5, "5.": 5, ".5": 0.5, "+.5": 0.5, "0.5": 0.5, "5e-1": 0.5, "5E+1": 50, "1e3": 1000, "0e0": 0, "-0": 0, "500.50": 500.5, "1000000000000": 1e12,
	} {
		if got := parsed(t, oneModel+"datacenter: {base_kw_per_phase: "+text+"}").Datacenter.BaseKWPerPhase; got != want {
			t.Errorf("%s is %v", text, got)
		}
		if got := parsed(t, oneModel, envPrefix+"DATACENTER__BASE_KW_PER_PHASE="+text).Datacenter.BaseKWPerPhase; got != want {
			t.Errorf("%s from the environment is %v", text, got)
		}
	}
	for _, text := range []string{"1:30", "1:30:00", "0o8", "0x", "1,024", "１２", "1 000", "1e", "--5", "5s", "5 W", "_1", "1/0x2"} {
		refused(t, oneModel+"datacenter: {base_kw_per_phase: \""+text+"\"}", nil, fmt.Sprintf("datacenter.base_kw_per_phase: want a number, got %q", text))
		if strings.Contains(text, ",") {
			continue // two of them, without quotes
		}
		refused(t, oneModel+"datacenter: {base_kw_per_phase: "+text+"}", nil, fmt.Sprintf("datacenter.base_kw_per_phase: want a number, got %q", text))
		refused(t, oneModel, []string{envPrefix + "DATACENTER__BASE_KW_PER_PHASE=" + text}, fmt.Sprintf("datacenter.base_kw_per_phase: want a number, got %q", text))
	}
}

// TestWordsAreTexts: what YAML 1.1 took for dates, truth or nothing.
func TestWordsAreTexts(t *testing.T) {
	for _, word := range []string{"no", "yes", "on", "off", "y", "n", "NO", "2001-01-01", "2001-12-14t21:59:43.10-05:00", "1:30", "0o8", "=", "1.2.3"} {
		if got := parsed(t, oneModel+"datacenter: {name: "+word+"}").Datacenter.Name; got != word {
			t.Errorf("the name %s is %q", word, got)
		}
	}
	c := parsed(t, strings.Replace(oneModel, "model_label: m", "model_label: '010'", 1)+"replay: {commands: [{t: 0, set_batch_size: {010: 8}}]}")
	if diff := cmp.Diff(map[string]int{"010": 8}, c.Replay.Commands[0].SetBatchSize); diff != "" {
		t.Errorf("a label that looks like a number (-want +got):\n%s", diff)
	}
	for _, key := range []string{"null", "~", "true", "8", "2001-01-01"} {
		_, problems := parse([]byte(oneModel+key+": 1\n"), nil, ForAnything, "")
		if len(problems) != 1 || problems[0].Path != key || !strings.HasPrefix(problems[0].Message, "unknown key") {
			t.Errorf("the key %s: %v", key, problems)
		}
	}
}

// TestMerges: keys of another map may be taken over.
func TestMerges(t *testing.T) {
	c := parsed(t, `
models:
  - &first {model_label: m, gpus_per_replica: 1, itl_deadline_s: 0.1, feasible_batch_sizes: [8, 16]}
  - {<<: *first, model_label: n}
`)
	if len(c.Models) != 2 || c.Models[1].ModelLabel != "n" || len(c.Models[1].FeasibleBatchSizes) != 2 {
		t.Errorf("the models are %+v", c.Models)
	}
}

// TestServiceLinks: what a cluster puts into the environment stops nothing.
func TestServiceLinks(t *testing.T) {
	for _, variable := range []string{
		"SERVICE_HOST=10.96.3.4", "SERVICE_HOST=fd00::1", "SERVICE_PORT=8480", "SERVICE_PORT_HTTP=8480", "SERVICE_PORT_HTTP_METRICS=9090", "SERVICE_PORT_8480TCP=8480",
		"PORT=tcp://10.96.3.4:8480", "PORT=udp://[fd00::1]:53",
		"PORT_8480_TCP=tcp://10.96.3.4:8480", "PORT_8480_TCP_PROTO=tcp", "PORT_8480_TCP_PORT=8480", "PORT_8480_TCP_ADDR=10.96.3.4",
		"PORT_53_UDP=udp://10.96.3.4:53", "PORT_53_UDP_PROTO=udp", "PORT_53_UDP_PORT=53", "PORT_53_UDP_ADDR=10.96.3.4",
		"PORT_36412_SCTP=sctp://10.96.3.4:36412", "PORT_36412_SCTP_PROTO=sctp", "PORT_36412_SCTP_PORT=36412", "PORT_36412_SCTP_ADDR=10.96.3.4",
		// of a Service g2g-agent-metrics
		"METRICS_SERVICE_HOST=10.96.3.5", "METRICS_SERVICE_PORT=9090", "METRICS_SERVICE_PORT_WEB=9090", "METRICS_PORT=tcp://10.96.3.5:9090",
		"METRICS_PORT_9090_TCP=tcp://10.96.3.5:9090", "METRICS_PORT_9090_TCP_PROTO=tcp", "METRICS_PORT_9090_TCP_PORT=9090", "METRICS_PORT_9090_TCP_ADDR=10.96.3.5",
		"EU_WEST_1_PORT_53_UDP_ADDR=fd00::53",
	} {
		if _, problems := parse([]byte(oneModel), []string{envPrefix + variable}, ForAnything, ""); len(problems) > 0 {
			t.Errorf("%s: %v", variable, problems)
		}
	}
	for _, variable := range []string{
		"API_PORT=8480", "LISTEN_PORT=8480", "SERVICE=x", "SERVICEHOST=x", "SERVICE_HOSTS=10.0.0.1", "PORTS=80", "PORT_HTTP=80", "PORT_8480=x", "API__PORT=tcp://10.96.3.4:8480",
		"LIVE__SERVICE_HOST=10.96.3.4", "REPLAY__DURATON_S=5", "METRICS_PORT_9090_TCP_PROTO=x", "METRICS_SERVICE_HOST=a name",
	} {
		if _, problems := parse([]byte(oneModel), []string{envPrefix + variable}, ForAnything, ""); len(problems) != 1 || !strings.Contains(problems[0].Message, "unknown key from "+envPrefix) {
			t.Errorf("%s: %v", variable, problems)
		}
	}
	// A key that lies on such a path is still a key.
	c := parsed(t, oneModel+"    live: {gpu_endpoints: [{host: n}]}\n", envPrefix+"MODELS__0__LIVE__GPU_ENDPOINTS__0__PORT=5000")
	if got := c.Models[0].Live.GPUEndpoints[0].Port; got != 5000 {
		t.Errorf("the port is %d", got)
	}
}

// TestMessagesAreBoundedAndPrintable whatever the file holds.
func TestMessagesAreBoundedAndPrintable(t *testing.T) {
	long := strings.Repeat("x", 60_000)
	const escape = `\e[2J\0\a\r\u202e`
	sizes := strings.TrimSuffix(strings.Repeat("7,", 20_000), ",")
	for name, text := range map[string]string{
		"label twice":      fmt.Sprintf("models: [{model_label: %[1]s, gpus_per_replica: 1, itl_deadline_s: 1, feasible_batch_sizes: [8]}, {model_label: %[1]s, gpus_per_replica: 1, itl_deadline_s: 1, feasible_batch_sizes: [8]}]", long),
		"unknown label":    oneModel + "replay: {commands: [{t: 0, shift_replicas: {model_label: " + long + ", replica_delta: 1}}]}",
		"label in a path":  oneModel + "replay: {commands: [{t: 0, set_batch_size: {\"" + escape + "\": 8}}]}",
		"unknown key":      oneModel + long + ": 1",
		"unprintable key":  oneModel + "\"" + escape + "\": 1",
		"keys in a path":   oneModel + "datacenter: {\"" + escape + "\": 1}",
		"unprintable text": oneModel + "log: {level: \"" + escape + "\"}",
		"long text":        oneModel + "log: {level: " + long + "}",
		"text for number":  oneModel + "seed: \"" + escape + long + "\"",
		"long number":      oneModel + "seed: 0" + strings.Repeat("1", 60_000),
		"long seconds":     oneModel + "dt_s: -" + strings.Repeat("1", 60_000),
		"base URL":         oneModel + "    live: {vllm_base_url: \"http://" + escape + "\"}",
		"long base URL":    oneModel + "    live: {vllm_base_url: \"ftp://" + long + "\"}",
		"host":             oneModel + "    live: {gpu_endpoints: [{host: \"" + escape + " " + long + "\"}]}",
		"source":           oneModel + "    live: {gpu_endpoints: [{source: \"" + escape + long + "\"}]}",
		"actuator":         oneModel + "    live: {batch_size_actuator: \"" + escape + long + "\"}",
		"listen":           oneModel + "api: {listen: \"" + escape + long + "\"}",
		"origin":           oneModel + "api: {allowed_origins: [\"" + escape + long + "\"]}",
		"many sizes":       strings.Replace(oneModel, "[8, 16]", "["+strings.ReplaceAll(sizes, "7", "8")+"]", 1),
		"whole text":       long,
		"anchor":           "a: *" + long,
		"duplicate key":    "\"" + escape + "\": 1\n\"" + escape + "\": 2",
		"long duplicate":   long + ": 1\n" + long + ": 2",
		"tag":              "a: !!int \"" + escape + long + "\"",
	} {
		_, problems := parse([]byte(text), nil, ForAnything, "")
		if len(problems) == 0 {
			t.Errorf("%s: there is no problem", name)
		}
		for _, p := range problems[:min(len(problems), 1)] {
			if shown := p.String(); len(shown) > 9000 || strings.ContainsFunc(shown, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%s: the message of %d bytes is %.300q", name, len(shown), shown)
			}
		}
	}
}

// TestBombsEndSoon: nothing short takes long.
func TestBombsEndSoon(t *testing.T) {
	aliases := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	merges := "a: &a {k: 1}\n"
	for c := 'b'; c <= 'z'; c++ {
		aliases += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat("*"+string(c-1)+",", 9), ","))
		merges += fmt.Sprintf("%c: &%c {<<: [%s]}\n", c, c, strings.TrimSuffix(strings.Repeat("*"+string(c-1)+",", 9), ","))
	}
	var sizes strings.Builder // different ones
	for i := range 200_000 {
		fmt.Fprintf(&sizes, "%d,", i+1)
	}
	for name, text := range map[string]string{
		"sizes":   oneModel + "    batch_sizes: [" + sizes.String() + "0]",
		"aliases": aliases, "merges": merges, "lists": strings.Repeat("[", 200_000), "maps": strings.Repeat("a: {", 100_000), "blocks": strings.Repeat("- ", 100_000),
		"pairs":       "a: \"" + strings.Repeat(`\ud83d\udd0b`, 100_000) + "\"",
		"backslashes": "a: \"" + strings.Repeat(`\`, 1<<20) + "\"", "directives": strings.Repeat("%YAML 1.2\n", 10_000) + "---\na: 1", "documents": strings.Repeat("---\n", 100_000),
		"numbers": "a: [" + strings.Repeat("010,", 50_000) + "]", "a number": "a: 0x" + strings.Repeat("f", 100_000), "underscores": "a: 1" + strings.Repeat("_", 100_000),
	} {
		began := time.Now()
		_, problems := parse([]byte(text), nil, ForAnything, "")
		if took := time.Since(began); took > 20*time.Second || len(problems) == 0 {
			t.Errorf("%s take %v, %d problems", name, took, len(problems))
		}
	}
}
