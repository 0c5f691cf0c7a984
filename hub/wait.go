package hub

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

const (
	// maxRetries is how often a request is made again that failed in a way that may
	// pass.
	maxRetries = 5
	// maxWait bounds how long a server may have us wait. The hub counts requests over
	// five minutes.
	maxWait = 5 * time.Minute
)

// mayPass reports whether a request that ended so is worth another attempt.
func mayPass(ctx context.Context, resp *http.Response, err error) bool {
	if resp != nil && err == nil {
		if asked, ok := askedWait(resp, time.Now()); ok && asked > maxWait {
			return false
		}
		if resp.StatusCode == http.StatusRequestTimeout {
			return true
		}
	}
	again, _ := retryablehttp.DefaultRetryPolicy(ctx, resp, err) // its error is that of ctx
	return again && !errors.Is(err, errRedirect)
}

// wait is how long to wait before the next attempt: as the server says, at most
// maxWait, else longer after each failure in a row, the first of which is 0.
func (c *Client) wait(failures int, resp *http.Response) time.Duration {
	d := c.cfg.Retry.Delay(failures, rand.Float64())
	if resp != nil {
		if asked, ok := askedWait(resp, time.Now()); ok {
			d = min(asked, maxWait)
			c.cfg.Log.Warn().Str("url", shown(resp.Request.URL)).Int("status", resp.StatusCode).Stringer("wait", d).
				Msg("the hub wants us to wait before the next request")
		}
	}
	return c.shorten(d)
}

// askedWait is how long an answer wants its receiver to wait: by Retry-After, in
// seconds or as a date, or by the hub's ratelimit header such as "api";r=0;t=55. That
// one is in every answer and counts only in a refusal.
func askedWait(resp *http.Response, now time.Time) (d time.Duration, ok bool) {
	if resp.StatusCode < 400 {
		return 0, false
	}
	if after := strings.TrimSpace(resp.Header.Get("Retry-After")); after != "" {
		if d, ok = seconds(after); ok {
			return d, true
		}
		if at, err := http.ParseTime(after); err == nil {
			return max(at.Sub(now), 0), true
		}
	}
	if resp.StatusCode != http.StatusTooManyRequests {
		return 0, false
	}
	limit := regexp.MustCompile(`;\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)`).FindStringSubmatch(resp.Header.Get("Ratelimit"))
	if limit == nil {
		return 0, false
	}
	return seconds(limit[1])
}

// seconds reads digits alone, and takes a day for what is longer.
func seconds(digits string) (time.Duration, bool) {
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	const day = 24 * 60 * 60
	n, err := strconv.Atoi(digits)
	if err != nil || n > day {
		n = day // more digits than a number has
	}
	return time.Duration(n) * time.Second, true
}
