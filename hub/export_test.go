package hub

import (
	"os"
	"time"
)

// Shorten has waits be as long as f says.
func (c *Client) Shorten(f func(time.Duration) time.Duration) { c.shorten = f }

// SetFree has the disk have that much room.
func (c *Client) SetFree(bytes uint64) {
	c.free = func(string) (uint64, bool) { return bytes, true }
}

// SetWrite replaces writes to a part.
func (c *Client) SetWrite(write func(*os.File, []byte) (int, error)) { c.write = write }

// What tests of single rules call.
var (
	AskedWait = askedWait
	NextPage  = nextPage
)
