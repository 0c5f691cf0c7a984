//go:build linux || darwin

package hub

import "golang.org/x/sys/unix"

// freeBytes is how much can be written in a directory, and whether that is known.
func freeBytes(dir string) (bytes uint64, known bool) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, false
	}
	return stat.Bavail * uint64(stat.Bsize), true
}
