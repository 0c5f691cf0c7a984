package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/hub"
	"github.com/g2g-agent/g2g-agent/hub/hubtest"
	"github.com/g2g-agent/g2g-agent/internal/treetest"
)

const hubToken = "hf_SECRETsecret"

// hubUser is someone whose hub is a fake one.
type hubUser struct {
	home    string
	environ []string
}

func newHubUser(t *testing.T, f *hubtest.Hub) *hubUser {
	home := t.TempDir()
	return &hubUser{home, []string{"HOME=" + home, "HF_ENDPOINT=" + f.URL, "HF_TOKEN=" + hubToken}}
}

// generate runs a verb of generate.
func (u *hubUser) generate(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	var out, log bytes.Buffer
	err = run(ctx, append([]string{"generate"}, args...), terminal{stdout: &out, stderr: &log, environ: u.environ})
	return out.String(), log.String(), err
}

// offline has nothing asked any more.
func (u *hubUser) offline() { u.environ = append(u.environ, "HF_HUB_OFFLINE=1") }

// goldenHub has a golden data set: tables are in LFS, the rest is kept by the hub itself.
func goldenHub(t *testing.T, dataset string, dir ...string) *hubtest.Hub {
	t.Helper()
	f := hubtest.New(t, dataset)
	for name, text := range treetest.Files(t, filepath.Join(append([]string{repositoryRoot(t), "testdata", "golden"}, dir...)...)) {
		f.Put(hubtest.Commit, name, []byte(text), filepath.Ext(name) == ".parquet")
	}
	return f
}

func goldenBenchmark(t *testing.T) *hubtest.Hub {
	return goldenHub(t, "ml-energy/benchmark-v3", "mlenergy", "compiled")
}

func goldenArena(t *testing.T) *hubtest.Hub {
	return goldenHub(t, "lmarena-ai/arena-human-preference-100k", "requests", "datasets", "lmarena-ai", "arena-human-preference-100k")
}

func goldenSpecs(t *testing.T) string {
	return filepath.Join(repositoryRoot(t), "testdata", "golden", "mlenergy", "expected", "one_task", "specs.json")
}

