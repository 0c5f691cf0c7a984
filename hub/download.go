package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
	"github.com/g2g-agent/g2g-agent/internal/backoff"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

const (
	chunkBytes = 256 << 10
	// fewBytes is how much must come before a connection that is then cut counts as
	// the first failure again.
	fewBytes = 1 << 20
	// lockWait is how long to wait before looking again whether a part is free.
	lockWait = 200 * time.Millisecond
)

// transfer is one file on its way.
type transfer struct {
	repo  *Repo
	file  remote
	part  *os.File
	sum   hash.Hash
	have  int64 // bytes that are in part and in sum
	tally *tally
}

// download brings a file to its place, or continues to.
func (r *Repo) download(ctx context.Context, file remote, tally *tally) error {
	target := filepath.Join(snapshot(r.own(), r.commit), filepath.FromSlash(file.path))
	part, err := r.openPart(ctx, file, target)
	if err != nil {
		return err
	}
	if part == nil { // another program was faster
		tally.add(file.size, 1)
		return nil
	}
	defer part.Close()
	t := &transfer{repo: r, file: file, part: part, tally: tally}
	if err := t.resume(ctx); err != nil {
		return err
	}
	resumed := t.have > 0
	err = t.run(ctx)
	if errors.Is(err, ErrChecksum) && resumed {
		// The part may have been at fault: after a power cut, say.
		r.client.cfg.Log.Debug().Err(err).Msg("hub: a file that was continued is begun again")
		err = t.run(ctx)
	}
	if err != nil {
		return err
	}
	if err := t.place(target); err != nil {
		return r.diskError(err)
	}
	tally.add(0, 1)
	return nil
}

// openPart opens and locks the part of a file, and waits while somebody else has it.
// It is nil if the file has come to its place meanwhile.
func (r *Repo) openPart(ctx context.Context, file remote, target string) (*os.File, error) {
	for told := false; ; {
		if info, err := os.Stat(target); err == nil && info.Mode().IsRegular() {
			return nil, nil
		}
		part, err := os.OpenFile(r.part(file), os.O_RDWR|os.O_CREATE, 0o666)
		if err != nil {
			return nil, r.diskError(err)
		}
		err = atomicfile.Lock(part)
		if err == nil && atomicfile.IsAt(part, r.part(file)) {
			return part, nil
		}
		_ = part.Close()
		if err == nil {
			continue // it was just put to its place
		}
		if !errors.Is(err, atomicfile.ErrLocked) {
			return nil, fmt.Errorf("lock %s: %w; choose a directory on a disk that has locks", r.part(file), err)
		}
		if !told {
			told = true
			r.client.cfg.Log.Info().Str("file", file.path).Msg("hub: another download has this file; waiting for it")
		}
		if err := backoff.Sleep(ctx, r.client.shorten(lockWait)); err != nil {
			return nil, err
		}
	}
}

