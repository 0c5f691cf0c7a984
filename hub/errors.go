package hub

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// Why files of the hub cannot be had. An [*Error] wraps one of them.
var (
	// ErrGated says that access must be asked for on the data set's page.
	ErrGated = errors.New("access to the data set has not been granted")
	// ErrToken says that the hub does not know the token.
	ErrToken = errors.New("the hub does not accept the token")
	// ErrForbidden says that the token is known and not allowed this.
	ErrForbidden = errors.New("the hub refuses access")
	// ErrHidden says that the data set is missing, private or gated: the hub does not
	// tell which to whom it does not know.
	ErrHidden = errors.New("the data set does not exist, or is private or gated")
	// ErrRepoNotFound says that there is no such data set, for this token at least.
	ErrRepoNotFound = errors.New("there is no such data set")
	// ErrRevisionNotFound says that the data set has no such branch, tag or commit.
	ErrRevisionNotFound = errors.New("the data set has no such revision")
	// ErrEntryNotFound says that the revision has no such file or folder.
	ErrEntryNotFound = errors.New("the data set has no such file")
	// ErrDisabled says that the hub has closed the data set.
	ErrDisabled = errors.New("the hub has disabled access to the data set")
	// ErrRateLimited says that too much was asked.
	ErrRateLimited = errors.New("the hub limits the rate of requests")
	// ErrOffline says that nothing may be asked and the caches do not have it.
	ErrOffline = errors.New("HF_HUB_OFFLINE is set")
	// ErrUnreachable says that no answer came, or none that was whole.
	ErrUnreachable = errors.New("the hub cannot be reached")
	// ErrAnswer says that an answer is not as a hub answers.
	ErrAnswer = errors.New("the hub's answer makes no sense")
	// ErrServer says that the hub has a fault.
	ErrServer = errors.New("the hub fails")
	// ErrChecksum says that other bytes came than the hub has announced.
	ErrChecksum = errors.New("what arrived is not the file")
	// ErrDiskFull says that there is no room for the files.
	ErrDiskFull = errors.New("the disk is too full")
)

// Error is why something of the hub cannot be had.
type Error struct {
	// Where is the URL asked, without its query, or the directory.
	Where string
	// Status is that of the answer, 0 if there was none.
	Status int

	kind   error  // one of the above
	detail string // more of what is wrong
	advice string // what to do
	cause  error
}

// Error names the URL, what is wrong and what to do. No token is in it.
func (e *Error) Error() string {
	text := e.Where + ": " + e.kind.Error()
	if e.Status != 0 {
		text += fmt.Sprintf(" (HTTP %d)", e.Status)
	}
	if e.detail != "" {
		text += ": " + e.detail
	}
	if e.cause != nil {
		text += ": " + excerpt.Printable(e.cause.Error(), maxQuoted)
	}
	if e.advice != "" {
		text += "; " + e.advice
	}
	return text
}

// Unwrap is what kind of error it is, its cause, and [datacenter.ErrInvalidInput] if
// whoever asked named something wrong.
func (e *Error) Unwrap() []error {
	all := []error{e.kind}
	if slices.Contains([]error{ErrToken, ErrRepoNotFound, ErrRevisionNotFound, ErrEntryNotFound}, e.kind) {
		all = append(all, datacenter.ErrInvalidInput)
	}
	if e.cause != nil {
		all = append(all, e.cause)
	}
	return all
}

// maxQuoted bounds what a message repeats of what others say, in bytes.
const maxQuoted = 300

// shown is a URL for a message. Its query may be a signature that opens a file.
func shown(u *url.URL) string {
	return excerpt.Printable((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String(), 2*maxQuoted)
}

// unreachable is the error of a request that was not answered.
func unreachable(u *url.URL, err error) *Error {
	// net/http would repeat the URL with its query.
	if urlErr := (*url.Error)(nil); errors.As(err, &urlErr) {
		err = urlErr.Err
	}
	detail := ""
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		detail = "the connection was cut off"
	}
	return &Error{Where: shown(u), kind: ErrUnreachable, detail: detail, cause: err,
		advice: "check the network and HF_ENDPOINT and try again: what is complete is kept; with HF_HUB_OFFLINE=1 only the cache is looked into"}
}

