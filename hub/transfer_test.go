package hub_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/hub"
	"github.com/g2g-agent/g2g-agent/hub/hubtest"
)

// leavePart leaves the start of a download.
func (u *user) leavePart(t *testing.T, of, data []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(u.own("parts"), 0o777), os.WriteFile(u.own("parts", hubtest.SHA256(of)+".part"), data, 0o666)); err != nil {
		t.Fatal(err)
	}
}

// A part is continued where it ends, whatever the storage does with the range that is
// asked for: with 200 it sends all, which is not appended; a part in the wrong place is
// not taken; and a refusal of the range has the file begun again.
//
// It is long because of the table.
func TestRange(t *testing.T) {
	half := len(table) / 2
	partial := func(contentRange string, data []byte) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Range") == "" {
				return false
			}
			w.Header().Set("Content-Range", contentRange)
			w.WriteHeader(http.StatusPartialContent)
			w.Write(data)
			return true
		}
	}
	for name, c := range map[string]struct {
		answer   func(http.ResponseWriter, *http.Request) bool
		requests int
		log      string
	}{
		"as it should be": {nil, 1, ""},
		"unknown total":   {partial(fmt.Sprintf("bytes %d-%d/*", half, len(table)-1), table[half:]), 1, ""},
		"200":             {func(w http.ResponseWriter, _ *http.Request) bool { w.Write(table); return true }, 1, ""},
		"200, cut once": {func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Range") == fmt.Sprintf("bytes=%d-", half) {
				return hubtest.Cut(w, http.StatusOK, table, half-7)
			}
			return false
		}, 2, "ends after|unexpected EOF"},
		"wrong start":      {partial(fmt.Sprintf("bytes 0-%d/%d", len(table)-half-1, len(table)), table[:len(table)-half]), 2, "were asked for, it sends"},
		"another file":     {partial(fmt.Sprintf("bytes %d-%d/%d", half, len(table), len(table)+1), table[half:]), 2, "were asked for, it sends"},
		"no Content-Range": {partial("", table[half:]), 2, "were asked for, it sends"},
		"416": {func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Range") == "" {
				return false
			}
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return true
		}, 2, "does not have the bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newBenchmark(t)
			f.On(nil, c.answer)
			u := newUser(t, f)
			u.leavePart(t, table, table[:half])
			var last hub.Progress
			dir, err := u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, func(p hub.Progress) { last = p })
			if err != nil {
				t.Fatal(err)
			}
			wantFile(t, dir, "runs/llm.parquet", table)
			_, atStore := f.Requests()
			if len(atStore) != c.requests || atStore[0].Ranges != fmt.Sprintf("bytes=%d-", half) {
				t.Errorf("the storage was asked %v, want %d times", atStore, c.requests)
			}
			if !regexp.MustCompile(c.log).MatchString(u.log.String()) {
				t.Errorf("the log is %s, want it with %s", u.log, c.log)
			}
			if last.DoneBytes != int64(len(table)) {
				t.Errorf("progress ends with %+v", last)
			}
		})
	}
}

// A part that is complete is verified and put to its place without asking for more;
// one that is too long, or of which bytes are wrong, is begun again, once.
func TestParts(t *testing.T) {
	damaged := bytes.Clone(table[:2000])
	damaged[1000] ^= 1
	for name, c := range map[string]struct {
		part     []byte
		requests int
	}{
		"complete":          {table, 0},
		"too long":          {append(bytes.Clone(table), 0), 1},
		"damaged":           {damaged, 2},
		"empty":             {nil, 1},
		"all of it damaged": {make([]byte, len(table)), 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newBenchmark(t)
			u := newUser(t, f)
			u.leavePart(t, table, c.part)
			dir, err := u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, nil)
			if err != nil {
				t.Fatal(err)
			}
			wantFile(t, dir, "runs/llm.parquet", table)
			if _, atStore := f.Requests(); len(atStore) != c.requests {
				t.Errorf("the storage was asked %v, want %d times", atStore, c.requests)
			}
		})
	}
}

// The part of one version of a file is not continued with another version.
func TestPartOfAnotherVersion(t *testing.T) {
	f := newBenchmark(t)
	u := newUser(t, f)
	u.leavePart(t, []byte("the version before"), table[:1000])
	dir, err := u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, dir, "runs/llm.parquet", table)
	if _, atStore := f.Requests(); len(atStore) != 1 || atStore[0].Ranges != "" {
		t.Errorf("the storage was asked %v", atStore)
	}
}