// wantGoldenData wants the traces of OpenG2G, and what a local copy of the benchmark
// comes to in all other files.
func wantGoldenData(t *testing.T, out string) {
	t.Helper()
	golden := filepath.Join(repositoryRoot(t), "testdata", "golden", "mlenergy")
	local := filepath.Join(t.TempDir(), "local")
	if _, _, err := runArgs(t.Context(), "generate", "inference-data", "--data", filepath.Join(golden, "compiled"), "--specs", goldenSpecs(t), "--out", local); err != nil {
		t.Fatal(err)
	}
	want, got := treetest.Files(t, local), treetest.Files(t, out)
	traces := 0
	for name, text := range treetest.Files(t, filepath.Join(golden, "expected", "one_task")) {
		if filepath.Base(name) == "trace.csv" {
			traces++
			want[name] = text
		}
	}
	noTime := func(name, _ string) bool { return filepath.Base(name) == "_manifest.json" } // it says when it was written
	if !slices.Equal(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))) || traces != 2 {
		t.Fatalf("the files are %q, want %q", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	maps.DeleteFunc(want, noTime)
	maps.DeleteFunc(got, noTime)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestInferenceDataFromHub: the golden files, of the table and the runs that are needed
// alone; again without network, and without a request where all is there.
func TestInferenceDataFromHub(t *testing.T) {
	f := goldenBenchmark(t)
	u := newHubUser(t, f)
	first, second := filepath.Join(t.TempDir(), "out"), filepath.Join(t.TempDir(), "out")
	_, stderr, err := u.generate(t.Context(), "inference-data", "--specs", goldenSpecs(t), "--out", first)
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	wantGoldenData(t, first)
	for message, times := range map[string]int{`"downloading from the hub"`: 2, `"downloaded"`: 2, hubtest.Commit: 3, hubToken: 0, "\r": 0} {
		if got := strings.Count(stderr, message); got < times || times == 0 && got > 0 {
			t.Errorf("%s is in the log %d times, want %d:\n%s", message, got, times, stderr)
		}
	}
	atHub, _ := f.Requests()
	for _, request := range atHub {
		if strings.Contains(request.Path, "/gpqa/") || request.Auth != "Bearer "+hubToken {
			t.Errorf("asked for what is not needed, or without the token: %+v", request)
		}
	}
	f.Forget()
	if stdout, _, err := u.generate(t.Context(), "inference-data", "--specs", goldenSpecs(t), "--out", first); err != nil || strings.Count(stdout, "was there") != 2 {
		t.Errorf("all is there: %v, %q", err, stdout)
	}
	u.offline()
	if _, stderr, err = u.generate(t.Context(), "inference-data", "--specs", goldenSpecs(t), "--out", second); err != nil || strings.Contains(stderr, "downloaded") {
		t.Fatalf("offline: %v\n%s", err, stderr)
	}
	wantGoldenData(t, second)
	if atHub, atStore := f.Requests(); len(atHub)+len(atStore) > 0 {
		t.Errorf("asked %v, %v", atHub, atStore)
	}
	// A run that was not downloaded says so, and what to do.
	other := strings.Replace(goldenSpecs(t), "one_task", "other_task", 1)
	third := filepath.Join(t.TempDir(), "out")
	_, _, err = u.generate(t.Context(), "inference-data", "--specs", other, "--out", third)
	if !errors.Is(err, hub.ErrOffline) || exitStatus(err) != exitFailed || !strings.Contains(err.Error(), "unset HF_HUB_OFFLINE") || len(treetest.Files(t, third)) > 0 {
		t.Errorf("offline without a file: %v", err)
	}
}

// TestInferenceDataOfRevision: of the commit that is named, not of main.
func TestInferenceDataOfRevision(t *testing.T) {
	f := goldenBenchmark(t)
	u := newHubUser(t, f)
	f.Move(strings.Repeat("b", 40)) // where there is nothing
	out := filepath.Join(t.TempDir(), "out")
	args := []string{"inference-data", "--specs", goldenSpecs(t), "--out", out}
	if _, _, err := u.generate(t.Context(), args...); err == nil {
		t.Error("main has no files, and there is no error")
	}
	if _, _, err := u.generate(t.Context(), append(args, "--revision", hubtest.Commit)...); err != nil {
		t.Fatal(err)
	}
	wantGoldenData(t, out)
	_, _, err := u.generate(t.Context(), append(args, "--revision", "x", "--data", ".")...)
	_, _, requestsErr := u.generate(t.Context(), "requests", "--model=a=b", "--out", out+"2", "--revision", "x", "--prompts", "y")
	if exitStatus(err) != exitInvalid || exitStatus(requestsErr) != exitInvalid || !strings.Contains(err.Error(), "--revision") || !strings.Contains(requestsErr.Error(), "--revision") {
		t.Errorf("%v; %v", err, requestsErr)
	}
}

// TestRequestsFromHub: the golden files of both data sets; again without network.
func TestRequestsFromHub(t *testing.T) {
	for name, c := range map[string]struct {
		hub      *hubtest.Hub
		golden   string
		args     []string
		unwanted string // a file that is not needed
	}{
		"lm-arena-chat": {goldenArena(t), "case0", []string{"--num-requests=25"}, "README.md"},
		"gpqa": {goldenHub(t, "Idavidrein/gpqa", "requests", "datasets", "Idavidrein", "gpqa"), "case4",
			[]string{"--num-requests=40", "--seed=3", "--system-prompt=Answer with one letter – only."}, "gpqa_main.csv"},
	} {
		t.Run(name, func(t *testing.T) {
			u := newHubUser(t, c.hub)
			want := treetest.Files(t, filepath.Join(repositoryRoot(t), "testdata", "golden", "requests", "expected", c.golden))
			generate := func() {
				out := filepath.Join(t.TempDir(), "out")
				args := append([]string{"requests", "--dataset", name, "--out", out, "--model=Llama-3.1-8B=meta-llama/Llama-3.1-8B-Instruct", "--model=Qwen3-32B=Qwen/Qwen3-32B",
					`--extra-body=Qwen3-32B={"chat_template_kwargs": {"enable_thinking": false}, "max_completion_tokens": 64, "temperature": 0.25}`}, c.args...)
				if _, stderr, err := u.generate(t.Context(), args...); err != nil {
					t.Fatalf("%v\n%s", err, stderr)
				}
				if diff := cmp.Diff(want, treetest.Files(t, out)); diff != "" || len(want) != 2 {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
			generate()
			atHub, _ := c.hub.Requests()
			if slices.ContainsFunc(atHub, func(r hubtest.Request) bool { return strings.HasSuffix(r.Path, c.unwanted) }) {
				t.Errorf("asked for %s: %v", c.unwanted, atHub)
			}
			c.hub.Forget()
			u.offline()
			generate()
			if atHub, atStore := c.hub.Requests(); len(atHub)+len(atStore) > 0 {
				t.Errorf("asked %v, %v", atHub, atStore)
			}
		})
	}
}

// TestRequestsOfPartOfDataset: prompts of some of the files would be other prompts.
func TestRequestsOfPartOfDataset(t *testing.T) {
	f := goldenArena(t)
	u := newHubUser(t, f)
	out := filepath.Join(t.TempDir(), "out")
	args := []string{"requests", "--out", out, "--model=a=b"}
	if _, _, err := u.generate(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
	const second = "data/train-00001-of-00002.parquet"
	if err := os.Remove(filepath.Join(u.home, ".cache/g2g-agent/hub/datasets--lmarena-ai--arena-human-preference-100k/snapshots", hubtest.Commit, second)); err != nil {
		t.Fatal(err)
	}
	u.offline()
	_, _, err := u.generate(t.Context(), append(args, "--force")...)
	if err == nil || exitStatus(err) != exitFailed || !strings.Contains(err.Error(), second+" is missing") {
		t.Errorf("the error is %v", err)
	}
	for _, c := range []struct {
		files []string
		want  string
	}{
		{nil, ""},
		{[]string{"a.parquet", "b-00000-of-00001.csv"}, ""},
		{[]string{"a-00001-of-00002.parquet", "a-00000-of-00002.parquet"}, ""},
		{[]string{"a-00001-of-00003.parquet", "a-00000-of-00003.parquet"}, "a-00002-of-00003.parquet"},
		{[]string{"a-00000-of-99999.parquet"}, "a-00001-of-99999.parquet"},
	} {
		if got := missingShard(c.files); got != c.want {
			t.Errorf("of %q %q is missing, want %q", c.files, got, c.want)
		}
	}
}

// TestHubRefusals: both verbs say what the hub says and what to do, with the right exit
// status, and write nothing.
//
// It is long because of the table.
func TestHubRefusals(t *testing.T) {
	always := func(status int, code, message string, header ...string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			return hubtest.Fail(w, status, code, message)
		}
	}
	for name, c := range map[string]struct {
		hub, storage func(http.ResponseWriter, *http.Request) bool
		status       int
		want         []string // PAGE stands for the data set's
	}{
		"gated":        {always(403, "GatedRepo", "Access is restricted"), nil, exitFailed, []string{"has not been granted", "visit PAGE", "HTTP 403"}},
		"wrong token":  {always(401, "", "Invalid credentials in Authorization header"), nil, exitInvalid, []string{"the token in HF_TOKEN is wrong, expired or revoked"}},
		"hidden":       {always(401, "", "Invalid username or password."), nil, exitFailed, []string{"does not exist, or is private or gated", "visit PAGE"}},
		"no data set":  {always(404, "RepoNotFound", "Repository not found"), nil, exitInvalid, []string{"no such data set", "check the name"}},
		"no revision":  {always(404, "RevisionNotFound", "Invalid rev id"), nil, exitInvalid, []string{"no such revision", "PAGE"}},
		"rate limit":   {always(429, "", "Too many", "Retry-After", "3600"), nil, exitFailed, []string{"limits the rate of requests", "try again in 1h0m0s"}},
		"fault":        {always(500, "", "oops", "Retry-After", "3600"), nil, exitFailed, []string{"HTTP 500", "try again later"}},
		"storage full": {nil, always(429, "", "Too many", "Retry-After", "3600"), exitFailed, []string{"HTTP 429", "try again later"}},
		"another file": {nil, func(w http.ResponseWriter, r *http.Request) bool {
			size := 0
			for _, table := range []*hubtest.Hub{goldenBenchmark(t), goldenArena(t)} {
				size = max(size, table.Size(hubtest.Commit, strings.TrimPrefix(r.URL.Path, "/repos/"+hubtest.Commit+"/")))
			}
			w.Write(make([]byte, size))
			return true
		}, exitFailed, []string{"what arrived is not the file", "checksum"}},
	} {
		for verb, setUp := range map[string]struct {
			hub  *hubtest.Hub
			page string
			args []string
		}{
			"inference-data": {goldenBenchmark(t), "ml-energy/benchmark-v3", []string{"--specs", goldenSpecs(t)}},
			"requests":       {goldenArena(t), "lmarena-ai/arena-human-preference-100k", []string{"--model=a=b"}},
		} {
			t.Run(name+" "+verb, func(t *testing.T) {
				f := setUp.hub
				f.On(c.hub, c.storage)
				dir := t.TempDir()
				stdout, stderr, err := newHubUser(t, f).generate(t.Context(), append([]string{verb, "--out", filepath.Join(dir, "out")}, setUp.args...)...)
				if err == nil || exitStatus(err) != c.status {
					t.Fatalf("%v: exit status %d, want %d", err, exitStatus(err), c.status)
				}
				for _, want := range append(c.want, f.URL[:len("http://127")]) {
					if want = strings.ReplaceAll(want, "PAGE", f.URL+"/datasets/"+setUp.page); !strings.Contains(err.Error(), want) {
						t.Errorf("the error is %v; want it with %s", err, want)
					}
				}
				if strings.Contains(err.Error()+stdout+stderr, hubToken) || stdout != "" {
					t.Errorf("the token shows, or something is said to be done: %v %s %s", err, stdout, stderr)
				}
				if left := names(t, dir); len(left) > 0 {
					t.Errorf("there is %q", left)
				}
			})
		}
	}
}

// TestDownloadIsContinued: the connection is cut, then the user interrupts. What has
// arrived is kept, which the message says, and only the rest is asked for the next time.
func TestDownloadIsContinued(t *testing.T) {
	for verb, setUp := range map[string]struct {
		hub  *hubtest.Hub
		file string
		args []string
	}{
		"inference-data": {goldenBenchmark(t), "runs/llm.parquet", []string{"--specs", goldenSpecs(t)}},
		"requests":       {goldenArena(t), "data/train-00000-of-00002.parquet", []string{"--model=a=b"}},
	} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			f, u, dir := setUp.hub, newHubUser(t, setUp.hub), t.TempDir()
			args := append([]string{verb, "--out", filepath.Join(dir, "out")}, setUp.args...)
			content, half := f.Content(hubtest.Commit, setUp.file), f.Size(hubtest.Commit, setUp.file)/2
			ctx, interrupt := context.WithCancel(t.Context())
			var requests atomic.Int64
			f.On(nil, func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, setUp.file) {
					return false
				}
				if requests.Add(1) == 1 {
					return hubtest.Cut(w, http.StatusOK, content, half)
				}
				interrupt()
				<-r.Context().Done()
				return true
			})
			_, _, err := u.generate(ctx, args...)
			kept := filepath.Join(u.home, ".cache", "g2g-agent", "hub")
			if err == nil || exitStatus(err) != exitFailed || !strings.HasPrefix(err.Error(), "interrupted; ") ||
				!strings.Contains(err.Error(), "have arrived in "+kept+", and the same command continues from there") {
				t.Fatalf("the error is %v", err)
			}
			if left := names(t, dir); len(left) > 0 {
				t.Errorf("there is %q", left)
			}
			f.On(nil, nil)
			f.Forget()
			if _, stderr, err := u.generate(t.Context(), args...); err != nil {
				t.Fatalf("%v\n%s", err, stderr)
			}
			_, atStore := f.Requests()
			if !slices.ContainsFunc(atStore, func(r hubtest.Request) bool {
				return strings.HasSuffix(r.Path, setUp.file) && r.Ranges == fmt.Sprintf("bytes=%d-", half)
			}) {
				t.Errorf("%s was not continued from byte %d on: %+v", setUp.file, half, atStore)
			}
		})
	}
}

