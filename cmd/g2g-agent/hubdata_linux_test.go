package main

import (
	"bytes"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/g2g-agent/g2g-agent/hub/hubtest"
)

// TestDownloadOnTerminal: the bar shows how far the download is, and is gone at the end.
func TestDownloadOnTerminal(t *testing.T) {
	f := goldenBenchmark(t)
	const table = "runs/llm.parquet"
	content, half := f.Content(hubtest.Commit, table), f.Size(hubtest.Commit, table)/2
	master, slave := openTerminal(t)
	halfWay := make(chan struct{})
	var screen bytes.Buffer
	var reading sync.WaitGroup
	reading.Go(func() { // until the terminal is closed
		shown := sync.OnceFunc(func() { close(halfWay) })
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			screen.Write(buffer[:n])
			if strings.Contains(screen.String(), "0/1 files") {
				shown()
			}
			if err != nil {
				shown()
				return
			}
		}
	})
	f.On(nil, func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, table) {
			return false
		}
		w.Write(content[:half])
		w.(http.Flusher).Flush()
		<-halfWay
		w.Write(content[half:])
		return true
	})
	var stdout bytes.Buffer
	err := run(t.Context(), []string{"generate", "inference-data", "--specs", goldenSpecs(t), "--out", filepath.Join(t.TempDir(), "out")},
		terminal{stdout: &stdout, stderr: slave, environ: newHubUser(t, f).environ})
	if err != nil {
		t.Error(err)
	}
	if err := slave.Close(); err != nil {
		t.Fatal(err)
	}
	reading.Wait()
	got := screen.String()
	if !regexp.MustCompile(`\r\x1b\[K\[[#.]{10}\] \d+ %  [\d.]+/[\d.]+ kB  0/1 files  [\d.]+ MB/s`).MatchString(got) {
		t.Errorf("the terminal got no bar: %q", got)
	}
	if last := got[strings.LastIndexAny(got, "\r\n")+1:]; last != "" && last != "\x1b[K" || strings.Contains(got, "downloading from the hub") {
		t.Errorf("the terminal got %q; want no bar at its end", got)
	}
}
