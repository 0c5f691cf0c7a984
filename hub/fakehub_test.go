package hub_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/hub"
	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/internal/logtest"
)

const (
	dataset = "ml-energy/benchmark-v3"
	token   = "hf_SECRETsecret"
	commitA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	commitB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// content is what a file of the fake hub has.
type content struct {
	data []byte
	lfs  bool // kept in the storage, else by the hub itself
}

// seen is a request that a server got.
type seen struct{ method, path, auth, ranges string }

// fakeHub answers as the hub does, as far as data sets are read: files in LFS by a
// redirect to a storage server, others by one to a path of its own.
type fakeHub struct {
	hub, storage *httptest.Server

	mu      sync.Mutex
	main    string                        // the commit of main
	commits map[string]map[string]content // by commit and path
	atHub   []seen
	atStore []seen
	// onHub and onStore may answer a request in the server's place.
	onHub, onStore func(w http.ResponseWriter, r *http.Request) (answered bool)
}

func newFakeHub(t *testing.T) *fakeHub {
	f := &fakeHub{main: commitA, commits: map[string]map[string]content{commitA: {}}}
	f.hub = httptest.NewServer(http.HandlerFunc(f.serveHub))
	f.storage = httptest.NewServer(http.HandlerFunc(f.serveStorage))
	t.Cleanup(f.hub.Close)
	t.Cleanup(f.storage.Close)
	return f
}

// put adds a file to a commit.
func (f *fakeHub) put(commit, path string, data []byte, lfs bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.commits[commit] == nil {
		f.commits[commit] = map[string]content{}
	}
	f.commits[commit][path] = content{data, lfs}
}

// on replaces the answers of the hub and the storage; nil is their own.
func (f *fakeHub) on(hub, store func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onHub, f.onStore = hub, store
}

// requests are those so far at the hub and the storage.
func (f *fakeHub) requests() (hub, store []seen) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.atHub), slices.Clone(f.atStore)
}

func (f *fakeHub) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.atHub, f.atStore = nil, nil
}

func sha256Of(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }

func blobOf(data []byte) string {
	return fmt.Sprintf("%x", sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(data)), data...)))
}

func fail(w http.ResponseWriter, status int, code, message string) bool {
	if code != "" {
		w.Header().Set("X-Error-Code", code)
	}
	w.Header().Set("X-Error-Message", message)
	http.Error(w, message, status)
	return true
}

func (f *fakeHub) serveHub(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.atHub = append(f.atHub, seen{r.Method, r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Range")})
	on := f.onHub
	f.mu.Unlock()
	if on != nil && on(w, r) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w.Header().Set("Ratelimit", `"resolvers";r=4999;t=300`)
	kept, isKept := strings.CutPrefix(r.URL.Path, "/api/resolve-cache/datasets/"+dataset+"/")
	api, isAPI := strings.CutPrefix(r.URL.Path, "/api/datasets/"+dataset+"/")
	file, isFile := strings.CutPrefix(r.URL.Path, "/datasets/"+dataset+"/resolve/")
	switch {
	case isAPI:
		f.serveAPI(w, r, api)
	case isFile, isKept:
		if isKept {
			file = kept
		}
		revision, path, _ := strings.Cut(file, "/")
		f.serveFile(w, r, revision, path, isKept)
	default:
		fail(w, http.StatusUnauthorized, "", "Invalid username or password.")
	}
}

func (f *fakeHub) commitOf(revision string) string {
	if revision == "main" {
		return f.main
	}
	return revision
}

func (f *fakeHub) serveFile(w http.ResponseWriter, r *http.Request, revision, path string, kept bool) {
	commit := f.commitOf(revision)
	files, ok := f.commits[commit]
	if !ok {
		fail(w, http.StatusNotFound, "RevisionNotFound", "Invalid rev id: "+revision)
		return
	}
	w.Header().Set("X-Repo-Commit", commit)
	file, ok := files[path]
	switch {
	case !ok:
		fail(w, http.StatusNotFound, "EntryNotFound", "Entry not found")
	case file.lfs:
		w.Header().Set("X-Linked-Size", strconv.Itoa(len(file.data)))
		w.Header().Set("X-Linked-Etag", `"`+sha256Of(file.data)+`"`)
		w.Header().Set("ETag", `"0123"`)
		w.Header().Set("X-Xet-Hash", "feed")
		target := f.storage.URL + "/repos/" + commit + "/" + path + "?X-Amz-Signature=SIGNATURE"
		http.Redirect(w, r, target, http.StatusFound)
	case !kept:
		// The real one does so for what is not in LFS.
		http.Redirect(w, r, "/api/resolve-cache/datasets/"+dataset+"/"+commit+"/"+path, http.StatusTemporaryRedirect)
	case r.Header.Get("Accept-Encoding") != "identity":
		w.Header().Set("ETag", `W/"`+blobOf(file.data)+`"`)
		w.Header().Set("Content-Encoding", "gzip")
		zipped := gzip.NewWriter(w)
		zipped.Write(file.data)
		zipped.Close()
	default:
		w.Header().Set("ETag", `"`+blobOf(file.data)+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file.data))
	}
}

// pageSize is how many entries a page of a listing has.
const pageSize = 2

func (f *fakeHub) serveAPI(w http.ResponseWriter, r *http.Request, path string) {
	kind, rest, _ := strings.Cut(path, "/")
	revision, folder, _ := strings.Cut(rest, "/")
	commit := f.commitOf(revision)
	files, ok := f.commits[commit]
	if !ok {
		fail(w, http.StatusNotFound, "RevisionNotFound", "Invalid rev id: "+revision)
		return
	}
	if kind == "revision" {
		json.NewEncoder(w).Encode(map[string]any{"id": dataset, "sha": commit})
		return
	}
	type entry map[string]any
	var entries []entry
	for name, file := range files {
		if folder != "" && !strings.HasPrefix(name, folder+"/") {
			continue
		}
		e := entry{"type": "file", "oid": blobOf(file.data), "size": len(file.data), "path": name}
		if file.lfs {
			e["lfs"] = map[string]any{"oid": sha256Of(file.data), "size": len(file.data), "pointerSize": 134}
		}
		entries = append(entries, e, entry{"type": "directory", "oid": commit, "size": 0, "path": filepath.Dir(name)})
	}
	if len(entries) == 0 {
		fail(w, http.StatusNotFound, "EntryNotFound", folder+" does not exist on \""+revision+"\"")
		return
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return strings.Compare(a["path"].(string)+a["type"].(string), b["path"].(string)+b["type"].(string))
	})
	start, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
	end := min(start+pageSize, len(entries))
	if end < len(entries) {
		query := url.Values{"cursor": {strconv.Itoa(end)}, "recursive": {"true"}}
		w.Header().Set("Link", "<"+f.hub.URL+r.URL.Path+"?"+query.Encode()+`>; rel="next"`)
	}
	json.NewEncoder(w).Encode(entries[start:end])
}