// resume takes what an earlier download has left.
func (t *transfer) resume(ctx context.Context) error {
	t.sum = t.newSum()
	info, err := t.part.Stat()
	if err != nil {
		return err
	}
	if info.Size() > t.file.size {
		return t.restart()
	}
	buffer := make([]byte, chunkBytes)
	for {
		n, err := t.part.Read(buffer)
		t.sum.Write(buffer[:n])
		t.have += int64(n)
		switch {
		case errors.Is(err, io.EOF):
			t.tally.add(t.have, 0)
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
	}
}

// newSum is the sum that the hub announces: of an LFS file SHA-256, else what git
// names a blob.
func (t *transfer) newSum() hash.Hash {
	if len(t.file.sum) == hex.EncodedLen(sha256.Size) {
		return sha256.New()
	}
	sum := sha1.New()
	sum.Write(fmt.Appendf(nil, "blob %d\x00", t.file.size))
	return sum
}

// restart forgets what has arrived.
func (t *transfer) restart() error {
	t.tally.add(-t.have, 0)
	t.have, t.sum = 0, t.newSum()
	if err := t.part.Truncate(0); err != nil {
		return err
	}
	_, err := t.part.Seek(0, io.SeekStart)
	return err
}

// again is restart, and then because of err.
func (t *transfer) again(because error) error {
	if t.have > 0 {
		if err := t.restart(); err != nil {
			return t.repo.diskError(err)
		}
	}
	return because
}

// failure is the end of an attempt after which another may help.
type failure struct {
	err  error
	resp *http.Response // that says how long to wait; may be nil
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// run makes attempts until all bytes are there, and checks their sum.
func (t *transfer) run(ctx context.Context) error {
	failures, highest := 0, t.have
	for t.have < t.file.size {
		err := t.attempt(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", shown(t.file.url), context.Cause(ctx))
		}
		var passing *failure
		if !errors.As(err, &passing) {
			return err
		}
		if t.have >= highest+fewBytes {
			failures, highest = 0, t.have
		}
		if failures == maxRetries {
			return passing.err
		}
		t.repo.client.logFailure(passing.resp, passing.err)
		if err := backoff.Sleep(ctx, t.repo.client.wait(failures, passing.resp)); err != nil {
			return fmt.Errorf("%s: %w", shown(t.file.url), err)
		}
		failures++
	}
	if got := hex.EncodeToString(t.sum.Sum(nil)); got != t.file.sum {
		if err := t.restart(); err != nil {
			return err
		}
		return &Error{Where: shown(t.file.url), kind: ErrChecksum, detail: fmt.Sprintf("its checksum is %s, want %s", got, t.file.sum),
			advice: "it was thrown away; try again, and if that fails again look for a proxy that changes files"}
	}
	return nil
}

// attempt asks once for what is missing and takes what comes. Its error is a
// [*failure] if another attempt may help.
func (t *transfer) attempt(ctx context.Context) error {
	c := t.repo.client
	resp, err := c.open(ctx, t.file.url, t.have)
	if err != nil {
		cut := unreachable(t.file.url, err)
		if errors.Is(err, errRedirect) {
			cut.kind, cut.advice = ErrAnswer, ""
		}
		if mayPass(ctx, nil, err) {
			return &failure{cut, nil}
		}
		return cut
	}
	defer resp.Body.Close()
	odd := func(format string, args ...any) error {
		return &failure{&Error{Where: shown(resp.Request.URL), Status: resp.StatusCode, kind: ErrAnswer, detail: fmt.Sprintf(format, args...)}, resp}
	}
	switch resp.StatusCode {
	case http.StatusOK:
		if err := t.again(nil); err != nil { // from the start, whatever was asked
			return err
		}
	case http.StatusPartialContent:
		if got := resp.Header.Get("Content-Range"); !t.continues(got) {
			return t.again(odd("bytes from %d on of %d were asked for, it sends %s", t.have, t.file.size, excerpt.Quote(got, maxQuoted)))
		}
	case http.StatusRequestedRangeNotSatisfiable:
		return t.again(odd("it does not have the bytes from %d on of a file of %d", t.have, t.file.size))
	default:
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 2*maxQuoted)) // for the message
		refused := t.repo.refusal(resp, body)
		// A link into the storage may have expired: the next one is another.
		asked, _ := askedWait(resp, time.Now())
		if mayPass(ctx, resp, nil) || !c.isHub(resp.Request.URL) && asked <= maxWait {
			return &failure{refused, resp}
		}
		return refused
	}
	if coding := resp.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return odd("it sends the file in the encoding %s, which was not asked for", excerpt.Quote(coding, maxQuoted))
	}
	return t.copy(resp)
}

// continues reports whether a Content-Range begins where the part ends and is of a
// file of the right size.
func (t *transfer) continues(contentRange string) bool {
	start := fmt.Sprintf("bytes %d-", t.have)
	end, total, ok := strings.Cut(strings.TrimPrefix(contentRange, start), "/")
	return ok && strings.HasPrefix(contentRange, start) && end != "" &&
		(total == "*" || total == strconv.FormatInt(t.file.size, 10))
}

// copy takes what comes, up to the file's size.
func (t *transfer) copy(resp *http.Response) error {
	buffer := make([]byte, chunkBytes)
	for {
		n, err := resp.Body.Read(buffer)
		if t.have+int64(n) > t.file.size {
			tooMuch := &Error{Where: shown(resp.Request.URL), kind: ErrChecksum,
				detail: fmt.Sprintf("it is longer than the %d bytes announced", t.file.size), advice: "try again later"}
			return t.again(&failure{tooMuch, nil})
		}
		if _, err := t.repo.client.write(t.part, buffer[:n]); err != nil {
			return t.repo.diskError(err)
		}
		t.sum.Write(buffer[:n])
		t.have += int64(n)
		t.tally.add(int64(n), 0)
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			if t.have == t.file.size {
				return nil
			}
			err = fmt.Errorf("it ends after %d of %d bytes", t.have, t.file.size)
		}
		return &failure{unreachable(resp.Request.URL, err), nil}
	}
}

// place makes the file durable and puts it under its name.
func (t *transfer) place(target string) error {
	if err := t.part.Sync(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o777); err != nil {
		return err
	}
	if err := os.Rename(t.part.Name(), target); err != nil {
		return err
	}
	// Not all systems can: the file is there all the same, until the power fails.
	if dir, err := os.Open(filepath.Dir(target)); err == nil {
		_ = dir.Sync()
		_ = dir.Close()
	}
	return nil
}
