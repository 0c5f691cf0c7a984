package config

import "slices"

// isClients reports whether a variable is one of the Python client's, which programs that
// use it have in their environment when they start an agent. None of them is a key.
func isClients(key string) bool {
	return slices.Contains([]string{"BINARY", "URL", "TOKEN", "TOKEN_FILE"}, key)
}