// A connection that is cut is made again from where it ended: as often as it brings
// something worth it, and five times in a row when it does not.
func TestCutConnections(t *testing.T) {
	f := newBenchmark(t)
	var requests atomic.Int64
	f.On(nil, func(w http.ResponseWriter, r *http.Request) bool {
		if requests.Add(1) > 5 {
			return false
		}
		from := 0
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(table)-1, len(table)))
		status := http.StatusPartialContent
		if from == 0 {
			status = http.StatusOK
		}
		return hubtest.Cut(w, status, table[from:], 1000)
	})
	u := newUser(t, f)
	dir, err := u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, dir, "runs/llm.parquet", table)
	_, atStore := f.Requests()
	if len(atStore) != 6 || atStore[5].Ranges != "bytes=5000-" {
		t.Errorf("the storage was asked %v", atStore)
	}

	requests.Store(-1000)
	u = newUser(t, f)
	f.Forget()
	_, err = u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, nil)
	if !errors.Is(err, hub.ErrUnreachable) || !strings.Contains(err.Error(), f.StorageURL) || !strings.Contains(err.Error(), "the connection was cut off") {
		t.Errorf("the error is %v", err)
	}
	if _, atStore = f.Requests(); len(atStore) != 6 {
		t.Errorf("the storage was asked %d times, want 6", len(atStore))
	}
	if parts, want := u.parts(t), map[string]int64{hubtest.SHA256(table) + ".part": 6000}; !maps.Equal(parts, want) {
		t.Errorf("the parts are %v, want %v", parts, want)
	}
}

// A storage that sends all of a file each time and is cut each time is left after five
// further attempts, though each brings more than nothing.
func TestCutAndNoRanges(t *testing.T) {
	f := newBenchmark(t)
	f.On(nil, func(w http.ResponseWriter, _ *http.Request) bool {
		return hubtest.Cut(w, http.StatusOK, table, len(table)-1)
	})
	if _, err := newUser(t, f).repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, nil); !errors.Is(err, hub.ErrUnreachable) {
		t.Errorf("the error is %v", err)
	}
	if _, atStore := f.Requests(); len(atStore) > 7 {
		t.Errorf("the storage was asked %d times", len(atStore))
	}
}

// An expired link into the storage is asked of the hub anew.
func TestExpiredLink(t *testing.T) {
	f := newBenchmark(t)
	var requests atomic.Int64
	f.On(nil, func(w http.ResponseWriter, _ *http.Request) bool {
		if requests.Add(1) > 1 {
			return false
		}
		http.Error(w, "<Error>expired</Error>", http.StatusForbidden)
		return true
	})
	u := newUser(t, f)
	dir, err := u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, dir, "runs/llm.parquet", table)
}

// Bytes other than those announced never get the file's name, whatever is wrong with
// them, and are not kept to be continued.
func TestWrongBytes(t *testing.T) {
	other := bytes.Clone(table)
	other[len(other)-1] ^= 1
	for name, c := range map[string]struct {
		path   string
		answer func(http.ResponseWriter, *http.Request) bool
		kind   error
	}{
		"LFS": {"runs/llm.parquet", func(w http.ResponseWriter, _ *http.Request) bool { w.Write(other); return true }, hub.ErrChecksum},
		"git": {"llm/a b/results.json", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet {
				return false
			}
			w.Write(other[:len(results)])
			return true
		}, hub.ErrChecksum},
		"too long": {"runs/llm.parquet", func(w http.ResponseWriter, _ *http.Request) bool {
			w.Write(append(bytes.Clone(table), 'x'))
			return true
		}, hub.ErrChecksum},
		"endless": {"runs/llm.parquet", func(w http.ResponseWriter, _ *http.Request) bool {
			for {
				if _, err := w.Write(table); err != nil {
					return true
				}
			}
		}, hub.ErrChecksum},
		"encoded": {"runs/llm.parquet", func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(table)
			return true
		}, hub.ErrAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			f := newBenchmark(t)
			f.On(nil, c.answer)
			if name == "git" {
				f.On(c.answer, nil)
			}
			u := newUser(t, f)
			_, err := u.repo(t).Fetch(t.Context(), []string{c.path}, nil)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), "http://") {
				t.Errorf("the error is %v, want %v", err, c.kind)
			}
			if _, err := os.Stat(u.own("snapshots", commitA, c.path)); !os.IsNotExist(err) {
				t.Errorf("the file is there: %v", err)
			}
			for name, size := range u.parts(t) {
				if size != 0 {
					t.Errorf("%s has %d bytes", name, size)
				}
			}
		})
	}
}

