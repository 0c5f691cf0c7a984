package hub_test

import (
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/hub"
	"github.com/g2g-agent/g2g-agent/hub/hubtest"
)

// Each way in which the hub refuses has an error of its own, which names the URL and
// what to do; what the user named wrongly is invalid input.
//
// It is long because of the table.
func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		status        int
		code, message string
		anonymous     bool
		kind          error
		invalid       bool
		want          []string // PAGE stands for the data set's
	}{
		"gated": {403, "GatedRepo", "Access to dataset is restricted", false, hub.ErrGated, false,
			[]string{"visit PAGE with the account of the token in HF_TOKEN", "HTTP 403", `"Access to dataset is restricted"`}},
		"gated without a token": {401, "GatedRepo", "Access to dataset is restricted", true, hub.ErrGated, false,
			[]string{"visit PAGE, log in, ask for access", "set HF_TOKEN", "/settings/tokens"}},
		"wrong token": {401, "", "Invalid credentials in Authorization header", false, hub.ErrToken, true,
			[]string{"the token in HF_TOKEN is wrong, expired or revoked"}},
		"hidden":             {401, "", "Invalid username or password.", true, hub.ErrHidden, false, []string{"does not exist, or is private or gated", "visit PAGE", "HF_TOKEN"}},
		"no data set":        {404, "RepoNotFound", "Repository not found", false, hub.ErrRepoNotFound, true, []string{"check the name " + dataset}},
		"no revision":        {404, "RevisionNotFound", "Invalid rev id: main", false, hub.ErrRevisionNotFound, true, []string{`"main" is no branch, tag or commit`, "PAGE"}},
		"no file":            {404, "EntryNotFound", "Entry not found", false, hub.ErrEntryNotFound, true, []string{"PAGE/tree/main"}},
		"404 without a code": {404, "", "", false, hub.ErrEntryNotFound, true, []string{"data set, revision or file", "PAGE"}},
		"disabled":           {403, "", "Access to this resource is disabled.", false, hub.ErrDisabled, false, []string{"PAGE"}},
		"forbidden":          {403, "", "Token lacks \u202e permission", false, hub.ErrForbidden, false, []string{`"Token lacks \u202e permission"`, "fine-grained"}},
		"rate limit":         {429, "", "Too many", true, hub.ErrRateLimited, false, []string{"set HF_TOKEN: with a token"}},
		"fault":              {500, "", "oops", false, hub.ErrServer, false, []string{"HTTP 500", "try again later"}},
		"odd":                {418, "", "teapot", false, hub.ErrServer, false, []string{"HTTP 418", "teapot"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newBenchmark(t)
			f.On(func(w http.ResponseWriter, _ *http.Request) bool { return hubtest.Fail(w, c.status, c.code, c.message) }, nil)
			u := newUser(t, f, func(cfg *hub.Config) {
				if c.anonymous {
					cfg.Token = nil
				}
			})
			ask := map[string]func() error{
				"/datasets/" + dataset + "/resolve/main/runs/llm.parquet": func() error {
					_, err := u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, nil)
					return err
				},
				"/api/datasets/" + dataset + "/revision/main": func() error {
					_, err := u.repo(t).List(t.Context(), "")
					return err
				},
			}
			for url, ask := range ask {
				err := ask()
				var typed *hub.Error
				if !errors.As(err, &typed) || !errors.Is(err, c.kind) || errors.Is(err, datacenter.ErrInvalidInput) != c.invalid || typed.Status != c.status {
					t.Fatalf("the error is %v, want %v with status %d, invalid input %t", err, c.kind, c.status, c.invalid)
				}
				for _, want := range append(c.want, f.URL+url+": ") {
					if want = strings.ReplaceAll(want, "PAGE", f.URL+"/datasets/"+dataset); !strings.Contains(err.Error(), want) {
						t.Errorf("the error is %v; want it with %s", err, want)
					}
				}
				if strings.Contains(err.Error(), token) {
					t.Errorf("the error %v has the token in it", err)
				}
			}
		})
	}
}