func (f *fakeHub) serveStorage(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.atStore = append(f.atStore, seen{r.Method, r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Range")})
	on := f.onStore
	f.mu.Unlock()
	if on != nil && on(w, r) {
		return
	}
	if r.URL.Query().Get("X-Amz-Signature") != "SIGNATURE" || r.Header.Get("Authorization") != "" {
		http.Error(w, "<Error>AccessDenied</Error>", http.StatusForbidden)
		return
	}
	w.Header().Set("ETag", `"storage-7"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.stored(r)))
}

// stored is the file that a request to the storage is about.
func (f *fakeHub) stored(r *http.Request) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	commit, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/repos/"), "/")
	return f.commits[commit][path].data
}

// user is someone with a client.
type user struct {
	*hub.Client
	dir string
	log *logtest.Buffer

	mu    sync.Mutex
	waits []time.Duration // that there would have been
}

// newUser has a client of the hub that never waits, with changes to its config.
func newUser(t *testing.T, f *fakeHub, change ...func(*hub.Config)) *user {
	t.Helper()
	u := &user{dir: t.TempDir(), log: &logtest.Buffer{}}
	cfg := hub.Config{Endpoint: f.hub.URL, Token: credential.Fixed(token), Dir: u.dir, Log: zerolog.New(u.log)}
	for _, c := range change {
		c(&cfg)
	}
	u.dir = cfg.Dir
	client, err := hub.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	client.Shorten(func(d time.Duration) time.Duration {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.waits = append(u.waits, d)
		return min(d, time.Millisecond)
	})
	u.Client = client
	return u
}

func (u *user) waited() []time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.waits)
}

// repo is the data set at main.
func (u *user) repo(t *testing.T) *hub.Repo {
	t.Helper()
	r, err := u.Repo(dataset, "")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// own is a folder of the data set in the user's directory.
func (u *user) own(elements ...string) string {
	return filepath.Join(append([]string{u.dir, "datasets--ml-energy--benchmark-v3"}, elements...)...)
}

// parts are the names and sizes of what is not complete.
func (u *user) parts(t *testing.T) map[string]int64 {
	t.Helper()
	parts := map[string]int64{}
	entries, err := os.ReadDir(u.own("parts"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		parts[e.Name()] = info.Size()
	}
	return parts
}

// wantFile wants a file to have the content.
func wantFile(t *testing.T, dir, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(dir, path))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s has %d bytes, error %v; want %d bytes of the hub", path, len(got), err, len(want))
	}
}

// pattern is that many bytes without a period.
func pattern(n int) []byte {
	data := make([]byte, 0, n+32)
	for sum := sha256.Sum256(strconv.AppendInt(nil, int64(n), 10)); len(data) < n; sum = sha256.Sum256(sum[:]) {
		data = append(data, sum[:]...)
	}
	return data[:n]
}
