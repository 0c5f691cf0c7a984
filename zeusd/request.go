package zeusd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// The API groups of a daemon that this package reads.
const (
	GroupGPURead = "gpu-read"
	GroupCPURead = "cpu-read"

	groupGPUControl = "gpu-control"
)

// maxBodyBytes bounds an answer; that of a host with many GPUs has some kilobytes.
const maxBodyBytes = 1 << 20

var (
	// ErrRefused is wrapped by the errors that only another token mends, or a proxy
	// that gets over it: the daemon does not accept the token (401), or the token
	// lacks the scope (403).
	ErrRefused = errors.New("refused")

	errNoAnswer = errors.New("no answer in time")
)

// StatusError is an answer of a daemon other than 200. It wraps [ErrRefused] for
// 401 and 403.
type StatusError struct {
	// Method is GET unless it is given.
	Method string
	Path   string
	Status int
	// Message is what the daemon says of it, shortened.
	Message string
	// devices is what failed at each device, by index, when the daemon understood
	// the question and tells that.
	devices map[int]string
}

// Error returns the path, the status, the daemon's words, and for the frequent
// ones what to do.
func (e *StatusError) Error() string {
	var b strings.Builder
	method := cmp.Or(e.Method, http.MethodGet)
	fmt.Fprintf(&b, "%s %s: status %d", method, e.Path, e.Status)
	if e.Message != "" {
		fmt.Fprintf(&b, ": %s", e.Message)
	}
	group := GroupGPURead
	switch {
	case method != http.MethodGet:
		group = groupGPUControl
	case strings.HasPrefix(e.Path, "/cpu/"):
		group = GroupCPURead
	}
	switch {
	case e.Status == http.StatusUnauthorized:
		b.WriteString(" (the daemon wants another token)")
	case e.Status == http.StatusForbidden && e.devices == nil:
		fmt.Fprintf(&b, " (the token needs the scope %s)", group)
	case e.Status == http.StatusNotFound && (strings.HasPrefix(e.Path, "/gpu/") || strings.HasPrefix(e.Path, "/cpu/")):
		fmt.Fprintf(&b, " (the API group %s is off there: start zeusd with it enabled)", group)
	case e.Status == http.StatusNotFound && e.Path == "/time":
		b.WriteString(" (zeusd 0.3 does not tell its time and cannot be read: 0.4 or later is needed)")
	case e.Status == http.StatusNotFound:
		b.WriteString(" (is this a zeusd of 0.4 or later?)")
	}
	return b.String()
}

// Is reports that 401 and 403 are ErrRefused.
func (e *StatusError) Is(target error) bool {
	return target == ErrRefused && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden && e.devices == nil)
}

// GPUInfo is a GPU of a daemon's host.
type GPUInfo struct {
	Index int
	// Name and PCIAddress are empty before zeusd 0.5.
	Name, PCIAddress string
	// CumulativeEnergyAvailable is false before zeusd 0.5.
	CumulativeEnergyAvailable bool
}

// CPUInfo is a CPU package of a daemon's host.
type CPUInfo struct {
	Index int
	// DRAMAvailable tells whether the power of its memory is measured; false
	// where the daemon does not say.
	DRAMAvailable bool
}

// Discovery is what a daemon says of itself.
type Discovery struct {
	GPUs []GPUInfo
	CPUs []CPUInfo
	// APIGroups are those enabled, such as "gpu-read"; nil if the daemon does not
	// say.
	APIGroups    []string
	AuthRequired bool
	// PlainIDs tells that devices came as plain ids, as zeusd 0.3 and 0.4 do.
	PlainIDs bool
}

func (d Discovery) gpuIndices() []int {
	indices := make([]int, len(d.GPUs))
	for i, g := range d.GPUs {
		indices[i] = g.Index
	}
	return indices
}

func (d Discovery) cpuIndices() []int {
	indices := make([]int, len(d.CPUs))
	for i, c := range d.CPUs {
		indices[i] = c.Index
	}
	return indices
}

// checkGroup returns an error if the daemon says that the API group is off.
func (d Discovery) checkGroup(group string) error {
	if d.APIGroups == nil || slices.Contains(d.APIGroups, group) {
		return nil
	}
	return fmt.Errorf("the API group %s is off there (on: %s): start zeusd with it enabled", group, orNone(d.APIGroups))
}