// What the hub says of a file must be what it needs to be verified.
func TestMetadata(t *testing.T) {
	good := map[string]string{"X-Repo-Commit": commitA, "ETag": `"` + hubtest.Blob(results) + `"`, "Content-Length": strconv.Itoa(len(results))}
	for name, c := range map[string]struct{ header, value, want string }{
		"no commit":   {"X-Repo-Commit", "", "X-Repo-Commit"},
		"bad commit":  {"X-Repo-Commit", "../../etc", `"../../etc"`},
		"no checksum": {"ETag", `"abc"`, "cannot be verified"},
		"no size":     {"X-Linked-Size", "many", `"many"`},
		"minus":       {"X-Linked-Size", "-1", `"-1"`},
	} {
		t.Run(name, func(t *testing.T) {
			f := newBenchmark(t)
			f.On(func(w http.ResponseWriter, _ *http.Request) bool {
				for header, value := range good {
					w.Header().Set(header, value)
				}
				w.Header().Set(c.header, c.value)
				return true
			}, nil)
			u := newUser(t, f)
			_, err := u.repo(t).Fetch(t.Context(), []string{"llm/a b/results.json"}, nil)
			if !errors.Is(err, hub.ErrAnswer) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, want it with %s", err, c.want)
			}
		})
	}
	// A weak tag, as proxies make it, has the same checksum in it.
	f := newBenchmark(t)
	f.On(func(w http.ResponseWriter, _ *http.Request) bool {
		for header, value := range good {
			w.Header().Set(header, value)
		}
		w.Header().Set("ETag", "W/"+good["ETag"])
		w.Write(results)
		return true
	}, nil)
	dir, err := newUser(t, f).repo(t).Fetch(t.Context(), []string{"llm/a b/results.json"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, dir, "llm/a b/results.json", results)
}

// A transfer that stands still is ended and continued.
func TestStalled(t *testing.T) {
	f := newBenchmark(t)
	var requests atomic.Int64
	f.On(nil, func(w http.ResponseWriter, r *http.Request) bool {
		switch requests.Add(1) {
		case 1: // no answer
		case 2: // no bytes
			w.(http.Flusher).Flush()
		case 3: // no end
			w.Write(table[:1000])
			w.(http.Flusher).Flush()
		default:
			return false
		}
		<-r.Context().Done()
		return true
	})
	u := newUser(t, f, func(cfg *hub.Config) { cfg.StallTimeout = 300 * time.Millisecond })
	dir, err := u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, dir, "runs/llm.parquet", table)
	if strings.Count(u.log.String(), "nothing came for too long (300ms)") != 3 {
		t.Errorf("the log is %s", u.log)
	}
}

// The download of a program that was killed is continued by the next, which need not
// wait for its lock.
func TestKilled(t *testing.T) {
	const inChild = "G2GTEST_HUB_ENDPOINT"
	half := len(table) / 2
	if endpoint := os.Getenv(inChild); endpoint != "" {
		client, err := hub.New(hub.Config{Endpoint: endpoint, Dir: os.Getenv("G2GTEST_HUB_DIR")})
		if err != nil {
			t.Fatal(err)
		}
		repo, err := client.Repo(dataset, "")
		if err != nil {
			t.Fatal(err)
		}
		_, err = repo.Fetch(t.Context(), []string{"runs/llm.parquet"}, func(p hub.Progress) {
			if p.DoneBytes == int64(half) {
				fmt.Fprintln(os.Stdout, "half of it is here")
			}
		})
		t.Fatal("still alive:", err)
	}
	f := newBenchmark(t)
	f.On(nil, func(w http.ResponseWriter, r *http.Request) bool {
		w.Write(table[:half])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	})
	u := newUser(t, f)
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilled$")
	child.Env = append(os.Environ(), inChild+"="+f.URL, "G2GTEST_HUB_DIR="+u.dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); !strings.HasPrefix(line, "half") {
		t.Errorf("the child says %q, %v", line, err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = child.Wait() // that it was killed is no news
	f.On(nil, nil)
	f.Forget()
	dir, err := u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, dir, "runs/llm.parquet", table)
	if _, atStore := f.Requests(); len(atStore) != 1 || atStore[0].Ranges != fmt.Sprintf("bytes=%d-", half) {
		t.Errorf("the storage was asked %v", atStore)
	}
	if waits := u.waited(); len(waits) > 0 {
		t.Errorf("waited %v", waits)
	}
}
