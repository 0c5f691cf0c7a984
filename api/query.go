package api

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/api/stream"
)

// query is the query of a request.
type query struct {
	raw    string
	values url.Values
}

func queryOf(r *http.Request) query { return query{r.URL.RawQuery, r.URL.Query()} }

func badQuery(name, format string, args ...any) *problem.Problem {
	message := fmt.Sprintf(format, args...)
	location := "query." + problem.Shorten(name)
	return problem.New(http.StatusUnprocessableEntity, "%s: %s", location, message).At(location, message)
}

// one returns a parameter's value, there only if it is there.
func (q query) one(name string) (value string, there bool, refused *problem.Problem) {
	switch values := q.values[name]; len(values) {
	case 0:
		return "", false, nil
	case 1:
		return values[0], true, nil
	}
	return "", true, badQuery(name, "must stand there once")
}

// whole returns an integer from least to most, usual if it is not there.
func (q query) whole(name string, usual, least, most int) (int, *problem.Problem) {
	value, there, refused := q.one(name)
	if refused != nil {
		return 0, refused
	}
	if !there {
		return usual, nil
	}
	// Digits alone: no sign, no point.
	if n, err := strconv.ParseUint(value, 10, 63); err == nil && n >= uint64(least) && n <= uint64(most) {
		return int(n), nil
	}
	return 0, badQuery(name, "must be a whole number from %d to %d, got %q", least, most, problem.Shorten(value))
}

// flag reports whether a parameter is there and not false.
func (q query) flag(name string) (bool, *problem.Problem) {
	value, there, refused := q.one(name)
	switch {
	case refused != nil:
		return false, refused
	case !there, value == "false", value == "0":
		return false, nil
	case value == "", value == "true", value == "1":
		return true, nil
	}
	return false, badQuery(name, "must be true or false or without a value, got %q", problem.Shorten(value))
}

// checkQuery returns what is wrong with a query that is malformed, of which
// net/url would skip a part, or has parameters other than these.
func checkQuery(r *http.Request, known []string) *problem.Problem {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return problem.New(http.StatusUnprocessableEntity, "the query is malformed: %v", err).At("query", "is malformed")
	}
	for name := range values {
		if !slices.Contains(known, name) {
			return badQuery(name, "unknown parameter, known are %q", known)
		}
	}
	return nil
}

// after returns the id of the last event seen, -1 if it is not there.
func (q query) after() (int64, *problem.Problem) {
	after, there, err := stream.AfterOf(q.raw)
	switch {
	case err != nil:
		return 0, badQuery("after", "%v", err)
	case !there:
		return -1, nil
	case after > maxEventID:
		return 0, badQuery("after", "must be at most %d, got %d", maxEventID, after)
	}
	return after, nil
}

// reading serves what f returns, or its problem. The query may have no other
// parameters than these.
func reading(f func(query) (any, *problem.Problem), parameters ...string) http.Handler {
	return goodQuery(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, refused := f(queryOf(r))
		if refused != nil {
			refused.Write(w)
			return
		}
		writeJSON(w, http.StatusOK, body)
	}), parameters...)
}

// goodQuery refuses requests that checkQuery finds something wrong with.
func goodQuery(next http.Handler, parameters ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refused := checkQuery(r, parameters); refused != nil {
			refused.Write(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}
