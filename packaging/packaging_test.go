// Package packaging_test checks what an operator installs against the program:
// the man page, the service, the config of the package, the container file.
package packaging_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// binary is the program, built once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "g2g-agent")
	out, err := exec.Command("go", "build", "-o", path, "../cmd/g2g-agent").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

var buildDir string

func TestMain(m *testing.M) {
	var err error
	if buildDir, err = os.MkdirTemp("", "packaging"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		os.RemoveAll(buildDir)
		os.Exit(status)
	}))
}

func program(t *testing.T) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// output runs a program that must succeed.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// helpOf returns the verbs and flags that --help shows below verb.
func helpOf(t *testing.T, verb ...string) (verbs, flags []string) {
	t.Helper()
	help := output(t, program(t), append(verb, "--help")...)
	_, commands, _ := strings.Cut(help, "\nCommands:\n")
	for _, line := range regexp.MustCompile(`(?m)^  ([a-z].*)$`).FindAllStringSubmatch(commands, -1) {
		var words []string
		for _, word := range strings.Fields(line[1]) {
			if strings.ContainsAny(word, "-[=<") && !regexp.MustCompile(`^[a-z-]+$`).MatchString(word) || strings.HasPrefix(word, "-") {
				break // what follows are its flags
			}
			words = append(words, word)
		}
		verbs = append(verbs, strings.Join(words, " "))
	}
	for _, flag := range regexp.MustCompile(`(?m)^ +(?:-[a-z], +)?(--[a-z0-9-]+)`).FindAllStringSubmatch(help, -1) {
		flags = append(flags, flag[1])
	}
	return verbs, flags
}

// TestManPageIsComplete: it has a section for every verb, with its flags.
func TestManPageIsComplete(t *testing.T) {
	page := strings.ReplaceAll(read(t, "g2g-agent.1"), `\-`, "-")
	_, page, _ = strings.Cut(page, "\n.SH VERBS\n")
	page, _, _ = strings.Cut(page, "\n.SH ")
	sections := map[string]string{}
	for _, section := range strings.Split("\n"+page, "\n.SS ")[1:] {
		name, text, _ := strings.Cut(section, "\n")
		sections[name] = text
	}
	verbs, _ := helpOf(t)
	if len(verbs) < 7 {
		t.Fatalf("--help names the verbs %q", verbs)
	}
	for _, verb := range verbs {
		text, found := sections[verb]
		if !found {
			t.Errorf("the man page has no section %q", verb)
			continue
		}
		delete(sections, verb)
		_, flags := helpOf(t, strings.Fields(verb)...)
		if len(flags) == 0 {
			t.Errorf("%s --help shows no flags", verb)
		}
		described := map[string]bool{"--help": true}
		for _, flag := range regexp.MustCompile(`--[a-z0-9-]+`).FindAllString(text, -1) {
			described[flag] = true
		}
		for _, flag := range flags {
			if !described[flag] {
				t.Errorf("the man page's section %q lacks %s", verb, flag)
			}
			delete(described, flag)
		}
		for flag := range described {
			t.Errorf("the man page's section %q has %s, which the program has not", verb, flag)
		}
	}
	for name := range sections {
		t.Errorf("the man page has a section %q for which there is no verb", name)
	}
}

func TestManPageIsWellFormed(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), tool(t, "man"), "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", "g2g-agent.1")
	cmd.Env = append(os.Environ(), "MANWIDTH=80", "LC_ALL=C.UTF-8")
	var complaints strings.Builder
	cmd.Stderr = &complaints
	if err := cmd.Run(); err != nil || complaints.Len() > 0 {
		t.Errorf("man: %v\n%s", err, complaints.String())
	}
}

// TestPackagedConfig: what the package installs as config is good for run.
func TestPackagedConfig(t *testing.T) {
	source := regexp.MustCompile(`src: (\S+), dst: /etc/g2g-agent/config.yaml, type: config\|noreplace`).FindStringSubmatch(read(t, "nfpm.yaml"))
	if source == nil {
		t.Fatal("nfpm.yaml does not install /etc/g2g-agent/config.yaml as a config that upgrades keep")
	}
	if verdict := output(t, program(t), "check", "--config", filepath.Join("..", source[1])); !strings.Contains(verdict, "ok for run") {
		t.Errorf("check says: %s", verdict)
	}
}

// TestPackagedFiles: what the package and the container are made of is there.
func TestPackagedFiles(t *testing.T) {
	nfpm := read(t, "nfpm.yaml")
	sources := regexp.MustCompile(`(?m)src: ([^\s,}]+)|^  (?:post|pre)\w+: (\S+)`).FindAllStringSubmatch(nfpm, -1)
	if len(sources) < 10 {
		t.Fatalf("nfpm.yaml names the files %q", sources)
	}
	for _, source := range sources {
		file := source[1] + source[2]
		if strings.HasPrefix(file, "bin/") {
			if !strings.Contains(read(t, "build_deb.sh"), `"$stage/`+filepath.Base(file)+`"`) && file != "bin/g2g-agent" {
				t.Errorf("nfpm.yaml wants %s, which build_deb.sh does not make", file)
			}
			continue
		}
		if _, err := os.Stat(filepath.Join("..", file)); err != nil {
			t.Errorf("nfpm.yaml: %v", err)
		}
	}
}

// tool returns the path of a program, and skips the test on systems without it.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
	case os.Getenv("G2GTEST_REQUIRE_TOOLS") == "1":
		t.Fatalf("G2GTEST_REQUIRE_TOOLS is set: %v", err)
	default:
		t.Skip(name + " is not installed; G2GTEST_REQUIRE_TOOLS=1 makes this a failure")
	}
	return path
}

const unit = "../systemd/g2g-agent.service"

