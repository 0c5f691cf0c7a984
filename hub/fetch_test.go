package hub_test

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/g2g-agent/g2g-agent/hub"
	"github.com/g2g-agent/g2g-agent/hub/hubtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	table   = pattern(3<<20 + 5)
	results = pattern(700)
)

// newBenchmark is a hub with two files, one of them in LFS.
func newBenchmark(t *testing.T) *hubtest.Hub {
	f := hubtest.New(t, dataset)
	f.Put(commitA, "runs/llm.parquet", table, true)
	f.Put(commitA, "llm/a b/results.json", results, false)
	return f
}

// Files come from LFS and from the hub itself, are complete and verified, and
// lie below the commit. Progress ends with all bytes. Nothing else stays.
func TestFetch(t *testing.T) {
	f := newBenchmark(t)
	f.Put(commitA, "zero.json", nil, false)
	u := newUser(t, f)
	var last hub.Progress
	calls := 0
	dir, err := u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet", "llm/a b/results.json", "zero.json", "runs/llm.parquet"}, func(p hub.Progress) {
		if p.DoneBytes < last.DoneBytes || p.TotalBytes != int64(len(table)+len(results)) {
			t.Errorf("progress went from %+v to %+v", last, p)
		}
		last = p
		calls++
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := u.own("snapshots", commitA); dir != want {
		t.Errorf("the directory is %s, want %s", dir, want)
	}
	wantFile(t, dir, "runs/llm.parquet", table)
	wantFile(t, dir, "llm/a b/results.json", results)
	wantFile(t, dir, "zero.json", nil)
	if parts := u.parts(t); len(parts) != 0 {
		t.Errorf("left behind: %v", parts)
	}
	if last.DoneBytes != last.TotalBytes || last.DoneFiles != 3 || last.TotalFiles != 3 || calls < 10 {
		t.Errorf("the last of %d reports of progress is %+v", calls, last)
	}
	atHub, _ := f.Requests()
	for _, request := range atHub {
		if request.Method == http.MethodGet && !strings.Contains(request.Path, commitA) {
			t.Errorf("asked for %s, which is of no certain commit", request.Path)
		}
	}
	if ref, err := os.ReadFile(u.own("refs", "main")); err != nil || string(ref) != commitA {
		t.Errorf("refs/main is %q, %v", ref, err)
	}
}

// What is complete is used again without a request, by another program, also
// after the hub has a newer commit.
func TestFetchAgainAsksNobody(t *testing.T) {
	f := newBenchmark(t)
	dir := t.TempDir()
	in := func(cfg *hub.Config) { cfg.Dir = dir }
	if _, err := newUser(t, f, in).repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, nil); err != nil {
		t.Fatal(err)
	}
	f.Put(commitB, "runs/llm.parquet", results, true)
	f.Move(commitB)
	f.Forget()
	var last hub.Progress
	got, err := newUser(t, f, in).repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, func(p hub.Progress) { last = p })
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, got, "runs/llm.parquet", table)
	if atHub, atStore := f.Requests(); len(atHub)+len(atStore) > 0 {
		t.Errorf("asked: %v %v", atHub, atStore)
	}
	if last.DoneBytes != int64(len(table)) || last.TotalBytes != last.DoneBytes {
		t.Errorf("progress is %+v", last)
	}
}

