package main

import "strings"

// underscoresToDashes spells flags as they are defined, so that OpenG2G's names
// work too: --duration_s is --duration-s.
func underscoresToDashes(args []string) []string {
	out := make([]string, len(args))
	for i, arg := range args {
		if arg == "--" {
			copy(out[i:], args[i:])
			break
		}
		if strings.HasPrefix(arg, "--") {
			name, value, hasValue := strings.Cut(arg, "=")
			arg = strings.ReplaceAll(name, "_", "-")
			if hasValue {
				arg += "=" + value
			}
		}
		out[i] = arg
	}
	return out
}
