package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// docAddress is where the guide's agent listens.
const docAddress = "127.0.0.1:8480"

// requireTools is the environment variable that, set to 1, makes a missing tool a
// failure. It does not begin with G2G_AGENT_, as keys of the config do.
const requireTools = "G2GTEST_REQUIRE_TOOLS"

// example is a block of code in a document.
type example struct {
	line     int // of the document, where the code begins
	language string
	code     string
	agent    string // which one it is for: the demo, unless a comment before it says otherwise
	// output is what stands below it, empty if nothing does.
	output string
}

// runAgainst, in a comment before an example, says which agent it is for.
var runAgainst = regexp.MustCompile(`^<!-- run against: (\w+) -->$`)

// examplesIn returns the examples of a document that can be run (sh and python),
// each with the json or text block that stands directly below it.
func examplesIn(t *testing.T, document string) []example {
	t.Helper()
	var all []example
	agent := "demo"
	lines := strings.Split(document, "\n")
	below := false // nothing but empty lines since an example that was run
	for i := 0; i < len(lines); i++ {
		if m := runAgainst.FindStringSubmatch(lines[i]); m != nil {
			agent = m[1]
			continue
		}
		language, fence := strings.CutPrefix(lines[i], "```")
		if !fence {
			below = below && lines[i] == ""
			continue
		}
		begin := i + 1
		for i++; i < len(lines) && lines[i] != "```"; i++ {
		}
		if i == len(lines) {
			t.Fatalf("line %d: the block does not end", begin)
		}
		code := strings.Join(lines[begin:i], "\n") + "\n"
		switch language {
		case "sh", "python":
			all = append(all, example{line: begin + 1, language: language, code: code, agent: agent})
			agent, below = "demo", true
		case "json", "text":
			if below {
				all[len(all)-1].output = code
			}
			below = false
		case "js": // for a browser
			below = false
		default:
			t.Errorf("line %d: a block of %q is not tested: use sh or python", begin, language)
		}
	}
	return all
}

// matches reports whether an example printed what the document says: white space
// does not count, and … stands for anything, or nothing.
func matches(documented, printed string) bool {
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), "") }
	pattern := strings.ReplaceAll(regexp.QuoteMeta(squeeze(documented)), "…", ".*")
	return regexp.MustCompile(`\A` + pattern + `\z`).MatchString(squeeze(printed))
}

func TestExampleMatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		documented, printed string
		want                bool
	}{
		{`{"a": 1}`, `{"a":1}` + "\n", true},
		{`{"a": 1}`, `{"a":2}`, false},
		{`{"a": …, "b": 2}`, `{"a":[1,{"x":3}],"b":2}`, true},
		{`{"a": …, "b": 2}`, `{"a":1,"b":3}`, false},
		{`[…]`, `[]`, true},
		{`…`, ``, true},
		{`a.c`, `abc`, false},
		{`a`, `ab`, false},
		{`b`, `ab`, false},
	} {
		if got := matches(c.documented, c.printed); got != c.want {
			t.Errorf("%q documents %q: %v", c.documented, c.printed, got)
		}
	}
}