// Answers 408, 429 and 5xx are tried again five times, after as long as the server
// says, the others not at all.
func TestRetries(t *testing.T) {
	for name, c := range map[string]struct {
		status        int
		header, value string
		want          time.Duration // between attempts; 0 for ours
		requests      int64
	}{
		"408":               {408, "", "", 0, 6},
		"500":               {500, "", "", 0, 6},
		"Retry-After":       {503, "Retry-After", "7", 7 * time.Second, 6},
		"ratelimit":         {429, "ratelimit", `"api";r=0;t=55`, 55 * time.Second, 6},
		"too long a wait":   {429, "Retry-After", "3600", 0, 1},
		"endless wait":      {429, "Retry-After", "99999999999999999999999", 0, 1},
		"404":               {404, "Retry-After", "7", 0, 1},
		"401":               {401, "", "", 0, 1},
		"not only by ratio": {429, "ratelimit", `"api";r=10;t=55`, 0, 6},
	} {
		for _, method := range []string{http.MethodHead, http.MethodGet} {
			t.Run(name+" "+method, func(t *testing.T) {
				f := newBenchmark(t)
				var requests atomic.Int64
				f.On(func(w http.ResponseWriter, r *http.Request) bool {
					if r.Method != method {
						return false
					}
					requests.Add(1)
					w.Header().Set(c.header, c.value)
					return hubtest.Fail(w, c.status, "", "no")
				}, nil)
				u := newUser(t, f)
				if _, err := u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, nil); err == nil {
					t.Fatal("there is no error")
				}
				if requests.Load() != c.requests {
					t.Errorf("asked %d times, want %d", requests.Load(), c.requests)
				}
				waits := u.waited()
				if int64(len(waits)) != c.requests-1 {
					t.Errorf("waited %v", waits)
				}
				if told := strings.Contains(u.log.String(), "wants us to wait"); told != (c.want != 0) {
					t.Errorf("the log is %s", u.log)
				}
				for _, wait := range waits {
					if c.want != 0 && wait != c.want || wait <= 0 || wait > 5*time.Minute {
						t.Errorf("waited %v, want %v", waits, c.want)
					}
				}
			})
		}
	}
}

// A fault that passes is not noticed.
func TestFaultsThatPass(t *testing.T) {
	f := newBenchmark(t)
	var requests atomic.Int64
	faulty := func(w http.ResponseWriter, _ *http.Request) bool {
		switch requests.Add(1) % 4 {
		case 1:
			return hubtest.Fail(w, http.StatusServiceUnavailable, "", "busy")
		case 2:
			panic(http.ErrAbortHandler) // no answer at all
		case 3:
			return hubtest.Cut(w, http.StatusOK, []byte(`[{"type": "file"`), 5)
		}
		return false
	}
	f.On(faulty, faulty)
	repo := newUser(t, f).repo(t)
	files, err := repo.List(t.Context(), "runs")
	if err != nil || len(files) != 1 {
		t.Fatalf("the listing is %v, %v", files, err)
	}
}

// Waits are read from Retry-After in seconds or as a date, and from the ratelimit
// header of a refusal.
func TestAskedWait(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		status       int
		after, limit string
		want         time.Duration
		ok           bool
	}{
		{503, "30", "", 30 * time.Second, true},
		{503, " 0 ", "", 0, true},
		{503, now.Add(time.Minute).Format(http.TimeFormat), "", time.Minute, true},
		{503, now.Add(-time.Minute).Format(http.TimeFormat), "", 0, true},
		{503, "-5", "", 0, false},
		{503, "soon", "", 0, false},
		{429, "", `"api";r=0;t=55`, 55 * time.Second, true},
		{429, "9", `"api";r=0;t=55`, 9 * time.Second, true},
		{429, "", `"api"; r = 0 ; t = 5`, 5 * time.Second, true},
		{429, "", `"api";r=3;t=55`, 0, false},
		{503, "", `"api";r=0;t=55`, 0, false},
		{200, "30", `"api";r=0;t=55`, 0, false},
	} {
		resp := &http.Response{StatusCode: c.status, Header: http.Header{}}
		resp.Header.Set("Retry-After", c.after)
		resp.Header.Set("Ratelimit", c.limit)
		if got, ok := hub.AskedWait(resp, now); got != c.want || ok != c.ok {
			t.Errorf("%+v: %v, %t", c, got, ok)
		}
	}
}

// A listing that leads out of the data set or out of the hub is refused whole, and
// nobody else gets the token.
func TestListingsNotBelieved(t *testing.T) {
	for name, c := range map[string]struct{ body, link, want string }{
		"path":          {`[{"type": "file", "path": "../../.ssh/id", "size": 1}]`, "", `"../../.ssh/id"`},
		"absolute":      {`[{"type": "file", "path": "/etc/passwd", "size": 1}]`, "", `"/etc/passwd"`},
		"control":       {`[{"type": "file", "path": "a\u001bb", "size": 1}]`, "", `"a\x1bb"`},
		"size":          {`[{"type": "file", "path": "a", "size": -1}]`, "", "-1"},
		"no list":       {`{"error": "x"}`, "", "is HF_ENDPOINT a hub?"},
		"no JSON":       {`<html>`, "", "is HF_ENDPOINT a hub?"},
		"another host":  {`[]`, `<STORAGE/next>; rel="next"`, "STORAGE/next"},
		"the same page": {`[]`, `<?recursive=true&expand=false>; rel="next"`, "next page"},
		"endless":       {`[` + strings.Repeat(" ", 17<<20) + `]`, "", "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newBenchmark(t)
			f.On(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/tree/") {
					return false
				}
				w.Header().Set("Link", strings.ReplaceAll(c.link, "STORAGE", f.StorageURL))
				w.Write([]byte(c.body))
				return true
			}, nil)
			_, err := newUser(t, f).repo(t).List(t.Context(), "")
			if want := strings.ReplaceAll(c.want, "STORAGE", f.StorageURL); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("the error is %v, want it with %s", err, want)
			}
			if _, atStore := f.Requests(); len(atStore) > 0 {
				t.Errorf("the storage got %v", atStore)
			}
		})
	}
}

