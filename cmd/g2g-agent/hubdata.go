package main

import (
	"context"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/hub"
)

// hubData is a data set of the Hugging Face hub, of which files are brought to this
// machine. It is used by one goroutine at a time.
type hubData struct {
	client *hub.Client
	repo   *hub.Repo
	name   string
	dir    string // of what is downloaded
	log    zerolog.Logger
	line   *statusLine
	asked  []string // in earlier calls of Fetch
}

// openHub is the data set of a name at a revision, as the environment says; nothing is
// asked yet. Whoever opens it closes it.
func openHub(environ []string, line *statusLine, name, revision string) (*hubData, error) {
	cfg, err := hub.FromEnviron(environ)
	if err != nil {
		return nil, err
	}
	cfg.Log = line.logger()
	client, err := hub.New(cfg)
	if err != nil {
		return nil, err
	}
	repo, err := client.Repo(name, revision)
	if err != nil {
		client.Close()
		return nil, err
	}
	return &hubData{client: client, repo: repo, name: name, dir: cfg.Dir, log: cfg.Log, line: line}, nil
}

func (h *hubData) close() { h.client.Close() }

// Fetch implements [mlenergy.Source]. The directory has the files of earlier calls, too:
// one that is complete is of use later, and without what the first ones came from.
func (h *hubData) Fetch(ctx context.Context, files []string) (string, error) {
	for _, file := range files {
		h.asked = append(h.asked, path.Clean(file)) // by this name it is opened
	}
	files = h.asked
	began := time.Now()
	t := &transfer{hub: h}
	stop := t.draw()
	dir, err := h.repo.Fetch(ctx, files, t.update)
	stop()
	h.line.clear()
	now := t.progress()
	if err != nil && ctx.Err() != nil {
		return "", &interruptedDownload{h.dir, now}
	}
	if err == nil && t.downloads {
		h.log.Info().Str("dataset", h.name).Str("dir", dir).Int("files", now.DoneFiles-t.first.DoneFiles).
			Int64("bytes", now.DoneBytes-t.first.DoneBytes).Float64("duration_s", time.Since(began).Seconds()).Msg("downloaded")
	}
	return dir, err
}

// match returns the files that a pattern of [path.Match] means; a name without any
// wildcard means itself, and the hub is not asked.
func (h *hubData) match(ctx context.Context, pattern string) ([]string, error) {
	if !strings.ContainsAny(pattern, `*?[\`) {
		return []string{pattern}, nil
	}
	folder := path.Dir(pattern)
	if folder == "." {
		folder = ""
	}
	list, err := h.repo.List(ctx, folder)
	if err != nil && ctx.Err() != nil {
		return nil, &interruptedDownload{h.dir, hub.Progress{}}
	}
	if err != nil {
		return nil, err
	}
	var files []string
	for _, file := range list {
		if ok, err := path.Match(pattern, file.Path); err != nil {
			return nil, err
		} else if ok {
			files = append(files, file.Path)
		}
	}
	if len(files) == 0 {
		return nil, invalidf("the data set %s of the hub has no file %s at commit %s", h.name, pattern, h.repo.Commit())
	}
	return files, nil
}

// interruptedDownload is the end of a download that the user wanted to end.
type interruptedDownload struct {
	dir string
	at  hub.Progress
}

func (e *interruptedDownload) Error() string {
	if e.at.TotalBytes == 0 {
		return "interrupted while asking the hub; the same command begins again, and what was downloaded before is kept in " + e.dir
	}
	return fmt.Sprintf("interrupted; %s have arrived in %s, and the same command continues from there", ofBytes(e.at.DoneBytes, e.at.TotalBytes), e.dir)
}

// rateOver is about how long the rate that is shown looks back.
const rateOver = 5 * time.Second

// transfer shows how far a download is: a bar on a terminal, otherwise a line in the
// log when it begins.
type transfer struct {
	hub *hubData

	mu        sync.Mutex
	first     hub.Progress // when it began; without downloads, nothing
	now       hub.Progress
	downloads bool

	// What the bar was made of last.
	drawnAt   time.Time
	drawn     int64
	bytesPerS float64
}

// update takes how far it is.
func (t *transfer) update(p hub.Progress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now = p
	if t.downloads || p.DoneFiles == p.TotalFiles {
		return
	}
	t.downloads, t.first = true, p
	if t.hub.line.columns == nil {
		t.hub.log.Info().Str("dataset", t.hub.name).Str("commit", t.hub.repo.Commit()).Int("files", p.TotalFiles-p.DoneFiles).
			Int64("bytes", p.TotalBytes-p.DoneBytes).Str("to", t.hub.dir).Msg("downloading from the hub")
	}
}

func (t *transfer) progress() hub.Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now
}

// draw keeps the bar up to date, also while nothing arrives, until it is stopped.
func (t *transfer) draw() (stop func()) {
	if t.hub.line.columns == nil {
		return func() {}
	}
	ticker := time.NewTicker(progressEvery)
	stopped := make(chan struct{})
	var drawing sync.WaitGroup
	drawing.Go(func() {
		for {
			select {
			case <-stopped:
				return
			case <-ticker.C:
				t.mu.Lock()
				downloads := t.downloads
				t.mu.Unlock()
				if downloads {
					t.hub.line.show(t.bar)
				}
			}
		}
	})
	return func() {
		ticker.Stop()
		close(stopped)
		drawing.Wait()
	}
}

// bar is the line at a time: how much has arrived, how fast, and how long it takes yet.
func (t *transfer) bar(now time.Time) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.drawnAt.IsZero() {
		t.drawnAt, t.drawn = now, t.now.DoneBytes
	}
	if elapsed := now.Sub(t.drawnAt).Seconds(); elapsed > 0 {
		// What arrives later than rateOver ago counts more than all before.
		newer := min(elapsed/rateOver.Seconds(), 1)
		rate := float64(max(t.now.DoneBytes-t.drawn, 0)) / elapsed
		if t.bytesPerS == 0 {
			newer = 1
		}
		t.bytesPerS += newer * (rate - t.bytesPerS)
		t.drawnAt, t.drawn = now, t.now.DoneBytes
	}
	share := 1.0
	if t.now.TotalBytes > 0 {
		share = float64(t.now.DoneBytes) / float64(t.now.TotalBytes)
	}
	const cells = 10
	full := int(share * cells)
	text := fmt.Sprintf("[%s%s] %d %%  %s  %d/%d files  %.1f MB/s", strings.Repeat("#", full), strings.Repeat(".", cells-full), int(100*share),
		ofBytes(t.now.DoneBytes, t.now.TotalBytes), t.now.DoneFiles, t.now.TotalFiles, t.bytesPerS/1e6)
	const most = 100 * time.Hour // a rate of next to nothing says nothing
	if left := float64(t.now.TotalBytes-t.now.DoneBytes) / t.bytesPerS; left < most.Seconds() {
		text += fmt.Sprintf("  %s left", (time.Duration(left) * time.Second).String())
	}
	return text
}

// ofBytes is so many bytes of a total, for people.
func ofBytes(done, total int64) string {
	unit, name := 1e3, "kB"
	switch {
	case total >= 1e9:
		unit, name = 1e9, "GB"
	case total >= 1e6:
		unit, name = 1e6, "MB"
	}
	return fmt.Sprintf("%.1f/%.1f %s", float64(done)/unit, float64(total)/unit, name)
}