// checkGPUs splits the wanted GPUs into those that exist and those that do not,
// with an error that says which exist.
func (d Discovery) checkGPUs(wanted []int) (existing, missing []int, err error) {
	have := d.gpuIndices()
	for _, gpu := range wanted {
		if slices.Contains(have, gpu) {
			existing = append(existing, gpu)
		} else {
			missing = append(missing, gpu)
		}
	}
	if missing != nil {
		err = fmt.Errorf("has no GPU %s; its GPUs are: %s", joinInts(missing), orNone(strings.Fields(joinInts(have))))
	}
	return existing, missing, err
}

// Identity is whose token it is and what it may do.
type Identity struct {
	Subject string   `json:"sub"`
	Scopes  []string `json:"scopes"`
	// ExpiresUnixS is when the token ends, in seconds since 1970; 0 for never.
	ExpiresUnixS int64 `json:"exp"`
}

func (id Identity) checkScope(scope string) error {
	if slices.Contains(id.Scopes, scope) {
		return nil
	}
	return fmt.Errorf("%w: the token of %q lacks the scope %s (it has: %s)", ErrRefused, id.Subject, scope, orNone(id.Scopes))
}

// peer asks one daemon.
type peer struct {
	endpoint Endpoint
	base     string
	token    string
	client   *http.Client
	timeout  time.Duration // of a short request; a stream has none
}

// dialer is the part of net.Dialer that a peer needs.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

func newPeer(endpoint Endpoint, timeout time.Duration, dial dialer) *peer {
	if dial == nil {
		dial = (&net.Dialer{Timeout: timeout}).DialContext
	}
	p := &peer{endpoint: endpoint, base: endpoint.url(), token: endpoint.Token.Key(), timeout: timeout}
	p.client = &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				if endpoint.Socket != "" {
					network, address = "unix", endpoint.Socket
				}
				conn, err := dial(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return abortive(conn), nil
			},
			DisableCompression:     true,
			MaxIdleConnsPerHost:    2,
			MaxResponseHeaderBytes: 64 << 10,
		},
		// A redirect would carry the token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return p
}

// close drops the idle connections; those in use end with their contexts.
func (p *peer) close() { p.client.CloseIdleConnections() }

// open sends a request and returns the answer once its status is known to be 200.
// The context bounds the reading of the body too.
func (p *peer) open(ctx context.Context, path, query string) (*http.Response, error) {
	return p.send(ctx, http.MethodGet, path, query)
}

// send is open with any method. It sends a request once.
func (p *peer) send(ctx context.Context, method, path, query string) (*http.Response, error) {
	target := p.base + path
	if query != "" {
		target += "?" + query
	}
	req, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.endpoint, err)
	}
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, p.wrap(ctx, method, path, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // what it says is an extra
		message, devices := errorMessage(body)
		return nil, fmt.Errorf("%s: %w", p.endpoint, &StatusError{Method: method, Path: path, Status: resp.StatusCode, Message: message, devices: devices})
	}
	return resp, nil
}

// wrap makes one line of an error of the transport.
func (p *peer) wrap(ctx context.Context, method, path string, err error) error {
	if urlErr := (*url.Error)(nil); errors.As(err, &urlErr) {
		err = urlErr.Err
	}
	if cause := context.Cause(ctx); ctx.Err() != nil && cause != nil {
		err = cause
	}
	return fmt.Errorf("%s: %s %s: %w", p.endpoint, method, path, err)
}

// maxWords bounds what a message repeats of a daemon's words, in bytes.
const maxWords = 200

// errorMessage takes the daemon's words out of the body of an error, and what they
// say of each device.
func errorMessage(body []byte) (message string, devices map[int]string) {
	var says struct {
		Error  string         `json:"error"`
		Errors map[int]string `json:"errors"`
	}
	if json.Unmarshal(body, &says) != nil {
		return excerpt.Quote(string(body), maxWords), nil
	}
	if says.Error != "" {
		return excerpt.Printable(says.Error, maxWords), nil
	}
	var words []string
	for _, device := range slices.Sorted(maps.Keys(says.Errors)) {
		says.Errors[device] = excerpt.Printable(says.Errors[device], maxWords)
		words = append(words, fmt.Sprintf("device %d: %s", device, says.Errors[device]))
	}
	return excerpt.Of(strings.Join(words, "; "), 2*maxWords), says.Errors
}