// TestInterruptedBeforeDownload: while the hub is asked what there is.
func TestInterruptedBeforeDownload(t *testing.T) {
	for verb, setUp := range map[string]struct {
		hub  *hubtest.Hub
		args []string
	}{
		"inference-data": {goldenBenchmark(t), []string{"--specs", goldenSpecs(t)}},
		"requests":       {goldenArena(t), []string{"--model=a=b"}},
	} {
		ctx, interrupt := context.WithCancel(t.Context())
		setUp.hub.On(func(http.ResponseWriter, *http.Request) bool { interrupt(); return false }, nil)
		dir := t.TempDir()
		_, _, err := newHubUser(t, setUp.hub).generate(ctx, append([]string{verb, "--out", filepath.Join(dir, "out")}, setUp.args...)...)
		if err == nil || exitStatus(err) != exitFailed || !strings.HasPrefix(err.Error(), "interrupted while asking the hub") || len(names(t, dir)) > 0 {
			t.Errorf("%s: %v; there is %q", verb, err, names(t, dir))
		}
	}
}

// TestWrongRequestsAreNotDownloadedFor: what else is wrong is said before the hub is asked.
func TestWrongRequestsAreNotDownloadedFor(t *testing.T) {
	f := goldenArena(t)
	u := newHubUser(t, f)
	for _, args := range [][]string{{"--num-requests=0", "--model=a=b"}, {"--model=a=b", `--extra-body=a={"n": 2}`}, {"--model=../a=b"}} {
		if _, _, err := u.generate(t.Context(), append([]string{"requests", "--out", filepath.Join(t.TempDir(), "out")}, args...)...); exitStatus(err) != exitInvalid {
			t.Errorf("%q: %v", args, err)
		}
	}
	if atHub, _ := f.Requests(); len(atHub) > 0 {
		t.Errorf("asked %v", atHub)
	}
}

