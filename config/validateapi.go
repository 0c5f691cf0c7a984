package config

import (
	"fmt"
	"strconv"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/apirule"
)

const maxHistoryStates = 1_000_000

func (a *API) validate(r *rules) {
	if a.Listen != "" {
		address, err := apirule.ParseListen(a.Listen)
		if err != nil {
			err = fmt.Errorf("%w; empty is no API", err)
		}
		if r.none(err, "api.listen") && address.IsOpen() && a.TokenFile == "" {
			r.none(apirule.OpenWithoutToken(a.Listen), "api.listen")
		}
	}
	r.none(apirule.ControlWithRead(a.TokenFile, a.ReadTokenFile), "api.token_file")
	if missing, err := apirule.TLSFiles(a.TLSCertFile, a.TLSKeyFile); err != nil {
		r.none(err, "api."+missing)
	}
	for i, origin := range a.AllowedOrigins {
		_, err := apirule.Origin(origin)
		r.none(err, "api.allowed_origins["+strconv.Itoa(i)+"]")
	}
	for i, host := range a.AllowedHosts {
		_, err := apirule.Host(host)
		r.none(err, "api.allowed_hosts["+strconv.Itoa(i)+"]")
	}
	r.none(apirule.RequestsPerS(a.MaxRequestsPerS), "api.max_requests_per_s")
	if r.none(apirule.Connections(a.MaxConnections), "api.max_connections") {
		r.none(apirule.ConnectionsPerAddress(a.MaxConnectionsPerAddress, a.MaxConnections), "api.max_connections_per_address")
	}
	r.that(a.HistoryStates >= 1 && a.HistoryStates <= maxHistoryStates, "api.history_states",
		"must be from 1 to %d, got %d", maxHistoryStates, a.HistoryStates)
}

// none notes err, if there is one, as what is wrong at path; it reports whether
// there is none.
func (r *rules) none(err error, path string) bool {
	return err == nil || r.that(false, path, "%v", err)
}

func (c *Control) validate(r *rules) {
	r.that(c.DefaultLeaseS >= 0 && c.DefaultLeaseS <= datacenter.MaxLeaseS, "control.default_lease_s",
		"must be from 0 (no lease) to %d, got %v", datacenter.MaxLeaseS, c.DefaultLeaseS)
}