// limit bounds a short question.
func (p *peer) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, p.timeout, fmt.Errorf("%w (%v)", errNoAnswer, p.timeout))
}

// get asks a question and returns the body with the times around it.
func (p *peer) get(ctx context.Context, path, query string) (body []byte, trip roundTrip, err error) {
	trip.sent = time.Now()
	resp, err := p.open(ctx, path, query)
	if err != nil {
		return nil, trip, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxBodyBytes+1))
	trip.received = time.Now()
	if err != nil {
		return nil, trip, p.wrap(ctx, http.MethodGet, path, err)
	}
	if len(body) > maxBodyBytes {
		return nil, trip, fmt.Errorf("%s: GET %s: the answer is longer than %d bytes", p.endpoint, path, maxBodyBytes)
	}
	return body, trip, nil
}

// getJSON asks a short question.
func (p *peer) getJSON(ctx context.Context, path, query string, into any) (roundTrip, error) {
	ctx, cancel := p.limit(ctx)
	defer cancel()
	body, trip, err := p.get(ctx, path, query)
	if err != nil {
		return trip, err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return trip, fmt.Errorf("%s: GET %s: answer %.80q: %w", p.endpoint, path, body, err)
	}
	return trip, nil
}

func (p *peer) discover(ctx context.Context) (Discovery, error) {
	var says struct {
		GPUs []struct {
			ID         *wholeNumber `json:"id"`
			Name       string       `json:"name"`
			PCIAddress string       `json:"pci_address"`
			Energy     bool         `json:"cumulative_energy_available"`
		} `json:"gpus"`
		CPUs []struct {
			ID   *wholeNumber `json:"id"`
			DRAM bool         `json:"dram_available"`
		} `json:"cpus"`
		GPUIDs        []wholeNumber `json:"gpu_ids"`
		CPUIDs        []wholeNumber `json:"cpu_ids"`
		DRAMAvailable []bool        `json:"dram_available"`
		APIGroups     []string      `json:"enabled_api_groups"`
		AuthRequired  bool          `json:"auth_required"`
	}
	if _, err := p.getJSON(ctx, "/discover", "", &says); err != nil {
		return Discovery{}, err
	}
	d := Discovery{APIGroups: says.APIGroups, AuthRequired: says.AuthRequired, PlainIDs: says.GPUs == nil && says.CPUs == nil}
	for _, g := range says.GPUs {
		if g.ID == nil {
			return Discovery{}, fmt.Errorf("%s: GET /discover: a GPU has no id", p.endpoint)
		}
		d.GPUs = append(d.GPUs, GPUInfo{Index: int(*g.ID), Name: g.Name, PCIAddress: g.PCIAddress, CumulativeEnergyAvailable: g.Energy})
	}
	for _, c := range says.CPUs {
		if c.ID == nil {
			return Discovery{}, fmt.Errorf("%s: GET /discover: a CPU has no id", p.endpoint)
		}
		d.CPUs = append(d.CPUs, CPUInfo{Index: int(*c.ID), DRAMAvailable: c.DRAM})
	}
	if says.GPUs == nil {
		for _, id := range says.GPUIDs {
			d.GPUs = append(d.GPUs, GPUInfo{Index: int(id)})
		}
	}
	if says.CPUs == nil {
		for i, id := range says.CPUIDs {
			d.CPUs = append(d.CPUs, CPUInfo{Index: int(id), DRAMAvailable: i < len(says.DRAMAvailable) && says.DRAMAvailable[i]})
		}
	}
	if says.GPUs == nil && says.CPUs == nil && says.GPUIDs == nil && says.CPUIDs == nil {
		return Discovery{}, fmt.Errorf("%s: GET /discover: the answer names neither gpus nor gpu_ids; is this a zeusd of 0.4 or later?",
			p.endpoint)
	}
	return d, nil
}