// TestTransferBar: share, bytes, files, rate and time left, as far as the terminal is wide.
func TestTransferBar(t *testing.T) {
	began := time.Unix(0, 0)
	bar := &transfer{now: hub.Progress{DoneBytes: 100e6, TotalBytes: 400e6, DoneFiles: 1, TotalFiles: 3}}
	for i, want := range []string{
		"[##........] 25 %  100.0/400.0 MB  1/3 files  0.0 MB/s",
		"[#####.....] 50 %  200.0/400.0 MB  1/3 files  50.0 MB/s  4s left",
		"[#####.....] 50 %  200.0/400.0 MB  1/3 files  30.0 MB/s  6s left", // 2 of 5 s without anything
		"[##........] 25 %  100.0/400.0 MB  1/3 files  18.0 MB/s  16s left",
		"[##########] 100 %  400.0/400.0 MB  3/3 files  70.8 MB/s  0s left",
	} {
		bar.now.DoneBytes = []int64{100e6, 200e6, 200e6, 100e6, 400e6}[i]
		if i == 4 {
			bar.now.DoneFiles = 3
		}
		if got := bar.bar(began.Add(time.Duration(2*i) * time.Second)); got != want {
			t.Errorf("after %d s: %q, want %q", 2*i, got, want)
		}
	}
	for want, n := range map[string][2]int64{"0.5/1.5 kB": {500, 1500}, "0.0/0.0 kB": {}, "1.0/1.0 GB": {1e9, 1e9}} {
		if got := ofBytes(n[0], n[1]); got != want {
			t.Errorf("%v: %q, want %q", n, got, want)
		}
	}
	var screen bytes.Buffer
	line := &statusLine{out: &screen, columns: func() int { return 6 }}
	long := func(time.Time) string { return "ééééééééé" }
	line.show(long)
	line.show(long) // too soon
	fmt.Fprint(line, "log\n")
	line.clear() // there is none
	if want := "\r\x1b[Kééééé" + "\r\x1b[Klog\n"; screen.String() != want {
		t.Errorf("the terminal got %q, want %q", screen.String(), want)
	}
}