// refusal is the error of an answer other than the one hoped for.
func (r *Repo) refusal(resp *http.Response, body []byte) *Error {
	e := &Error{Where: shown(resp.Request.URL), Status: resp.StatusCode}
	code, message := resp.Header.Get("X-Error-Code"), resp.Header.Get("X-Error-Message")
	page := r.client.endpoint.JoinPath("datasets", r.name).String()
	settings := r.client.endpoint.JoinPath("settings", "tokens").String()
	hasToken := r.client.cfg.Token.Key() != ""
	token := fmt.Sprintf("a token of that account (from %s)", settings)
	if said := cmp.Or(message, firstLine(body)); said != "" {
		e.detail = "it says " + excerpt.Quote(said, maxQuoted)
	}
	if !r.client.isHub(resp.Request.URL) {
		e.kind, e.advice = ErrServer, "this is the hub's storage; try again later: what has arrived is kept"
		return e
	}
	switch {
	case code == "GatedRepo" && hasToken:
		e.kind = ErrGated
		e.advice = fmt.Sprintf("visit %s with the account of the token in %s and ask for access there, or set HF_TOKEN to the token of one that has it", page, r.client.cfg.TokenFrom)
	case code == "GatedRepo":
		e.kind = ErrGated
		e.advice = fmt.Sprintf("visit %s, log in, ask for access there, and set HF_TOKEN to %s", page, token)
	case message == "Access to this resource is disabled.":
		e.kind, e.advice = ErrDisabled, "see "+page+" for the reason; no token helps"
	case code == "RepoNotFound":
		e.kind = ErrRepoNotFound
		e.advice = fmt.Sprintf("check the name %s; if it is private, set HF_TOKEN to a token that may read it", r.name)
	case code == "RevisionNotFound":
		e.kind = ErrRevisionNotFound
		e.advice = fmt.Sprintf("%s is no branch, tag or commit of %s; want one of those listed at %s/tree/main", excerpt.Quote(r.revision, maxQuoted), r.name, page)
	case code == "EntryNotFound":
		e.kind, e.advice = ErrEntryNotFound, fmt.Sprintf("see %s/tree/%s for what there is", page, url.PathEscape(r.at()))
	case resp.StatusCode == http.StatusUnauthorized && strings.Contains(message, "Invalid credentials in Authorization header"):
		e.kind = ErrToken
		e.advice = fmt.Sprintf("the token in %s is wrong, expired or revoked; make one at %s, or take it away: public data sets want none", r.client.cfg.TokenFrom, settings)
	case resp.StatusCode == http.StatusUnauthorized:
		e.kind = ErrHidden
		e.advice = fmt.Sprintf("check the name; if it is right, visit %s, ask for access if it is gated, and set HF_TOKEN to %s", page, token)
	case resp.StatusCode == http.StatusForbidden:
		e.kind = ErrForbidden
		e.advice = "a fine-grained token must be allowed to read public gated repositories; see " + settings
	case resp.StatusCode == http.StatusNotFound:
		e.kind, e.advice = ErrEntryNotFound, "the hub does not say whether data set, revision or file is missing; see "+page
	case resp.StatusCode == http.StatusTooManyRequests:
		e.kind, e.advice = ErrRateLimited, rateAdvice(resp, hasToken)
	default:
		e.kind, e.advice = ErrServer, "try again later: what has arrived is kept"
	}
	return e
}

func rateAdvice(resp *http.Response, hasToken bool) string {
	advice := "try again later"
	if d, ok := askedWait(resp, time.Now()); ok {
		advice = fmt.Sprintf("try again in %v", max(d.Round(time.Second), time.Second))
	}
	if !hasToken {
		advice += ", or set HF_TOKEN: with a token the limits are higher"
	}
	return advice + "; what has arrived is kept"
}

// firstLine is the start of a body if it is text for people.
func firstLine(body []byte) string {
	text := strings.TrimSpace(string(body[:min(len(body), 2*maxQuoted)]))
	if strings.HasPrefix(text, "<") {
		return "" // a page
	}
	line, _, _ := strings.Cut(text, "\n")
	return line
}
