package sim

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

func (z *Zeusd) serve(ctx context.Context, c *conn, req *http.Request) {
	if serveAdmin(c, req, admin{
		life:   &z.life,
		faults: func() any { return z.Faults() },
		setFaults: func(body []byte) error {
			f, err := decodeStrict[ZeusdFaults](body)
			if err == nil {
				z.SetFaults(f)
			}
			return err
		},
		truth: func() any { return z.Truth() },
	}) {
		return
	}
	z.mu.Lock()
	// Fixed memory: a scan of paths cannot fill the map.
	if _, known := z.truth.Requests[req.URL.Path]; known || len(z.truth.Requests) < 64 {
		z.truth.Requests[req.URL.Path]++
	}
	z.mu.Unlock()
	faults, ok := z.await(ctx)
	if !ok {
		return
	}
	if faults.Status != 0 {
		c.answerError(faults.Status, "simulated fault")
		return
	}
	if req.Method != http.MethodGet {
		c.answerError(http.StatusNotFound, "no such API")
		return
	}
	path := req.URL.Path
	if !z.authorized(c, req, path) {
		return
	}
	switch path {
	case "/discover":
		c.answerJSON(http.StatusOK, z.discovery())
	case "/time":
		c.answerJSON(http.StatusOK, map[string]int64{"timestamp_ms": z.nowMS()})
	case "/auth/whoami":
		c.answerJSON(http.StatusOK, map[string]any{"sub": "sim", "scopes": z.cfg.Scopes})
	case "/gpu/get_power", "/cpu/get_power", "/gpu/stream_power", "/cpu/stream_power":
		kind, action, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
		ids, err := parseIDs(req.URL.RawQuery, kind+"_ids", z.devices(kind == "cpu"))
		if err != nil {
			c.answerError(http.StatusBadRequest, err.Error())
			return
		}
		if action == "stream_power" {
			z.stream(c, kind == "cpu", ids)
		} else {
			z.getPower(c, kind == "cpu", ids, faults)
		}
	default:
		c.answerError(http.StatusNotFound, "no such API")
	}
}

// authorized answers for itself if the request may not pass.
func (z *Zeusd) authorized(c *conn, req *http.Request, path string) bool {
	if path == "/discover" || path == "/time" {
		return true
	}
	var scope string
	switch {
	case strings.HasPrefix(path, "/gpu/"):
		scope = ScopeGPURead
	case strings.HasPrefix(path, "/cpu/"):
		scope = ScopeCPURead
	}
	if scope == ScopeCPURead && z.cfg.CPUs == 0 {
		c.answerError(http.StatusNotFound, "API group 'cpu-read' is not enabled on this server.")
		return false
	}
	if z.cfg.Token == "" {
		if strings.HasPrefix(path, "/auth/") {
			c.answerError(http.StatusNotFound, "Authentication is not enabled on this server.")
			return false
		}
		return true
	}
	const challenge = `www-authenticate: Bearer realm="zeusd"`
	token, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	switch {
	case !ok:
		c.answerError(http.StatusUnauthorized, "Authentication required.", challenge)
	case token != z.cfg.Token:
		c.answerError(http.StatusUnauthorized, "Invalid token.", challenge)
	case scope != "" && !slices.Contains(z.cfg.Scopes, scope):
		c.answerError(http.StatusForbidden, fmt.Sprintf("Token for user 'sim' lacks required scope '%s'.", scope))
	default:
		return true
	}
	return false
}

func (z *Zeusd) discovery() any {
	groups := []string{ScopeGPURead}
	if z.cfg.CPUs > 0 {
		groups = append(groups, ScopeCPURead)
	}
	auth := z.cfg.Token != ""
	if z.cfg.Version == Zeusd04 {
		d := struct {
			GPUIDs        []int    `json:"gpu_ids"`
			CPUIDs        []int    `json:"cpu_ids"`
			DRAMAvailable []bool   `json:"dram_available"`
			Groups        []string `json:"enabled_api_groups"`
			AuthRequired  bool     `json:"auth_required"`
		}{[]int{}, []int{}, []bool{}, groups, auth}
		for id := range z.cfg.GPUs {
			d.GPUIDs = append(d.GPUIDs, id)
		}
		for id := range z.cfg.CPUs {
			d.CPUIDs = append(d.CPUIDs, id)
			d.DRAMAvailable = append(d.DRAMAvailable, true)
		}
		return d
	}
	type gpu struct {
		ID      int    `json:"id"`
		Name    string `json:"name"`
		PCI     string `json:"pci_address"`
		Counter bool   `json:"cumulative_energy_available"`
	}
	type cpu struct {
		ID            int  `json:"id"`
		DRAMAvailable bool `json:"dram_available"`
	}
	d := struct {
		GPUs         []gpu    `json:"gpus"`
		CPUs         []cpu    `json:"cpus"`
		Groups       []string `json:"enabled_api_groups"`
		AuthRequired bool     `json:"auth_required"`
	}{[]gpu{}, []cpu{}, groups, auth}
	for id, g := range z.cfg.GPUs {
		d.GPUs = append(d.GPUs, gpu{id, g.name, fmt.Sprintf("00000000:%02X:00.0", id+1), true})
	}
	for id := range z.cfg.CPUs {
		d.CPUs = append(d.CPUs, cpu{id, true})
	}
	return d
}

// parseIDs reads the ids a client asks for: all devices if it names none.
func parseIDs(query, key string, d *devices) ([]int, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, err
	}
	for name := range values {
		if name != key {
			return nil, fmt.Errorf("unknown query field %q, expected %q", name, key)
		}
	}
	ids := []int{}
	if !values.Has(key) {
		for id := range d.readings {
			ids = append(ids, id)
		}
		return ids, nil
	}
	for word := range strings.SplitSeq(values.Get(key), ",") {
		id, err := strconv.Atoi(word)
		if err != nil {
			return nil, fmt.Errorf("%s: %q is no index", key, word)
		}
		if id < 0 || id >= len(d.readings) {
			return nil, fmt.Errorf("%s: unknown device index %d", key, id)
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (z *Zeusd) getPower(c *conn, cpu bool, ids []int, faults ZeusdFaults) {
	failed := map[string]string{}
	if !cpu {
		for _, id := range ids {
			if slices.Contains(faults.FailedGPUs, id) {
				failed[strconv.Itoa(id)] = "NVML error: an unknown error occurred"
			}
		}
	}
	if len(failed) > 0 {
		c.answerJSON(http.StatusInternalServerError, map[string]any{"errors": failed})
		return
	}
	z.mu.Lock()
	d := z.devices(cpu)
	values := make([][2]int64, len(ids))
	for i, id := range ids {
		values[i] = z.read(d.readings[id])
	}
	at := z.nowMS()
	z.mu.Unlock()
	c.answer(http.StatusOK, "application/json", appendSnapshot(nil, at, cpu, ids, values))
}

// appendSnapshot appends the powers of several devices as one JSON object.
func appendSnapshot(b []byte, atMS int64, cpu bool, ids []int, values [][2]int64) []byte {
	b = fmt.Appendf(b, `{"timestamp_ms":%d,"power_mw":{`, atMS)
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		if cpu {
			b = fmt.Appendf(b, `"%d":{"cpu_mw":%d,"dram_mw":%d}`, id, values[i][0], values[i][1])
		} else {
			b = fmt.Appendf(b, `"%d":%d`, id, values[i][0])
		}
	}
	return append(b, "}}"...)
}
