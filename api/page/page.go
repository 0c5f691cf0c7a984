// Package page is the agent's live page: what an operator watches, and sends
// commands from. It is plain HTML, CSS and JavaScript modules, kept in the binary;
// it loads nothing from elsewhere, and speaks to the agent only through the HTTP
// API that everybody else uses.
package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"mime"
	"net/http"
	"path"
	"time"

	"github.com/g2g-agent/g2g-agent/api/problem"
)

//go:embed assets
var assets embed.FS

// contentSecurityPolicy lets the page use what the agent itself serves and
// nothing else: text smuggled into it cannot become a script.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; " +
	"img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

// folder is where the files are, in the binary and below "/".
const folder = "assets"

// file is a file of the page.
type file struct {
	content          []byte
	contentType, tag string
}

// Handler serves the page at "/" and its files below "/assets/", to GET and HEAD;
// any other path is not found. The page works below a prefix too, where a proxy
// in front takes the prefix away.
func Handler() http.Handler {
	files := map[string]file{}
	entries, _ := assets.ReadDir(folder) // it is in the binary
	for _, entry := range entries {
		name := entry.Name()
		content, _ := assets.ReadFile(path.Join(folder, name)) // so is this
		sum := sha256.Sum256(content)
		f := file{content, contentType(name), `"` + hex.EncodeToString(sum[:16]) + `"`}
		if name == "index.html" {
			files["/"] = f
			continue
		}
		files["/"+folder+"/"+name] = f
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, found := files[r.URL.Path]
		if !found {
			problem.New(http.StatusNotFound, "the page has no file %s", problem.Shorten(r.URL.Path)).Write(w)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			problem.New(http.StatusMethodNotAllowed, "the page is only read: use GET or HEAD").Write(w)
			return
		}
		h := w.Header()
		h.Set("Content-Type", f.contentType)
		h.Set("Content-Security-Policy", contentSecurityPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("ETag", f.tag)
		// A browser asks each time, so that a new version of the agent never runs
		// with half of an old page.
		h.Set("Cache-Control", "no-cache")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
	})
}

// contentType does not depend on what the machine's MIME tables say of scripts.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".html":
		return "text/html; charset=utf-8"
	}
	return mime.TypeByExtension(path.Ext(name))
}