func (p *peer) whoAmI(ctx context.Context) (Identity, error) {
	var id Identity
	_, err := p.getJSON(ctx, "/auth/whoami", "", &id)
	return id, err
}

// time asks for the daemon's time once.
func (p *peer) time(ctx context.Context) (roundTrip, error) {
	var says struct {
		TimestampMS wholeNumber `json:"timestamp_ms"`
	}
	trip, err := p.getJSON(ctx, "/time", "", &says)
	if err != nil {
		return trip, err
	}
	if says.TimestampMS <= 0 || says.TimestampMS > maxTimestampMS {
		return trip, fmt.Errorf("%s: GET /time: timestamp_ms is %d, want milliseconds since 1970", p.endpoint, says.TimestampMS)
	}
	trip.timestampMS = int64(says.TimestampMS)
	return trip, nil
}

// times asks for the daemon's time as often as one estimate of its clock takes.
func (p *peer) times(ctx context.Context) ([]roundTrip, error) {
	trips := make([]roundTrip, roundTrips)
	for i := range trips {
		var err error
		if trips[i], err = p.time(ctx); err != nil {
			return nil, err
		}
	}
	return trips, nil
}

// energyPath is the call that asks the driver for energy counters.
const energyPath = "/gpu/get_cumulative_energy"

// energy asks for the energy counters of GPUs, in millijoules.
func (p *peer) energy(ctx context.Context, gpus []int) (mj map[int]float64, err error) {
	var says map[int]struct {
		EnergyMJ *float64 `json:"energy_mj"`
	}
	if _, err := p.getJSON(ctx, energyPath, powerQuery(GPU, gpus), &says); err != nil {
		return nil, err
	}
	mj = make(map[int]float64, len(says))
	for gpu, says := range says {
		if says.EnergyMJ == nil {
			return nil, fmt.Errorf("%s: GET %s: GPU %d has no energy_mj", p.endpoint, energyPath, gpu)
		}
		mj[gpu] = *says.EnergyMJ
	}
	return mj, nil
}

// powerLimits asks for the largest power limits of GPUs, in watts, by GPU. What
// no GPU can have is left out.
func (p *peer) powerLimits(ctx context.Context, gpus []int) (mostW map[int]float64, err error) {
	const path = "/gpu/get_power_limit_constraints"
	var says map[int]struct {
		MaxMW float64 `json:"max_power_limit_mw"`
	}
	if _, err := p.getJSON(ctx, path, powerQuery(GPU, gpus), &says); err != nil {
		return nil, err
	}
	mostW = make(map[int]float64, len(says))
	for _, gpu := range gpus {
		limitW := says[gpu].MaxMW / 1e3
		if !(limitW >= leastLimitW && limitW <= mostGPUW) {
			err = fmt.Errorf("%s: GET %s: the largest power limit of GPU %d is %v W, want %v to %v",
				p.endpoint, path, gpu, limitW, leastLimitW, mostGPUW)
			continue
		}
		mostW[gpu] = limitW
	}
	return mostW, err
}

// power asks for the power of some devices, for as long as ctx allows.
func (p *peer) power(ctx context.Context, kind Kind, indices []int, into *powerEvent) (roundTrip, error) {
	path, query := powerPath(kind, "get_power"), powerQuery(kind, indices)
	body, trip, err := p.get(ctx, path, query)
	if err != nil {
		return trip, err
	}
	if err := into.parse(kind, body); err != nil {
		return trip, fmt.Errorf("%s: GET %s: %w: %w", p.endpoint, path, errBadAnswer, err)
	}
	trip.timestampMS = into.timestampMS
	return trip, nil
}

func powerPath(kind Kind, call string) string {
	return "/" + strings.ToLower(kind.String()) + "/" + call
}

func powerQuery(kind Kind, indices []int) string {
	return strings.ToLower(kind.String()) + "_ids=" + strings.ReplaceAll(joinInts(indices), ", ", ",")
}

func joinInts(ints []int) string {
	words := make([]string, len(ints))
	for i, n := range ints {
		words[i] = strconv.Itoa(n)
	}
	return strings.Join(words, ", ")
}

func orNone(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return excerpt.Printable(strings.Join(words, " "), maxWords)
}