// The API does not redirect to another host.
func TestAPIRedirect(t *testing.T) {
	f := newBenchmark(t)
	f.On(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, f.StorageURL+"/login?secret=SIGNATURE", http.StatusFound)
		return true
	}, nil)
	_, err := newUser(t, f).repo(t).List(t.Context(), "")
	if !errors.Is(err, hub.ErrAnswer) || !strings.Contains(err.Error(), f.StorageURL+"/login") || strings.Contains(err.Error(), "SIGNATURE") {
		t.Errorf("the error is %v", err)
	}
	// One that leads in a circle ends.
	f.On(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, r.URL.Path, http.StatusFound)
		return true
	}, nil)
	if _, err = newUser(t, f).repo(t).List(t.Context(), ""); !errors.Is(err, hub.ErrAnswer) || !strings.Contains(err.Error(), "more than 5 times") {
		t.Errorf("the error is %v", err)
	}
	if _, atStore := f.Requests(); len(atStore) > 0 {
		t.Errorf("the storage got %v", atStore)
	}
}

// Links to the next page are found among others.
func TestNextPage(t *testing.T) {
	for _, c := range []struct {
		links []string
		want  string
	}{
		{nil, ""},
		{[]string{`<https://hub/a?cursor=x>; rel="next"`}, "https://hub/a?cursor=x"},
		{[]string{`<https://hub/1>; rel="first", <https://hub/2>; rel="next"`}, "https://hub/2"},
		{[]string{`<https://hub/1>; rel="prev"`, `<https://hub/2>; title="x"; rel=next`}, "https://hub/2"},
		{[]string{`<https://hub/1>; rel="nextish"`}, ""},
		{[]string{`https://hub/1; rel="next"`}, ""},
	} {
		if got, ok := hub.NextPage(c.links); got != c.want || ok != (c.want != "") {
			t.Errorf("%q: %q, %t; want %q", c.links, got, ok, c.want)
		}
	}
}

// Names, revisions, folders and files that could leave the directory are refused
// before anything is asked.
func TestInputs(t *testing.T) {
	f := newBenchmark(t)
	u := newUser(t, f)
	for _, name := range []string{"", "x", "a/b/c", "../b", "a/..", "a/b c", "a/" + strings.Repeat("b", 97), "a/b\n", "a/.git", "-/b", "a--b/c"} {
		if _, err := u.Repo(name, ""); !errors.Is(err, datacenter.ErrInvalidInput) {
			t.Errorf("the name %q: %v", name, err)
		}
	}
	paths := []string{"../x", "/x", "a/../../x", "a//b", "a/", ".", `a\b`, "a\x00b", "a\nb", strings.Repeat("a", 1025)}
	for _, path := range paths {
		_, err := u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet", path}, nil)
		_, listErr := u.repo(t).List(t.Context(), path)
		_, revisionErr := u.Repo(dataset, path)
		if !errors.Is(err, datacenter.ErrInvalidInput) || !errors.Is(listErr, datacenter.ErrInvalidInput) || !errors.Is(revisionErr, datacenter.ErrInvalidInput) {
			t.Errorf("%q: %v; %v; %v", path, err, listErr, revisionErr)
		}
	}
	if _, err := u.repo(t).Fetch(t.Context(), []string{""}, nil); !errors.Is(err, datacenter.ErrInvalidInput) {
		t.Errorf("an empty name: %v", err)
	}
	if _, err := u.repo(t).Fetch(t.Context(), nil, nil); !errors.Is(err, datacenter.ErrInvalidInput) {
		t.Errorf("no files: %v", err)
	}
	if atHub, _ := f.Requests(); len(atHub) > 0 {
		t.Errorf("the hub was asked %v", atHub)
	}
	for _, revision := range []string{"refs/convert/parquet", "v1.0", commitA} {
		if _, err := u.Repo(dataset, revision); err != nil {
			t.Errorf("the revision %s: %v", revision, err)
		}
	}
	f.On(func(w http.ResponseWriter, r *http.Request) bool {
		return hubtest.Fail(w, http.StatusNotFound, "RevisionNotFound", r.URL.EscapedPath())
	}, nil)
	repo, err := u.Repo(dataset, "refs/convert/parquet")
	if err != nil {
		t.Fatal(err)
	}
	if _, err = repo.Fetch(t.Context(), []string{"a b/ü?#%.csv"}, nil); err == nil || !strings.Contains(err.Error(), "/resolve/refs%2Fconvert%2Fparquet/a%20b/%C3%BC%3F%23%25.csv") {
		t.Errorf("the error is %v", err)
	}
}