// The token goes to the hub with each request, to the storage with none, and into no
// log and no message. Signatures of the storage's links stay out of them, too.
func TestTokenGoesToTheHubAlone(t *testing.T) {
	f := newBenchmark(t)
	var requests atomic.Int64
	f.On(nil, func(w http.ResponseWriter, _ *http.Request) bool {
		if requests.Add(1)%2 == 0 {
			panic(http.ErrAbortHandler)
		}
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return true
	})
	u := newUser(t, f)
	_, err := u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet", "llm/a b/results.json"}, nil)
	atHub, atStore := f.Requests()
	for _, request := range atHub {
		if request.Auth != "Bearer "+token {
			t.Errorf("the hub got %+v", request)
		}
	}
	for _, request := range atStore {
		if request.Auth != "" {
			t.Errorf("the storage got %+v", request)
		}
	}
	if len(atHub) == 0 || len(atStore) == 0 {
		t.Fatal("nothing was asked")
	}
	if err == nil || !strings.Contains(err.Error(), f.StorageURL) || !strings.Contains(u.log.String(), f.StorageURL) {
		t.Errorf("the error is %v, the log %s; want both to name %s", err, u.log, f.StorageURL)
	}
	if said := err.Error() + u.log.String(); strings.Contains(said, "SECRET") || strings.Contains(said, "SIGNATURE") {
		t.Errorf("log and error are %s", said)
	}
}

// A storage that does not answer is named without its link's signature.
func TestNoSignatureInErrors(t *testing.T) {
	f := newBenchmark(t)
	f.On(nil, func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
	u := newUser(t, f)
	_, err := u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, nil)
	if !errors.Is(err, hub.ErrUnreachable) || !strings.Contains(err.Error(), "/resolve/"+commitA+"/runs/llm.parquet: ") {
		t.Errorf("the error is %v", err)
	}
	if said := err.Error() + u.log.String(); strings.Contains(said, "SIGNATURE") || strings.Contains(said, "SECRET") {
		t.Errorf("error and log are %s", said)
	}
}

// A redirect from https to http is not followed, with the token or without.
func TestNoRedirectToHTTP(t *testing.T) {
	f := newBenchmark(t)
	secure := httptest.NewTLSServer(http.HandlerFunc(f.ServeHub))
	t.Cleanup(secure.Close)
	u := newUser(t, f, func(cfg *hub.Config) {
		cfg.Endpoint = secure.URL
		cfg.Transport = secure.Client().Transport
	})
	t.Cleanup(secure.Client().CloseIdleConnections)
	_, err := u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, nil)
	if !errors.Is(err, hub.ErrAnswer) || !strings.Contains(err.Error(), "from https to "+f.StorageURL) {
		t.Errorf("the error is %v", err)
	}
	if _, atStore := f.Requests(); len(atStore) > 0 {
		t.Errorf("the storage got %v", atStore)
	}
}

// A data set that was renamed is found by the hub's own redirect, which keeps the
// token; one back to the hub from elsewhere does not get it again.
func TestRedirects(t *testing.T) {
	f := newBenchmark(t)
	f.On(func(w http.ResponseWriter, r *http.Request) bool {
		if rest, old := strings.CutPrefix(r.URL.Path, "/datasets/old/name/"); old {
			http.Redirect(w, r, f.URL+"/datasets/"+dataset+"/"+rest, http.StatusMovedPermanently)
			return true
		}
		if r.URL.Path == "/bounced" {
			w.Write(table)
			return true
		}
		return false
	}, func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, f.URL+"/bounced", http.StatusFound)
		return true
	})
	repo, err := newUser(t, f).Repo("old/name", "main")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := repo.Fetch(t.Context(), []string{"runs/llm.parquet"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, dir, "runs/llm.parquet", table)
	atHub, _ := f.Requests()
	for _, request := range atHub {
		if wants := request.Path != "/bounced"; wants != (request.Auth != "") {
			t.Errorf("the hub got %+v", request)
		}
	}
}

