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

// actixHeaders are those of zeusd's web server.
func actixHeaders(_ int, contentType string, length int, more []string) []string {
	lines := append([]string{fmt.Sprintf("content-length: %d", length)}, more...)
	if contentType != "" {
		lines = append(lines, "content-type: "+contentType)
	}
	return append(lines, dateLine())
}

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
	if z.authorized(c, req) {
		z.answer(ctx, c, req)
	}
}

func (z *Zeusd) answer(ctx context.Context, c *conn, req *http.Request) {
	switch path := req.URL.Path; path {
	case "/discover":
		c.answerJSON(http.StatusOK, z.discovery())
	case "/time":
		c.answerJSON(http.StatusOK, map[string]int64{"timestamp_ms": z.nowMS()})
	case "/auth/whoami":
		c.answerJSON(http.StatusOK, map[string]any{"sub": "sim", "scopes": z.cfg.Scopes})
	case "/gpu/get_power", "/cpu/get_power":
		z.serveGetPower(ctx, c, req)
	case "/gpu/stream_power", "/cpu/stream_power":
		cpu := strings.HasPrefix(path, "/cpu/")
		if ids, ok := z.ids(c, req, cpu, true); ok {
			z.stream(ctx, c, cpu, ids)
		}
	case "/gpu/get_cumulative_energy":
		z.serveGPUs(ctx, c, req, func(id int) any {
			return map[string]int64{"energy_mj": z.energyMJ(id)}
		})
	case "/gpu/get_power_limit_constraints":
		if z.cfg.Version == Zeusd04 {
			c.answer(http.StatusNotFound, "", nil)
			return
		}
		z.serveGPUs(ctx, c, req, func(int) any {
			return struct {
				Min int64 `json:"min_power_limit_mw"`
				Max int64 `json:"max_power_limit_mw"`
			}{200_000, powerLimitW * 1000}
		})
	default:
		c.answer(http.StatusNotFound, "", nil)
	}
}

// powerLimitW is the largest power limit of every simulated GPU, in watts.
const powerLimitW = 700

// energyMJ is the energy that a GPU has taken, in millijoules.
func (z *Zeusd) energyMJ(id int) int64 { return int64(z.cfg.GPUs[id].EnergyJ() * 1e3) }

// authorized answers for itself if the request may not pass.
func (z *Zeusd) authorized(c *conn, req *http.Request) bool {
	path := req.URL.Path
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
		c.answerError(http.StatusUnauthorized, "Invalid token: InvalidSignature", challenge)
	case scope != "" && !slices.Contains(z.cfg.Scopes, scope):
		c.answerError(http.StatusForbidden, fmt.Sprintf("Token for user 'sim' lacks required scope '%s'. Token scopes: ['%s']",
			scope, strings.Join(z.cfg.Scopes, "', '")))
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
		ID   int    `json:"id"`
		Name string `json:"name"`
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
		d.GPUs = append(d.GPUs, gpu{id, g.name})
	}
	for id := range z.cfg.CPUs {
		d.CPUs = append(d.CPUs, cpu{id, true})
	}
	return d
}

// ids reads which devices a client asks for. It answers for itself if there are
// not such.
func (z *Zeusd) ids(c *conn, req *http.Request, cpu, stream bool) (ids []int, ok bool) {
	ids, refusal := z.parseIDs(req.URL.RawQuery, cpu, stream)
	if refusal != "" {
		c.answerError(http.StatusBadRequest, refusal)
	}
	return ids, refusal == ""
}

// parseIDs reads the ids of devices in a query: all devices if it names none. A
// refusal is in the daemon's words.
func (z *Zeusd) parseIDs(query string, cpu, stream bool) (ids []int, refusal string) {
	kind, n := "GPU", len(z.pollers(cpu).devices)
	if cpu {
		kind = "CPU"
	}
	key := strings.ToLower(kind) + "_ids"
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Sprintf("Query deserialize error: %v", err)
	}
	for name := range values {
		if name != key {
			return nil, fmt.Sprintf("Query deserialize error: unknown field `%s`, expected `%s`", name, key)
		}
	}
	ids = []int{}
	var unknown []int
	if !values.Has(key) {
		for id := range n {
			ids = append(ids, id)
		}
		return ids, ""
	}
	for word := range strings.SplitSeq(values.Get(key), ",") {
		id, err := strconv.Atoi(word)
		switch {
		case err != nil || id < 0:
			return nil, fmt.Sprintf("Invalid %s index: %s", kind, word)
		case id >= n:
			unknown = append(unknown, id)
		case !slices.Contains(ids, id):
			ids = append(ids, id)
		}
	}
	switch {
	case len(unknown) == 0:
		slices.Sort(ids)
		return ids, ""
	case !stream && z.cfg.Version != Zeusd04:
		return nil, fmt.Sprintf("%s %d not found", kind, unknown[0])
	}
	available := make([]string, n)
	for id := range available {
		available[id] = strconv.Itoa(id)
	}
	brackets := "[]"
	if z.cfg.Version == Zeusd04 {
		brackets = "{}"
	}
	return nil, fmt.Sprintf("Unknown %s indices: %s. Available: %c%s%c", kind,
		strings.ReplaceAll(fmt.Sprint(unknown), " ", ", "), brackets[0], strings.Join(available, ", "), brackets[1])
}

func (z *Zeusd) serveGetPower(ctx context.Context, c *conn, req *http.Request) {
	cpu := strings.HasPrefix(req.URL.Path, "/cpu/")
	ids, ok := z.ids(c, req, cpu, false)
	if !ok {
		return
	}
	if z.cfg.Version == Zeusd04 {
		if s, ok := z.next(ctx, c, cpu, ids); ok {
			c.answer(http.StatusOK, "application/json", s.json(cpu))
		}
		return
	}
	if !cpu && !z.readable(ctx, c, ids) {
		return
	}
	z.mu.Lock()
	s := snapshot{ids: ids, mw: make([][2]int64, len(ids))}
	for i, id := range ids {
		s.mw[i] = z.read(cpu, id)
	}
	s.atMS = z.nowMS()
	z.mu.Unlock()
	c.answer(http.StatusOK, "application/json", s.json(cpu))
}

// serveGPUs answers with what the driver says of each GPU asked for.
func (z *Zeusd) serveGPUs(ctx context.Context, c *conn, req *http.Request, ask func(id int) any) {
	ids, ok := z.ids(c, req, false, false)
	if !ok || !z.readable(ctx, c, ids) {
		return
	}
	answer := map[string]any{}
	for _, id := range ids {
		answer[strconv.Itoa(id)] = ask(id)
	}
	c.answerJSON(http.StatusOK, answer)
}

// readable waits until the driver answers for all of the GPUs. It answers for
// itself if some cannot be read.
func (z *Zeusd) readable(ctx context.Context, c *conn, gpus []int) bool {
	faults, ok := z.awaitGPUs(ctx, c, gpus)
	if !ok {
		c.last = true
		return false
	}
	failed := map[string]string{}
	for _, id := range gpus {
		if slices.Contains(faults.FailedGPUs, id) {
			failed[strconv.Itoa(id)] = "NVML error: device fell off the bus or has otherwise become inacessible"
		}
	}
	if len(failed) > 0 {
		c.answerJSON(http.StatusInternalServerError, map[string]any{"errors": failed})
	}
	return len(failed) == 0
}
