package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// writeCertificate writes NAME.pem and NAME.key.
func writeCertificate(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(1000 * time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(filepath.Join(dir, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// checkFolder has files that configs name: good ones, and those that are not.
func checkFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	writeCertificate(t, dir, "a")
	writeCertificate(t, dir, "b")
	for name, text := range map[string]string{
		"good.token": "a-long-enough-token-1\n", "other.token": "a-long-enough-token-2\r\n", "bom.token": "\xef\xbb\xbfa-long-enough-token-3\r\n",
		"empty.token": " \n", "words.token": "two words", "long.token": strings.Repeat("x", 2000), "huge.token": strings.Repeat("x", 20_000),
		"utf16.token": "\xff\xfea\x00\n\x00", "text.pem": "no certificate",
		"power.csv": "time_s,gpu_index,power_w\n0,0,300\n1,0,310\n", "bad.csv": "time_s,gpu_index,power_w\nx,0,300\n",
		"req/m.jsonl": `{"messages":[{"role":"user","content":"a"}]}` + "\n", "badreq/m.jsonl": "{\n",
	} {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := os.ReadFile(filepath.Join(dir, "a.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bom.pem"), append([]byte("\xef\xbb\xbf"), cert...), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

const liveModelForCheck = `
models:
  - model_label: m
    model_id: org/m
    gpus_per_replica: 1
    itl_deadline_s: 0.1
    feasible_batch_sizes: [8]
    live: {vllm_base_url: "http://127.0.0.1:1", simulated_num_replicas: 8, gpu_endpoints: [%s]%s}
live: {requests_dir: %s}
api: {listen: "127.0.0.1:0"%s}
`

// outcome is what a command line ends with, and its exit status.
func outcome(ctx context.Context, environ []string, args ...string) (string, int) {
	var out, log strings.Builder
	err := run(ctx, args, terminal{stdout: &out, stderr: &log, environ: environ})
	if err == nil {
		return "", exitDone
	}
	return err.Error(), exitStatus(err)
}

// agree fails unless check and start refuse the config in the same words and with the
// same status, or neither does.
func agree(t *testing.T, dir, name, text string, environ []string, wantRefused bool, start ...string) {
	t.Helper()
	file := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	running := t.Context()
	ended, cancel := context.WithCancel(running)
	cancel() // a start that is not refused ends at once
	checked, status := outcome(running, environ, "check", "--config", file)
	started, startStatus := outcome(ended, environ, append(start, "--config", file)...)
	switch {
	case wantRefused && (status != exitInvalid || startStatus != exitInvalid || checked != started):
		t.Errorf("%s, %v:\n  check: %d %s\n  start: %d %s", name, start, status, checked, startStatus, started)
	case wantRefused && (len(checked) > 2000 || strings.Contains(checked, "a-long-enough")):
		t.Errorf("%s: %s", name, checked)
	case !wantRefused && (status != exitDone || startStatus == exitInvalid):
		t.Errorf("%s, %v:\n  check: %d %s\n  start: %d %s", name, start, status, checked, startStatus, started)
	}
}

// TestCheckPassesWhatStarts: what the start refuses of the API's files, check refuses;
// what check passes, starts.
func TestCheckPassesWhatStarts(t *testing.T) {
	dir := checkFolder(t)
	replay, err := os.ReadFile(oneModelConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	environ := []string{"G2G_AGENT_REPLAY__DATA_DIR=" + filepath.Join(repositoryRoot(t), "configs", "example-data")}
	for keys, refused := range map[string]bool{
		"":                          false,
		", token_file: good.token":  false,
		", token_file: bom.token":   false,
		", token_file: none.token":  true,
		", token_file: .":           true,
		", token_file: empty.token": true,
		", token_file: words.token": true,
		", token_file: long.token":  true,
		", token_file: huge.token":  true,
		", token_file: utf16.token": true,
		", token_file: good.token, read_token_file: other.token": false,
		", token_file: good.token, read_token_file: none.token":  true,
		", token_file: good.token, read_token_file: good.token":  true,
		", tls_cert_file: a.pem, tls_key_file: a.key":            false,
		", tls_cert_file: bom.pem, tls_key_file: a.key":          false,
		", tls_cert_file: none.pem, tls_key_file: a.key":         true,
		", tls_cert_file: a.pem, tls_key_file: none.key":         true,
		", tls_cert_file: a.pem, tls_key_file: b.key":            true,
		", tls_cert_file: a.key, tls_key_file: a.pem":            true,
		", tls_cert_file: text.pem, tls_key_file: a.key":         true,
		", tls_cert_file: utf16.token, tls_key_file: a.key":      true,
	} {
		text := fmt.Sprintf("%s\napi: {listen: \"127.0.0.1:0\"%s}\n", replay, keys)
		agree(t, dir, keys, text, environ, refused, "replay", "--pace", "step")
		agree(t, dir, keys, text, environ, refused, "replay", "--pace", "1")
		agree(t, dir, keys, fmt.Sprintf(liveModelForCheck, "{host: n, gpu_indices: [0]}", "", "req", keys), nil, refused, "run")
	}
}

// TestCheckPassesWhatRuns: likewise for what a live run reads.
func TestCheckPassesWhatRuns(t *testing.T) {
	dir := checkFolder(t)
	for name, c := range map[string]struct {
		endpoint, live, requests string
		environ                  []string
		refused                  bool
	}{
		"plain":                     {"{host: n, gpu_indices: [0]}", "", "req", nil, false},
		"api_key_file":              {"{host: n, gpu_indices: [0]}", ", api_key_file: bom.token", "req", nil, false},
		"no api_key_file":           {"{host: n, gpu_indices: [0]}", ", api_key_file: none", "req", nil, true},
		"api_key_file in words":     {"{host: n, gpu_indices: [0]}", ", api_key_file: words.token", "req", nil, true},
		"token_file":                {"{host: n, gpu_indices: [0], token_file: bom.token}", "", "req", nil, false},
		"no token_file":             {"{host: n, gpu_indices: [0], token_file: none}", "", "req", nil, true},
		"empty token_file":          {"{host: n, gpu_indices: [0], token_file: empty.token}", "", "req", nil, true},
		"token_file in UTF-16":      {"{host: n, gpu_indices: [0], token_file: utf16.token}", "", "req", nil, true},
		"file source":               {"{source: file, file: power.csv, gpu_indices: [0]}", "", "req", nil, false},
		"no file":                   {"{source: file, file: none.csv, gpu_indices: [0]}", "", "req", nil, true},
		"bad file":                  {"{source: file, file: bad.csv, gpu_indices: [0]}", "", "req", nil, true},
		"GPU not in file":           {"{source: file, file: power.csv, gpu_indices: [1]}", "", "req", nil, true},
		"bad requests":              {"{host: n, gpu_indices: [0]}", "", "badreq", nil, true},
		"line feeds in environment": {"{host: n, gpu_indices: [0]}", "", "req", []string{"VLLM_API_KEY=\xef\xbb\xbfsk-1\r\n", "ZEUSD_TOKEN= t \n"}, false},
		"words in VLLM_API_KEY":     {"{host: n, gpu_indices: [0]}", "", "req", []string{"VLLM_API_KEY=two words"}, true},
		"words in ZEUSD_TOKEN":      {"{host: n, gpu_indices: [0]}", "", "req", []string{"ZEUSD_TOKEN=two\nwords"}, true},
	} {
		agree(t, dir, name, fmt.Sprintf(liveModelForCheck, c.endpoint, c.live, c.requests, ""), c.environ, c.refused, "run")
	}
	// Where there is no API, its files do not matter.
	agree(t, dir, "no API", fmt.Sprintf(liveModelForCheck, "{host: n, gpu_indices: [0]}", "", "req", ", token_file: none"), []string{"G2G_AGENT_API__LISTEN="}, false, "run")
	agree(t, dir, "open without a token", fmt.Sprintf(liveModelForCheck, "{host: n, gpu_indices: [0]}", "", "req", ""), []string{"G2G_AGENT_API__LISTEN=:0"}, true, "run")
}

// TestCheckBindsNothing: it may run beside the agent.
func TestCheckBindsNothing(t *testing.T) {
	dir := checkFolder(t)
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, liveModelForCheck, "{host: n, gpu_indices: [0]}", "", "req", ""), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, log strings.Builder
	if err := run(t.Context(), []string{"check", "--config", file}, terminal{stdout: &out, stderr: &log, environ: []string{"G2G_AGENT_API__LISTEN=" + taken.Addr().String()}}); err != nil {
		t.Error(err)
	}
}

// TestNumbersOfFlags: those that could be read in two ways are refused.
func TestNumbersOfFlags(t *testing.T) {
	for flag, want := range map[string]string{
		"--seed=010": `--seed: "010" could be read in two ways; want it in decimal digits: 10`, "--seed=0x1F": "digits: 31", "--seed=1_000": "digits: 1000", "--seed=0o17": "digits: 15",
		"--duration-s=0100": "digits: 100", "--duration-s=0x1p4": `want a number, got "0x1p4"`, "--p-hi=08": "digits: 8", "--seg-lo-range=1,010": "digits: 10",
		"--seed=-1": `want a whole number >= 0, got "-1"`, "--seed=1e400": "want a whole number", "--seed=1.5": "want a whole number", "--duration-s=1,5": `want a number, got "1,5"`, "--seed=\x1b": `got "\x1b"`,
	} {
		_, _, err := runArgs(t.Context(), "generate", "training-trace", flag)
		if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", flag, err, want)
		}
	}
	if _, _, err := runArgs(t.Context(), "sim", "--gpus=010"); err == nil || !strings.Contains(err.Error(), "digits: 10") {
		t.Errorf("--gpus=010: %v", err)
	}
	if _, _, err := runArgs(t.Context(), "generate", "training-trace", "--seed=+1e1", "--p-hi=2e2", "--ramp-s=.5", "--duration-s=+5", "--seg-lo-range=1,2.5", "--seg-hi-range=1,2"); err != nil {
		t.Error(err)
	}
}