// All files are of the first commit that was seen, also when the branch moves.
func TestPinnedToOneCommit(t *testing.T) {
	f := newBenchmark(t)
	u := newUser(t, f)
	repo := u.repo(t)
	if _, err := repo.List(t.Context(), "runs"); err != nil {
		t.Fatal(err)
	}
	f.Put(commitB, "runs/llm.parquet", results, true)
	f.Move(commitB)
	dir, err := repo.Fetch(t.Context(), []string{"runs/llm.parquet"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, dir, "runs/llm.parquet", table)
	if repo.Commit() != commitA {
		t.Errorf("the commit is %s, want %s", repo.Commit(), commitA)
	}
}

// A hub that answers with another commit than the one asked for is not believed.
func TestOtherCommitIsRefused(t *testing.T) {
	f := newBenchmark(t)
	f.On(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("X-Repo-Commit", commitB)
		w.Header().Set("ETag", `"`+hubtest.SHA256(table)+`"`)
		return true
	}, nil)
	repo, err := newUser(t, f).Repo(dataset, commitA)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Fetch(t.Context(), []string{"runs/llm.parquet"}, nil); !errors.Is(err, hub.ErrAnswer) || !strings.Contains(err.Error(), commitB) {
		t.Errorf("the error is %v", err)
	}
}

// Listings go on over pages and have the files alone, with sizes.
func TestList(t *testing.T) {
	f := newBenchmark(t)
	for _, name := range []string{"data/b.parquet", "data/a.parquet", "data/sub/c.parquet"} {
		f.Put(commitA, name, pattern(len(name)), true)
	}
	u := newUser(t, f)
	files, err := u.repo(t).List(t.Context(), "data")
	want := []hub.File{{"data/a.parquet", 14}, {"data/b.parquet", 14}, {"data/sub/c.parquet", 18}}
	if err != nil || !slices.Equal(files, want) {
		t.Errorf("the listing is %v, %v; want %v", files, err, want)
	}
	if files, err = u.repo(t).List(t.Context(), ""); err != nil || len(files) != 5 {
		t.Errorf("the listing of all is %v, %v", files, err)
	}
	if _, err = u.repo(t).List(t.Context(), "nothing"); !errors.Is(err, hub.ErrEntryNotFound) {
		t.Errorf("the error is %v", err)
	}
}

// Eight files are under way at once, and never more: while they are asked about, and
// while they are downloaded.
func TestParallel(t *testing.T) {
	f := hubtest.New(t, dataset)
	const files, parallel = 24, 8
	var names []string
	for i := range files {
		name := "f" + string(rune('a'+i))
		names = append(names, name)
		f.Put(commitA, name, pattern(1000+i), true)
	}
	u := newUser(t, f)
	// crowd holds whoever comes until there are eight.
	crowd := func() func() {
		var mu sync.Mutex
		running := 0
		eight := make(chan struct{})
		return func() {
			mu.Lock()
			if running++; running > parallel {
				t.Errorf("%d are under way at once", running)
			}
			if running == parallel {
				if open := len(u.parts(t)); open > parallel {
					t.Errorf("%d files are begun at once", open)
				}
				select {
				case <-eight:
				default:
					close(eight)
				}
			}
			mu.Unlock()
			<-eight
			mu.Lock()
			running--
			mu.Unlock()
		}
	}
	asked, sent := crowd(), crowd()
	f.On(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead {
			asked()
		}
		return false
	}, func(http.ResponseWriter, *http.Request) bool {
		sent()
		return false
	})
	repo, err := u.Repo(dataset, commitA)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Fetch(t.Context(), names, nil); err != nil {
		t.Fatal(err)
	}
}

// Two programs that want the same files of one directory get them whole, and each
// file is downloaded once.
func TestTwoPrograms(t *testing.T) {
	f := newBenchmark(t)
	dir := t.TempDir()
	both := make(chan struct{}, 2)
	f.On(nil, func(http.ResponseWriter, *http.Request) bool {
		// The first is under way while the second arrives: its lock is met.
		<-both
		return false
	})
	var programs sync.WaitGroup
	for range 2 {
		u := newUser(t, f, func(cfg *hub.Config) { cfg.Dir = dir })
		repo := u.repo(t)
		u.Shorten(func(d time.Duration) time.Duration {
			select {
			case both <- struct{}{}: // somebody waits for the lock
			default:
			}
			return min(d, time.Millisecond)
		})
		programs.Go(func() {
			got, err := repo.Fetch(t.Context(), []string{"runs/llm.parquet"}, nil)
			if err != nil {
				t.Error(err)
			}
			wantFile(t, got, "runs/llm.parquet", table)
		})
	}
	programs.Wait()
	if _, atStore := f.Requests(); len(atStore) != 1 {
		t.Errorf("the storage was asked %v", atStore)
	}
}

