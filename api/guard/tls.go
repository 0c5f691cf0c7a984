package guard

import (
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/apirule"
	"github.com/g2g-agent/g2g-agent/internal/reread"
	"github.com/g2g-agent/g2g-agent/internal/textfile"
)

// certificate is the TLS certificate in force, and where it comes from.
type certificate struct {
	certFile, keyFile string
	pair              atomic.Pointer[pair]
	rereading         reread.Patience[*pair]
}

// pair is a certificate chain with its key.
type pair struct{ tls.Certificate }

// expirySoon is how long before its end a certificate is warned about.
const expirySoon = 14 * 24 * time.Hour

func newCertificate(certFile, keyFile string) (*certificate, error) {
	if missing, err := apirule.TLSFiles(certFile, keyFile); err != nil {
		return nil, fmt.Errorf("%w: api.%s %w", datacenter.ErrInvalidInput, missing, err)
	}
	c := &certificate{certFile: certFile, keyFile: keyFile}
	p, err := c.read(readPair)
	if err != nil {
		return nil, err
	}
	c.pair.Store(p)
	return c, nil
}

// maxPairBytes bounds what is read of a chain or a key.
const maxPairBytes = 1 << 20

// readPair is os.ReadFile up to that bound.
func readPair(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxPairBytes+1))
	if err == nil && len(raw) > maxPairBytes {
		err = fmt.Errorf("%s has more than %d bytes", file, maxPairBytes)
	}
	return raw, err
}

// readAnew reads the files as they are now, without waiting for them for ever, and
// changes nothing.
func (c *certificate) readAnew() (*pair, error) {
	return c.rereading.Within(reread.Limit, func() (*pair, error) {
		return c.read(func(file string) ([]byte, error) { return reread.File(file, maxPairBytes) })
	})
}

func (c *certificate) read(readFile func(string) ([]byte, error)) (*pair, error) {
	cert, err := loadPair(readFile, c.certFile, c.keyFile)
	if err != nil {
		return nil, fmt.Errorf("%w: api.tls_cert_file %s and api.tls_key_file %s must hold a certificate chain and its key in PEM: %w",
			datacenter.ErrInvalidInput, c.certFile, c.keyFile, err)
	}
	return &pair{cert}, nil
}

// loadPair is [tls.LoadX509KeyPair] for files that may have a byte-order mark.
func loadPair(readFile func(string) ([]byte, error), certFile, keyFile string) (tls.Certificate, error) {
	var texts [2][]byte
	for i, file := range []string{certFile, keyFile} {
		raw, err := readFile(file)
		if err == nil {
			if texts[i], err = textfile.Strip(raw); err != nil {
				err = fmt.Errorf("%s %w", file, err)
			}
		}
		if err != nil {
			return tls.Certificate{}, err
		}
	}
	return tls.X509KeyPair(texts[0], texts[1])
}

// warning returns why clients will not, or soon not, accept the certificate.
func (p *pair) warning(now time.Time) string {
	leaf := p.Leaf
	switch {
	case leaf == nil: // only under GODEBUG=x509keypairleaf=0
		return ""
	case now.After(leaf.NotAfter):
		return "the certificate expired at " + leaf.NotAfter.Format(time.RFC3339)
	case now.Before(leaf.NotBefore):
		return "the certificate is not valid before " + leaf.NotBefore.Format(time.RFC3339)
	case now.Add(expirySoon).After(leaf.NotAfter):
		return "the certificate expires at " + leaf.NotAfter.Format(time.RFC3339)
	}
	return ""
}
