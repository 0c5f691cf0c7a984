package packaging_test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// versionAs is the version as packaging/version.sh spells it.
func versionAs(t *testing.T, version string, flags ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", append([]string{"version.sh"}, flags...)...)
	cmd.Env = append(os.Environ(), "VERSION="+version)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("version.sh %v: %v", flags, err)
	}
	return strings.TrimSpace(string(out))
}

func number(t *testing.T) string {
	t.Helper()
	n := strings.TrimSuffix(read(t, "../cmd/g2g-agent/VERSION"), "\n")
	if !regexp.MustCompile(`^\d+\.\d+\.\d+(-(dev|alpha|beta|rc)(\.\d+)?)?$`).MatchString(n) {
		t.Fatalf("cmd/g2g-agent/VERSION is %q, want such as 1.2.0, 1.2.0-rc.1 or 1.2.0-dev and a line end", n)
	}
	return n
}

// TestVersionIsOneNumber: the program's, with the commit after it at most, the CHANGELOG's
// and the Python package's.
func TestVersionIsOneNumber(t *testing.T) {
	n := number(t)
	commit := regexp.MustCompile(`^\+g[0-9a-f]{12}(\.dirty)?$`)
	said := strings.Fields(output(t, program(t), "version"))
	if rest, ours := strings.CutPrefix(said[1], n); !ours || rest != "" && !commit.MatchString(rest) {
		t.Errorf("the program's version is %s, want %s", said[1], n)
	}
	if rest, ours := strings.CutPrefix(versionAs(t, ""), n); !ours || rest != "" && !commit.MatchString(rest) {
		t.Errorf("version.sh says %s, want %s", versionAs(t, ""), n)
	}

	heading := regexp.MustCompile(`(?m)^## (\S+) \((unreleased|\d{4}-\d{2}-\d{2})\)$`).FindStringSubmatch(read(t, "../CHANGELOG.md"))
	base, pre, _ := strings.Cut(n, "-")
	switch {
	case heading == nil:
		t.Error("CHANGELOG.md has no heading such as ## 1.2.0 (2026-12-31), or (unreleased)")
	case heading[1] != base && heading[1] != n:
		t.Errorf("the newest heading of CHANGELOG.md is of %s, want %s", heading[1], base)
	case (heading[2] == "unreleased") != (pre == "dev"):
		t.Errorf("CHANGELOG.md says %s of %s: what is unreleased is 1.2.0-dev, and what is released has a date", heading[2], n)
	}

	if _, err := os.Stat("../clients/python/pyproject.toml"); err != nil {
		t.Skip(err)
	}
	want := `__version__ = "` + versionAs(t, n, "--python") + `"`
	if python := read(t, "../clients/python/src/g2g_agent/_version.py"); !strings.Contains(python, "\n"+want+"\n") {
		t.Errorf("_version.py lacks the line %s", want)
	}
	if project := read(t, "../clients/python/pyproject.toml"); !strings.Contains(project, `path = "hatch_build.py"`) || !strings.Contains(project, `path = "src/g2g_agent/_version.py"`) {
		t.Error("pyproject.toml names neither hatch_build.py nor _version.py: a release has no program, or no version")
	}
}

// TestVersionsOfDebianAndPython: their spellings sort as the versions do.
func TestVersionsOfDebianAndPython(t *testing.T) {
	for version, want := range map[string][2]string{
		"1.2.0":                           {"1.2.0", "1.2.0"},
		"v1.2.0":                          {"1.2.0", "1.2.0"},
		"1.2.0-dev":                       {"1.2.0~dev", "1.2.0.dev0"},
		"1.2.0-alpha":                     {"1.2.0~alpha", "1.2.0a0"},
		"1.2.0-beta.3":                    {"1.2.0~beta.3", "1.2.0b3"},
		"1.2.0-rc.1":                      {"1.2.0~rc.1", "1.2.0rc1"},
		"1.2.0-dev+g0123456789ab":         {"1.2.0~dev+g0123456789ab", "1.2.0.dev0+g0123456789ab"},
		"1.2.0-rc.10+g0123456789ab.dirty": {"1.2.0~rc.10+g0123456789ab.dirty", "1.2.0rc10+g0123456789ab.dirty"},
	} {
		if got := versionAs(t, version, "--debian"); got != want[0] {
			t.Errorf("Debian has %s as %s, want %s", version, got, want[0])
		}
		if got := versionAs(t, version, "--python"); got != want[1] {
			t.Errorf("Python has %s as %s, want %s", version, got, want[1])
		}
	}
}

// TestContainersAreOfOneKind: the image of a release differs from the other in where the
// program comes from.
func TestContainersAreOfOneKind(t *testing.T) {
	last := func(file string) string {
		_, stage, found := strings.Cut(read(t, file), "\nFROM scratch\n")
		if !found {
			t.Fatalf("%s has no stage from scratch", file)
		}
		return regexp.MustCompile(`(?m)^(COPY .*|ARG TARGETARCH)\n`).ReplaceAllString(stage, "")
	}
	if a, b := last("Containerfile"), last("Containerfile.release"); a != b {
		t.Errorf("the images differ:\n%s\n%s", a, b)
	}
	made := read(t, "release.sh")
	for _, copied := range regexp.MustCompile(`(?m)^COPY (LICENSE .*|linux_\S+) \S+$`).FindAllStringSubmatch(read(t, "Containerfile.release"), -1) {
		for _, source := range strings.Fields(strings.NewReplacer("linux_$TARGETARCH/", "").Replace(copied[1])) {
			if !strings.Contains(made, source) {
				t.Errorf("release.sh makes no %s for the image", source)
			}
		}
	}
}
