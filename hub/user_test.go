package hub_test

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/hub"
	"github.com/g2g-agent/g2g-agent/hub/hubtest"
	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/internal/logtest"
)

const (
	dataset = "ml-energy/benchmark-v3"
	token   = "hf_SECRETsecret"
	commitA = hubtest.Commit
	commitB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// user is someone with a client.
type user struct {
	*hub.Client
	dir string
	log *logtest.Buffer

	mu    sync.Mutex
	waits []time.Duration // that there would have been
}

// newUser has a client of the hub that never waits, with changes to its config.
func newUser(t *testing.T, f *hubtest.Hub, change ...func(*hub.Config)) *user {
	t.Helper()
	u := &user{dir: t.TempDir(), log: &logtest.Buffer{}}
	cfg := hub.Config{Endpoint: f.URL, Token: credential.Fixed(token), Dir: u.dir, Log: zerolog.New(u.log)}
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
