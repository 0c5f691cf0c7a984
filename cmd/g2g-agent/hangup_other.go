//go:build !linux

package main

import "golang.org/x/sys/unix"

// hangUp is what poll is asked for to tell that the other end is closed.
const hangUp = unix.POLLHUP
