package hub

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// Repo is a data set at one revision. From the first commit that is seen on, all
// files are of that commit. It is used by one goroutine at a time.
type Repo struct {
	client         *Client
	name, revision string
	commit         string // empty until it is known
}

// Repo returns the data set of a name such as ml-energy/benchmark-v3 at a branch, tag
// or commit; empty is main. The error wraps [datacenter.ErrInvalidInput].
func (c *Client) Repo(name, revision string) (*Repo, error) {
	part := regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$`)
	org, repo, _ := strings.Cut(name, "/")
	// With -- in a name, two data sets could have one folder; the hub has none such.
	if !part.MatchString(org) || !part.MatchString(repo) || strings.Contains(name, "--") {
		return nil, fmt.Errorf("%w: %s is no name of a data set; want ORGANIZATION/NAME", datacenter.ErrInvalidInput, excerpt.Quote(name, maxQuoted))
	}
	revision = cmp.Or(revision, "main")
	if err := checkPath(revision); err != nil {
		return nil, fmt.Errorf("%w: the revision %w; want a branch, a tag or a commit", datacenter.ErrInvalidInput, err)
	}
	r := &Repo{client: c, name: name, revision: revision}
	if isCommit(revision) {
		r.commit = revision
	}
	return r, nil
}

// Commit is the commit that files are taken from, empty until one was seen.
func (r *Repo) Commit() string { return r.commit }

// at is the commit, or the revision as long as there is none.
func (r *Repo) at() string { return cmp.Or(r.commit, r.revision) }

// isCommit reports whether text is a whole commit hash.
func isCommit(text string) bool { return len(text) == 40 && isHex(text) }

func isHex(text string) bool { return strings.Trim(text, "0123456789abcdef") == "" }

// maxPathBytes bounds the path of a file in a data set.
const maxPathBytes = 1024

// checkPath returns what is wrong with a path within a data set, as what follows a
// noun. One that is good stays below the directory that it is joined to.
func checkPath(p string) error {
	switch {
	case p == "" || len(p) > maxPathBytes:
		return fmt.Errorf("%s has %d bytes, want 1 to %d", excerpt.Quote(p, maxQuoted), len(p), maxPathBytes)
	case p != path.Clean(p) || p == "." || !filepath.IsLocal(filepath.FromSlash(p)) || strings.Contains(p, `\`):
		return fmt.Errorf("%s is no plain path within the data set", excerpt.Quote(p, maxQuoted))
	case strings.ContainsFunc(p, unicode.IsControl):
		return fmt.Errorf("%s has a control character", excerpt.Quote(p, maxQuoted))
	}
	return nil
}

// url is that of the endpoint's path, of which each element is escaped.
func (r *Repo) url(elements ...string) *url.URL {
	raw := r.client.endpoint.EscapedPath()
	for _, element := range elements {
		raw += "/" + url.PathEscape(element)
	}
	u := *r.client.endpoint
	u.Path, _ = url.PathUnescape(raw) // what was escaped can be unescaped
	u.RawPath = raw
	return &u
}

// api is the URL of what the hub's API says of the data set.
func (r *Repo) api(elements ...string) *url.URL {
	org, repo, _ := strings.Cut(r.name, "/")
	return r.url(append([]string{"api", "datasets", org, repo}, elements...)...)
}

// resolve is the URL of a file.
func (r *Repo) resolve(file string) *url.URL {
	org, repo, _ := strings.Cut(r.name, "/")
	return r.url(append([]string{"datasets", org, repo, "resolve", r.at()}, strings.Split(file, "/")...)...)
}

// File is a file of a data set.
type File struct {
	Path      string // with slashes, from the data set's top
	SizeBytes int64
}

const (
	// maxFiles bounds a listing, maxPages its pages: the hub gives 1000 files a page.
	maxFiles = 200_000
	maxPages = 2_000
)

// List returns the files in a folder and below, in the hub's order; an empty folder is
// the whole data set. Offline, and if the hub cannot be reached, it is what a cache
// has, which may be a part: the log is told so.
//
// The error is an [*Error] or that of ctx, or wraps [datacenter.ErrInvalidInput].
func (r *Repo) List(ctx context.Context, folder string) ([]File, error) {
	if folder != "" {
		if err := checkPath(folder); err != nil {
			return nil, fmt.Errorf("%w: the folder %w", datacenter.ErrInvalidInput, err)
		}
	}
	if r.client.cfg.Offline {
		if files := r.listCached(folder); len(files) > 0 {
			return files, nil
		}
		return nil, r.offline("no cache has a file of " + excerpt.Quote(folder, maxQuoted))
	}
	files, err := r.list(ctx, folder)
	if errors.Is(err, ErrUnreachable) && ctx.Err() == nil {
		if cached := r.listCached(folder); len(cached) > 0 {
			r.client.cfg.Log.Warn().Err(err).Msg("the hub cannot be reached; what its cache has is used")
			return cached, nil
		}
	}
	return files, err
}

// offline is the error of what the caches lack.
func (r *Repo) offline(detail string) *Error {
	return &Error{Where: r.resolve("").String(), kind: ErrOffline,
		detail: detail + "; looked into " + excerpt.Printable(strings.Join(r.roots(), ", "), 2*maxQuoted),
		advice: "unset HF_HUB_OFFLINE to download"}
}

func (r *Repo) list(ctx context.Context, folder string) ([]File, error) {
	if err := r.findCommit(ctx); err != nil {
		return nil, err
	}
	elements := []string{"tree", r.commit}
	if folder != "" {
		elements = append(elements, strings.Split(folder, "/")...)
	}
	next := r.api(elements...)
	next.RawQuery = "recursive=true&expand=false"
	var files []File
	for range maxPages {
		a, err := r.get(ctx, next)
		if err != nil {
			return nil, err
		}
		if files, err = appendPage(files, a.body); err != nil {
			return nil, &Error{Where: shown(next), Status: a.StatusCode, kind: ErrAnswer, cause: err, advice: "is HF_ENDPOINT a hub?"}
		}
		link, more := nextPage(a.Header.Values("Link"))
		if !more {
			return files, nil
		}
		to, err := next.Parse(link)
		if err != nil || !r.client.isHub(to) || to.String() == next.String() {
			return nil, &Error{Where: shown(next), Status: a.StatusCode, kind: ErrAnswer,
				detail: "the next page of the listing is " + excerpt.Quote(link, maxQuoted), advice: "want another page of the hub itself"}
		}
		next = to
	}
	return nil, &Error{Where: shown(next), kind: ErrAnswer, detail: fmt.Sprintf("the listing has more than %d pages", maxPages)}
}

// get asks for something of the API and wants it there.
func (r *Repo) get(ctx context.Context, u *url.URL) (*answer, error) {
	a, err := r.client.ask(ctx, http.MethodGet, u)
	if err != nil {
		return nil, err
	}
	if a.StatusCode != http.StatusOK {
		return nil, r.refusal(a.Response, a.body)
	}
	return a, nil
}

// findCommit asks for the revision's commit, if none was seen.
func (r *Repo) findCommit(ctx context.Context) error {
	if r.commit != "" {
		return nil
	}
	u := r.api("revision", r.revision)
	a, err := r.get(ctx, u)
	if err != nil {
		return err
	}
	var info struct {
		SHA string `json:"sha"`
	}
	if err := json.Unmarshal(a.body, &info); err != nil || !isCommit(info.SHA) {
		return &Error{Where: shown(u), Status: a.StatusCode, kind: ErrAnswer, cause: err,
			detail: `it has no commit as its "sha"`, advice: "is HF_ENDPOINT a hub?"}
	}
	return r.pin(info.SHA)
}

// appendPage reads a page of a listing.
func appendPage(files []File, page []byte) ([]File, error) {
	var entries []struct {
		Type string `json:"type"`
		Path string `json:"path"`
		Size int64  `json:"size"`
	}
	if err := json.Unmarshal(page, &entries); err != nil {
		return nil, err
	}
	for i, entry := range entries {
		if entry.Type != "file" {
			continue
		}
		if err := checkPath(entry.Path); err != nil {
			return nil, fmt.Errorf("entry %d: the path %w", i, err)
		}
		if entry.Size < 0 || len(files) == maxFiles {
			return nil, fmt.Errorf("entry %d: a size of %d, or more than %d files", i, entry.Size, maxFiles)
		}
		files = append(files, File{entry.Path, entry.Size})
	}
	return files, nil
}

// nextPage is the target of the link to the next page, among headers such as
// <https://…>; rel="next".
func nextPage(links []string) (target string, ok bool) {
	next := regexp.MustCompile(`<([^>]*)>\s*(?:;[^,<]*)?;\s*rel="?next"?\s*(?:[;,]|$)`)
	for _, link := range links {
		if found := next.FindStringSubmatch(link); found != nil {
			return found[1], true
		}
	}
	return "", false
}

// remote is what the hub says of a file.
type remote struct {
	path string
	size int64
	sum  string // SHA-256 of the content, or SHA-1 of the git blob, in hex
	url  *url.URL
}

// describe asks for size and checksum of a file, and pins the commit.
func (r *Repo) describe(ctx context.Context, file string) (remote, error) {
	u := r.resolve(file)
	a, err := r.client.ask(ctx, http.MethodHead, u)
	if err != nil {
		return remote{}, err
	}
	if a.StatusCode != http.StatusOK && !isRedirect(a.StatusCode) {
		return remote{}, r.refusal(a.Response, nil)
	}
	flawed := func(format string, args ...any) (remote, error) {
		return remote{}, &Error{Where: shown(u), Status: a.StatusCode, kind: ErrAnswer,
			detail: fmt.Sprintf(format, args...), advice: "is HF_ENDPOINT a hub, and does a proxy change its headers?"}
	}
	commit := a.header("X-Repo-Commit")
	if !isCommit(commit) {
		return flawed("its X-Repo-Commit is %s, want a commit", excerpt.Quote(commit, maxQuoted))
	}
	if r.commit != "" && commit != r.commit {
		return flawed("it answers with the commit %s; commit %s was asked for", commit, r.commit)
	}
	sum, sizeText := checksum(a.header("X-Linked-Etag")), a.header("X-Linked-Size")
	if sum == "" && !isRedirect(a.StatusCode) {
		sum = checksum(a.Header.Get("ETag"))
	}
	if sizeText == "" && !isRedirect(a.StatusCode) {
		sizeText = a.Header.Get("Content-Length")
	}
	if sum == "" {
		return flawed("neither its X-Linked-Etag nor its ETag is a checksum, so that the file cannot be verified")
	}
	size, err := strconv.ParseInt(sizeText, 10, 64)
	if err != nil || size < 0 {
		return flawed("it says that the size is %s, want bytes", excerpt.Quote(sizeText, maxQuoted))
	}
	if err := r.pin(commit); err != nil {
		return remote{}, err
	}
	return remote{path: file, size: size, sum: sum, url: r.resolve(file)}, nil
}

// checksum is an entity tag that is a SHA-256 or SHA-1; empty for another.
func checksum(etag string) string {
	sum := strings.ToLower(strings.Trim(strings.TrimPrefix(strings.TrimSpace(etag), "W/"), `"`))
	if isHex(sum) && (len(sum) == 64 || len(sum) == 40) {
		return sum
	}
	return ""
}