func TestExamplesAreFound(t *testing.T) {
	t.Parallel()
	got := examplesIn(t, "text\n```sh\necho 1\n```\n```json\n1\n```\nmore\n```json\n2\n```\n<!-- run against: tokens -->\n```python\nprint(2)\n```\n\n```text\n2\n```\n```sh\necho 3\n```\nmore\n```text\n3\n```\n")
	want := []example{{3, "sh", "echo 1\n", "demo", "1\n"}, {14, "python", "print(2)\n", "tokens", "2\n"}, {21, "sh", "echo 3\n", "demo", ""}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// docTools knows what of the tools that examples need is here.
type docTools struct{ python string }

// need skips an example whose tool is not here, or fails it where all tools must be.
func (d docTools) need(t *testing.T, e example) {
	t.Helper()
	missing := func(tool string, err error) {
		t.Helper()
		if err == nil {
			return
		}
		if os.Getenv(requireTools) == "1" {
			t.Fatalf("%s is needed: %v", tool, err)
		}
		t.Skipf("%s is not here: %v", tool, err)
	}
	if e.language == "python" {
		_, err := exec.LookPath(d.python)
		missing("python3", err)
		if strings.Contains(e.code, "websockets") {
			missing("the Python package websockets", exec.CommandContext(t.Context(), d.python, "-c", "import websockets.sync.client").Run())
		}
		return
	}
	if strings.Contains(e.code, "websocat ") {
		if _, err := exec.LookPath("websocat"); err != nil {
			t.Skipf("websocat, which no package of Debian has, is not here: %v", err)
		}
	}
	if strings.Contains(e.code, "curl ") {
		_, err := exec.LookPath("curl")
		missing("curl", err)
	}
}

// TestAPIGuide runs the examples of docs/api.md in order, as a reader would, each in
// a shell or a Python of its own and all in one directory.
func TestAPIGuide(t *testing.T) {
	t.Parallel()
	root := repositoryRoot(t)
	document, err := os.ReadFile(filepath.Join(root, "docs", "api.md"))
	if err != nil {
		t.Fatal(err)
	}
	examples := examplesIn(t, string(document))
	const least = 15 // else the reading is broken
	if len(examples) < least {
		t.Fatalf("%d examples were found, want %d or more", len(examples), least)
	}

	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(root, "configs"), filepath.Join(dir, "configs")); err != nil {
		t.Fatal(err)
	}
	const control, read = "control-token-of-the-guide", "read-token-of-the-guide"
	files := map[string]string{"control.token": control, "read.token": read}
	for name, token := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	agents := startGuideAgents(t, root, dir)
	tools := docTools{python: "python3"}
	for _, e := range examples {
		t.Run(fmt.Sprintf("line %d", e.line), func(t *testing.T) {
			a := agents[e.agent]
			if a == nil {
				t.Fatalf("there is no agent %q", e.agent)
			}
			tools.check(t, e, a, dir)
		})
	}
	for name, a := range agents {
		select {
		case <-a.done:
			t.Errorf("the agent %q ended:\n%s", name, a.stderr.text())
		default:
		}
	}
}

// startGuideAgents starts the agents that examples are for: the demo, and one that
// asks for the tokens in dir.
func startGuideAgents(t *testing.T, root, dir string) map[string]*apiProgram {
	t.Helper()
	agents := map[string]*apiProgram{
		"demo": startAPI(t, []string{"G2G_AGENT_LIVE__STAGGER_S=1"}, "demo"),
		"tokens": startAPI(t, []string{
			"G2G_AGENT_API__TOKEN_FILE=" + filepath.Join(dir, "control.token"), "G2G_AGENT_API__READ_TOKEN_FILE=" + filepath.Join(dir, "read.token"),
		}, "replay", "--config", filepath.Join(root, "configs", "replay.yaml"), "--pace", "1"),
	}
	// The first command ends the demo's own script, so that nothing but the examples
	// changes its batch sizes, however long they take.
	agents["demo"].awaitProbe(t, "/readyz", http.StatusOK)
	agents["demo"].post(t, http.StatusOK, "/v1/batch-sizes", `{"batch_size_by_model": {"Llama-3.1-8B": 64}}`)
	return agents
}

// check runs an example against a in dir and compares what it prints.
func (d docTools) check(t *testing.T, e example, a *apiProgram, dir string) {
	t.Helper()
	code := strings.ReplaceAll(e.code, docAddress, strings.TrimPrefix(a.url, "http://"))
	// An example whose first line names a file is saved as that.
	if name, ok := strings.CutPrefix(strings.SplitN(code, "\n", 2)[0], "# "); ok && strings.HasSuffix(name, ".py") {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(code), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.need(t, e)
	stdout, err := d.run(t, e.language, code, dir)
	if err != nil {
		t.Fatalf("%v; it printed\n%s", err, stdout)
	}
	if e.output != "" && !matches(e.output, stdout) {
		t.Errorf("it printed\n%s\nthe guide says\n%s", stdout, e.output)
	}
}

// run runs code in a directory and returns what it prints.
func (d docTools) run(t *testing.T, language, code, dir string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-eu", "-c", code)
	if language == "python" {
		cmd = exec.CommandContext(ctx, d.python, "-c", code)
	}
	var complaints strings.Builder
	cmd.Dir, cmd.Stderr = dir, &complaints
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "PYTHONPATH="+dir, "PYTHONDONTWRITEBYTECODE=1")
	cmd.WaitDelay = soon
	stdout, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, complaints.String())
	}
	return string(stdout), err
}
