package credential

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/internal/credential/credentialtest"
)

const renewEvery = time.Second

func TestCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := credentialtest.NewFile("one", nil)
		var log strings.Builder
		c, err := Renewable(file.Read, renewEvery, zerolog.New(&log))
		if err != nil || c.Key() != "one" {
			t.Fatalf("%q (%v)", c.Key(), err)
		}
		renew := func(refused string, want bool, wantKey string, wantReads int) {
			t.Helper()
			if got, _ := c.Renew(refused); got != want || c.Key() != wantKey || file.Reads() != wantReads {
				t.Errorf("refused %q: renewed %v, the key is %q, read %d times; want %v, %q, %d", refused, got, c.Key(), file.Reads(), want, wantKey, wantReads)
			}
		}
		file.Set("two", nil)
		renew("one", false, "one", 1) // it was read just now
		<-time.After(renewEvery)
		renew("one", true, "two", 2)
		renew("one", true, "two", 2) // somebody who had the old one still
		renew("two", false, "two", 2)
		<-time.After(renewEvery)
		renew("two", false, "two", 3) // it is the same
		<-time.After(renewEvery)

		gone := errors.New("gone")
		file.Set("", gone)
		renew("two", false, "two", 4)
		if _, err := c.Renew("two"); !errors.Is(err, gone) {
			t.Errorf("the error is %v", err)
		}
		<-time.After(renewEvery)
		file.Set("geheim\n", nil)
		renew("two", false, "two", 5)
		if _, err := c.Renew("two"); err == nil || strings.Contains(err.Error(), "geheim") {
			t.Errorf("the error is %v", err)
		}
		<-time.After(renewEvery)
		file.Set("three", nil)
		renew("two", true, "three", 6)
		if text := log.String(); strings.Count(text, "\n") != 2 || strings.Count(text, "a new one was found") != 2 || strings.Contains(text, "three") {
			t.Errorf("the log is %s", text)
		}
	})
	for _, fixed := range []*Credential{nil, Fixed(""), Fixed("key")} {
		if renewed, err := fixed.Renew(fixed.Key()); renewed || err != nil {
			t.Errorf("%q was renewed (%v)", fixed.Key(), err)
		}
	}
	for _, bad := range []*credentialtest.File{credentialtest.NewFile("", errors.New("gone")), credentialtest.NewFile("a b", nil)} {
		if _, err := Renewable(bad.Read, renewEvery, zerolog.Nop()); err == nil {
			key, _ := bad.Read()
			t.Errorf("%q was taken", key)
		}
	}
}

func TestTrim(t *testing.T) {
	for raw, want := range map[string]string{
		"":                        "",
		" \n":                     "",
		"key":                     "key",
		"key\n":                   "key",
		"key\r\n":                 "key",
		"\t key \r\n\r\n":         "key",
		"\xef\xbb\xbfkey\n":       "key",
		"\xef\xbb\xbf key":        "key",
		"\xef\xbb\xbf":            "",
		"two words\n":             "two words",
		"\u00a0key\u2003":         "key",
		"\xff\xfek\x00e\x00y\x00": "\xff\xfek\x00e\x00y\x00",
	} {
		if got := Trim(raw); got != want {
			t.Errorf("Trim(%q) = %q, want %q", raw, got, want)
		}
	}
}

// A reading that takes longer than readings are apart is waited for once, by all that
// were refused meanwhile.
func TestRenewThatHangs(t *testing.T) {
	hangs := errors.New("it hangs")
	reads := 0
	c, err := Renewable(func() (string, error) {
		if reads++; reads == 1 {
			return "one", nil
		}
		<-time.After(renewEvery + renewEvery/5)
		return "", hangs
	}, renewEvery, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	c.readAt = time.Time{}
	var refused sync.WaitGroup
	for range 20 {
		refused.Go(func() {
			if renewed, err := c.Renew("one"); renewed || !errors.Is(err, hangs) {
				t.Errorf("renewed %v, %v", renewed, err)
			}
		})
	}
	refused.Wait()
	if reads != 2 {
		t.Errorf("20 that were refused read %d times, want once", reads-1)
	}
}

func TestUnsendable(t *testing.T) {
	for text, want := range map[string]int{"": -1, "a~!": -1, "a b": 1, "ab\n": 2, "sécret": 1} {
		if got := Unsendable(text); got != want {
			t.Errorf("Unsendable(%q) = %d, want %d", text, got, want)
		}
	}
}