// Whatever others send, the host has memory left.
func TestUnitBoundsMemory(t *testing.T) {
	text, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"MemoryHigh=", "MemoryMax="} {
		if !strings.Contains(string(text), "\n"+key) {
			t.Errorf("%s does not set %s", unit, key)
		}
	}
}

// TestUnitIsHardened: an exposure of at most 2.0, of 10.
func TestUnitIsHardened(t *testing.T) {
	report := output(t, tool(t, "systemd-analyze"), "security", "--offline=true", "--threshold=20", "--no-pager", unit)
	if !strings.Contains(report, "Overall exposure level for g2g-agent.service: ") {
		t.Errorf("systemd-analyze security says nothing of the unit:\n%s", report)
	}
}

// TestUnitIsValid: systemd has nothing to say of it, once the program is where the
// unit wants it.
func TestUnitIsValid(t *testing.T) {
	analyze := tool(t, "systemd-analyze")
	text := read(t, unit)
	if !strings.Contains(text, "ExecStart=/usr/bin/g2g-agent run --config /etc/g2g-agent/config.yaml\n") {
		t.Error("the unit does not start what the package installs")
	}
	installed := filepath.Join(t.TempDir(), "g2g-agent.service")
	if err := os.WriteFile(installed, []byte(strings.ReplaceAll(text, "/usr/bin/g2g-agent", program(t))), 0o600); err != nil {
		t.Fatal(err)
	}
	if complaints := output(t, analyze, "verify", "--man=no", installed); complaints != "" {
		t.Errorf("systemd-analyze verify:\n%s", complaints)
	}
}

// TestContainerBuildsAsTheMakefileDoes: the same program, and files that are there.
func TestContainerBuildsAsTheMakefileDoes(t *testing.T) {
	line := regexp.MustCompile(`(?m)CGO_ENABLED=0 go build .*$`)
	want := strings.ReplaceAll(line.FindString(read(t, "../Makefile")), "$(VERSION)", "$VERSION")
	containerfile := read(t, "Containerfile")
	if got := line.FindString(containerfile); got == "" || got != want {
		t.Errorf("the container is built by\n%s\nand the program by\n%s", got, want)
	}
	copies := regexp.MustCompile(`(?m)^COPY (--from=\S+ )?(.*) \S+$`).FindAllStringSubmatch(containerfile, -1)
	if len(copies) < 4 {
		t.Fatalf("the container file copies %q", copies)
	}
	for _, c := range copies {
		for _, source := range strings.Fields(c[2]) {
			if c[1] != "" { // from the first stage: the repository is at /src there
				repository, found := strings.CutPrefix(source, "/src/")
				if source = repository; !found || strings.HasPrefix(source, "bin/") {
					continue
				}
			}
			if _, err := os.Stat(filepath.Join("..", source)); err != nil {
				t.Errorf("COPY: %v", err)
			}
		}
	}
	version := regexp.MustCompile(`golang:(\d+\.\d+)`).FindStringSubmatch(containerfile)
	if version == nil || !strings.Contains(read(t, "../go.mod"), "\ngo "+version[1]) {
		t.Errorf("the container builds with Go %q, go.mod wants another (here: %s)", version, runtime.Version())
	}
}

// TestGuideQuotesMessages: those that it explains are ours, or the system's.
func TestGuideQuotesMessages(t *testing.T) {
	var source strings.Builder
	for _, pattern := range []string{"../*/*.go", "../*/*/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if !strings.HasSuffix(file, "_test.go") {
				source.WriteString(read(t, file))
			}
		}
	}
	_, table, _ := strings.Cut(read(t, "../docs/operating.md"), "\n## Troubleshoot\n")
	quoted := 0
	for _, row := range regexp.MustCompile("(?m)^\\| ([^|]*`[^|]*) \\|").FindAllStringSubmatch(table, -1) {
		for _, message := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			switch message[1] {
			case "connect: connection refused", "permission denied", "start operation timed out":
				continue // the system's
			}
			for _, fragment := range strings.Split(message[1], "…") {
				if fragment = strings.Trim(fragment, " :,"); fragment == "" {
					continue
				}
				quoted++
				if !strings.Contains(source.String(), fragment) {
					t.Errorf("docs/operating.md explains the message %q, and the program never says %q", message[1], fragment)
				}
			}
		}
	}
	if quoted < 15 {
		t.Errorf("only %d messages are explained", quoted)
	}
}

// TestGuideNamesWhatThereIs: metrics and files that the operating guide speaks of.
func TestGuideNamesWhatThereIs(t *testing.T) {
	guide, metrics := read(t, "../docs/operating.md"), read(t, "../docs/metrics.md")
	names := regexp.MustCompile(`g2g_[a-z_]+_(?:total|seconds|size|stale)\b`).FindAllString(guide, -1)
	if len(names) < 10 {
		t.Fatalf("the guide speaks of the metrics %q", names)
	}
	for _, name := range names {
		if !strings.Contains(metrics, "`"+name+"`") {
			t.Errorf("docs/operating.md speaks of %s, which docs/metrics.md does not have", name)
		}
	}
	for _, link := range regexp.MustCompile(`\]\(([^):]+)\)`).FindAllStringSubmatch(guide, -1) {
		if _, err := os.Stat(filepath.Join("../docs", link[1])); err != nil {
			t.Errorf("docs/operating.md: %v", err)
		}
	}
	for _, key := range []string{"log.level", "api.token_file", "api.read_token_file", "control.default_lease_s"} {
		if !strings.Contains(guide, "`"+key+"`") || !strings.Contains(read(t, "g2g-agent.1"), key) {
			t.Errorf("%s takes effect on a reload, and guide or man page does not say so", key)
		}
	}
}
