package main

import (
	_ "embed"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// number is the version's number, the one place where it stands.
//
//go:embed VERSION
var number string

// version is the whole version, set when the program is built for others: the number,
// and which commit it was built from if that is no release.
var version = ""

type versionCmd struct{}

func (versionCmd) Run(term terminal) error {
	_, err := fmt.Fprintf(term.stdout, "g2g-agent %s (%s, %s/%s)\n", programVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// programVersion is the number, with the commit after it unless a release was built, such
// as 0.1.0-dev+g0123456789ab.
func programVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return strings.TrimSpace(number)
	}
	return strings.TrimSpace(number) + commitOf(info.Settings)
}

// commitOf is what follows the number of a program that the go command built in a clone.
func commitOf(settings []debug.BuildSetting) string {
	const digits = 12
	commit := ""
	for _, s := range settings {
		if s.Key == "vcs.revision" && len(s.Value) >= digits {
			commit = "+g" + s.Value[:digits]
		}
	}
	for _, s := range settings {
		if s.Key == "vcs.modified" && s.Value == "true" && commit != "" {
			commit += ".dirty"
		}
	}
	return commit
}