// A disk without room is known before anything is downloaded, and met while writing
// leaves a part that is continued once there is room.
func TestDiskFull(t *testing.T) {
	f := newBenchmark(t)
	dir := t.TempDir()
	in := func(cfg *hub.Config) { cfg.Dir = dir }
	u := newUser(t, f, in)
	u.SetFree(1 << 20)
	_, err := u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, nil)
	if !errors.Is(err, hub.ErrDiskFull) || !strings.Contains(err.Error(), "need 3.1 MB more, 1.0 MB are free") || !strings.Contains(err.Error(), dir) {
		t.Errorf("the error is %v", err)
	}
	if _, atStore := f.Requests(); len(atStore) > 0 {
		t.Errorf("the storage was asked %v", atStore)
	}
	room := 1 << 20
	u.SetFree(1 << 40)
	u.SetWrite(func(file *os.File, data []byte) (int, error) {
		n, err := file.Write(data[:min(len(data), room)])
		if room -= n; err == nil && n < len(data) {
			err = &fs.PathError{Op: "write", Path: file.Name(), Err: syscall.ENOSPC}
		}
		return n, err
	})
	if _, err = u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, nil); !errors.Is(err, hub.ErrDiskFull) {
		t.Errorf("the error is %v", err)
	}
	if parts, want := u.parts(t), map[string]int64{hubtest.SHA256(table) + ".part": 1 << 20}; !maps.Equal(parts, want) {
		t.Errorf("the parts are %v, want %v", parts, want)
	}
	f.Forget()
	u = newUser(t, f, in)
	u.SetFree(uint64(len(table) - 1<<20)) // the part is there already
	got, err := u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, got, "runs/llm.parquet", table)
	if _, atStore := f.Requests(); len(atStore) != 1 || atStore[0].Ranges != "bytes=1048576-" {
		t.Errorf("the storage was asked %v", atStore)
	}
}

// A context that ends stops a download at once, its part is kept, and the next one
// goes on from there.
func TestCancel(t *testing.T) {
	f := newBenchmark(t)
	half := len(table) / 2
	f.On(nil, func(w http.ResponseWriter, r *http.Request) bool {
		w.Write(table[:half])
		w.(http.Flusher).Flush()
		<-r.Context().Done() // nothing more comes
		return true
	})
	u := newUser(t, f)
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	repo := u.repo(t)
	_, err := repo.Fetch(ctx, []string{"runs/llm.parquet"}, func(p hub.Progress) {
		if p.DoneBytes == int64(half) {
			cancel(why)
		}
	})
	if !errors.Is(err, why) {
		t.Errorf("the error is %v, want %v", err, why)
	}
	if parts, want := u.parts(t), map[string]int64{hubtest.SHA256(table) + ".part": int64(half)}; !maps.Equal(parts, want) {
		t.Errorf("the parts are %v, want %v", parts, want)
	}
	if _, err := os.Stat(u.own("snapshots", commitA, "runs/llm.parquet")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is there: %v", err)
	}
	f.On(nil, nil)
	f.Forget()
	var first hub.Progress
	dir, err := repo.Fetch(t.Context(), []string{"runs/llm.parquet"}, func(p hub.Progress) {
		if first.DoneBytes == 0 {
			first = p
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, dir, "runs/llm.parquet", table)
	if _, atStore := f.Requests(); len(atStore) != 1 || atStore[0].Ranges == "" {
		t.Errorf("the storage was asked %v", atStore)
	}
	if first.DoneBytes != int64(half) {
		t.Errorf("progress begins with %+v", first)
	}
}
