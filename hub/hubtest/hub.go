// Package hubtest has a hub for tests of those who get files from one.
package hubtest

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
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Commit is that of main at first.
const Commit = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// content is what a file of the fake hub has.
type content struct {
	data []byte
	lfs  bool // kept in the storage, else by the hub itself
}

// Request is one that a server got.
type Request struct{ Method, Path, Auth, Ranges string }

// Hub answers as the hub does, as far as one data set is read: files in LFS by a
// redirect to a storage server, others by one to a path of its own. It does not look at
// tokens. Its methods may be called from any goroutine.
type Hub struct {
	URL, StorageURL string

	dataset      string
	hub, storage *httptest.Server

	mu      sync.Mutex
	main    string                        // the commit of main
	commits map[string]map[string]content // by commit and path
	atHub   []Request
	atStore []Request
	// onHub and onStore may answer a request in the server's place.
	onHub, onStore func(w http.ResponseWriter, r *http.Request) (answered bool)
}

// New is a hub that has the data set, with main at [Commit] and no files.
func New(t testing.TB, dataset string) *Hub {
	f := &Hub{dataset: dataset, main: Commit, commits: map[string]map[string]content{Commit: {}}}
	f.hub = httptest.NewServer(http.HandlerFunc(f.ServeHub))
	f.storage = httptest.NewServer(http.HandlerFunc(f.serveStorage))
	t.Cleanup(f.hub.Close)
	t.Cleanup(f.storage.Close)
	f.URL, f.StorageURL = f.hub.URL, f.storage.URL
	return f
}

// Put adds a file to a commit.
func (f *Hub) Put(commit, path string, data []byte, lfs bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.commits[commit] == nil {
		f.commits[commit] = map[string]content{}
	}
	f.commits[commit][path] = content{data, lfs}
}

// Content is what a file has.
func (f *Hub) Content(commit, path string) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.commits[commit][path].data
}

// Size is how many bytes a file has, 0 if there is none.
func (f *Hub) Size(commit, path string) int { return len(f.Content(commit, path)) }

// On replaces the answers of the hub and the storage; nil is their own.
func (f *Hub) On(hub, store func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onHub, f.onStore = hub, store
}

// Move has main be another commit.
func (f *Hub) Move(commit string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.main = commit
}

// Close ends the hub before the test does.
func (f *Hub) Close() { f.hub.Close() }

// Requests are those so far at the hub and the storage.
func (f *Hub) Requests() (hub, store []Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.atHub), slices.Clone(f.atStore)
}

// Forget has [Hub.Requests] begin anew.
func (f *Hub) Forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.atHub, f.atStore = nil, nil
}

// SHA256 is the sum that the hub has of a file in LFS, in hex.
func SHA256(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }

// Blob is what git names a file, in hex.
func Blob(data []byte) string {
	return fmt.Sprintf("%x", sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(data)), data...)))
}

// Fail answers as the hub does when it refuses, and is true.
func Fail(w http.ResponseWriter, status int, code, message string) bool {
	if code != "" {
		w.Header().Set("X-Error-Code", code)
	}
	w.Header().Set("X-Error-Message", message)
	http.Error(w, message, status)
	return true
}

// Cut sends the header of a whole answer and breaks the connection after some bytes. It
// does not return.
func Cut(w http.ResponseWriter, status int, data []byte, after int) bool {
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, _ = w.Write(data[:after])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler) //nolint:forbidigo // this is how a handler breaks off
}

// ServeHub answers a request to the hub.
func (f *Hub) ServeHub(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.atHub = append(f.atHub, Request{r.Method, r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Range")})
	on := f.onHub
	f.mu.Unlock()
	if on != nil && on(w, r) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w.Header().Set("Ratelimit", `"resolvers";r=4999;t=300`)
	kept, isKept := strings.CutPrefix(r.URL.Path, "/api/resolve-cache/datasets/"+f.dataset+"/")
	api, isAPI := strings.CutPrefix(r.URL.Path, "/api/datasets/"+f.dataset+"/")
	file, isFile := strings.CutPrefix(r.URL.Path, "/datasets/"+f.dataset+"/resolve/")
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
		Fail(w, http.StatusUnauthorized, "", "Invalid username or password.")
	}
}

func (f *Hub) commitOf(revision string) string {
	if revision == "main" {
		return f.main
	}
	return revision
}

func (f *Hub) serveFile(w http.ResponseWriter, r *http.Request, revision, path string, kept bool) {
	commit := f.commitOf(revision)
	files, ok := f.commits[commit]
	if !ok {
		Fail(w, http.StatusNotFound, "RevisionNotFound", "Invalid rev id: "+revision)
		return
	}
	w.Header().Set("X-Repo-Commit", commit)
	file, ok := files[path]
	switch {
	case !ok:
		Fail(w, http.StatusNotFound, "EntryNotFound", "Entry not found")
	case file.lfs:
		w.Header().Set("X-Linked-Size", strconv.Itoa(len(file.data)))
		w.Header().Set("X-Linked-Etag", `"`+SHA256(file.data)+`"`)
		w.Header().Set("ETag", `"0123"`)
		w.Header().Set("X-Xet-Hash", "feed")
		target := f.storage.URL + "/repos/" + commit + "/" + path + "?X-Amz-Signature=SIGNATURE"
		http.Redirect(w, r, target, http.StatusFound)
	case !kept:
		// The real one does so for what is not in LFS.
		http.Redirect(w, r, "/api/resolve-cache/datasets/"+f.dataset+"/"+commit+"/"+path, http.StatusTemporaryRedirect)
	case r.Header.Get("Accept-Encoding") != "identity":
		w.Header().Set("ETag", `W/"`+Blob(file.data)+`"`)
		w.Header().Set("Content-Encoding", "gzip")
		zipped := gzip.NewWriter(w)
		_, _ = zipped.Write(file.data) // a client may be gone
		_ = zipped.Close()
	default:
		w.Header().Set("ETag", `"`+Blob(file.data)+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file.data))
	}
}

// pageSize is how many entries a page of a listing has.
const pageSize = 2

func (f *Hub) serveAPI(w http.ResponseWriter, r *http.Request, asked string) {
	kind, rest, _ := strings.Cut(asked, "/")
	revision, folder, _ := strings.Cut(rest, "/")
	commit := f.commitOf(revision)
	files, ok := f.commits[commit]
	if !ok {
		Fail(w, http.StatusNotFound, "RevisionNotFound", "Invalid rev id: "+revision)
		return
	}
	if kind == "revision" {
		_ = json.NewEncoder(w).Encode(map[string]any{"id": f.dataset, "sha": commit})
		return
	}
	type entry map[string]any
	var entries []entry
	for name, file := range files {
		if folder != "" && !strings.HasPrefix(name, folder+"/") {
			continue
		}
		e := entry{"type": "file", "oid": Blob(file.data), "size": len(file.data), "path": name}
		if file.lfs {
			e["lfs"] = map[string]any{"oid": SHA256(file.data), "size": len(file.data), "pointerSize": 134}
		}
		entries = append(entries, e, entry{"type": "directory", "oid": commit, "size": 0, "path": path.Dir(name)})
	}
	if len(entries) == 0 {
		Fail(w, http.StatusNotFound, "EntryNotFound", folder+" does not exist on \""+revision+"\"")
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
	_ = json.NewEncoder(w).Encode(entries[start:end])
}

func (f *Hub) serveStorage(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.atStore = append(f.atStore, Request{r.Method, r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Range")})
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
func (f *Hub) stored(r *http.Request) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	commit, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/repos/"), "/")
	return f.commits[commit][path].data
}
