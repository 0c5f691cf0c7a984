package main

import "golang.org/x/sys/unix"

// hangUp is what poll is asked for to tell that the other end is closed: a pipe tells so
// in any case, a socket only if asked.
const hangUp = unix.POLLRDHUP
