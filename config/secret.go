package config

import (
	"fmt"
	"io"
	"os"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/internal/reread"
	"github.com/g2g-agent/g2g-agent/internal/textfile"
)

// maxSecretBytes bounds the files of tokens and keys.
const maxSecretBytes = 16 << 10

// ReadSecret reads a token or key from a file of its own, as [credential.Trim] leaves
// it. A secret has visible ASCII characters only, so that it can stand in
// an HTTP header.
func ReadSecret(file string) (string, error) { return readSecret(file, os.Open) }

// RereadSecret is ReadSecret for a file that was read before: it keeps nobody
// waiting, and so must be a regular one.
func RereadSecret(file string) (string, error) { return readSecret(file, reread.Open) }

func readSecret(file string, open func(string) (*os.File, error)) (string, error) {
	f, err := open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
	if err != nil {
		return "", err
	}
	if _, err := textfile.Strip(raw); err != nil {
		return "", fmt.Errorf("%s %w", file, err)
	}
	secret := credential.Trim(string(raw))
	switch {
	case len(raw) > maxSecretBytes:
		return "", fmt.Errorf("%s has more than %d bytes", file, maxSecretBytes)
	case secret == "":
		return "", fmt.Errorf("%s is empty", file)
	case credential.Unsendable(secret) >= 0:
		return "", fmt.Errorf("%s holds something else than one word of visible ASCII characters", file)
	}
	return secret, nil
}

// Tokens reads the tokens that commands and reading need; empty: they need none.
// Errors name the key and wrap [datacenter.ErrInvalidInput].
func (a *API) Tokens() (control, read string, err error) { return a.tokens(ReadSecret) }

// RereadTokens is Tokens once they have been read before, see [RereadSecret].
func (a *API) RereadTokens() (control, read string, err error) { return a.tokens(RereadSecret) }

func (a *API) tokens(readSecret func(file string) (string, error)) (control, read string, err error) {
	if a.TokenFile != "" {
		if control, err = readSecret(a.TokenFile); err != nil {
			return "", "", fmt.Errorf("%w: api.token_file: %w", datacenter.ErrInvalidInput, err)
		}
	}
	if a.ReadTokenFile != "" {
		if read, err = readSecret(a.ReadTokenFile); err != nil {
			return "", "", fmt.Errorf("%w: api.read_token_file: %w", datacenter.ErrInvalidInput, err)
		}
	}
	return control, read, nil
}
