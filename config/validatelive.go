package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/g2g-agent/g2g-agent/internal/baseurl"
	"github.com/g2g-agent/g2g-agent/power"
	"github.com/g2g-agent/g2g-agent/power/kinds"
	"github.com/g2g-agent/g2g-agent/vllm"
)

func (l *LiveModel) validate(r *rules, path string) {
	if n := l.SimulatedNumReplicas; n != nil {
		r.count(path+".simulated_num_replicas", *n, 0)
	}
	if l.Servers != nil {
		r.that(len(l.Servers) > 0, path+".servers", "must list at least one vLLM server")
		const own = "each of servers has its own; leave it out here"
		r.that(l.VLLMBaseURL == "", path+".vllm_base_url", own)
		r.that(l.GPUEndpoints == nil, path+".gpu_endpoints", own)
	}
	if len(l.Servers) > 0 {
		validActuator(r, path, l.BatchSizeActuator)
	}
	gpus, servers := map[string]bool{}, map[string]int{}
	each := l.Servers // what they take from the model was checked above
	if len(each) == 0 {
		each = l.AllServers()
	}
	for i, s := range each {
		at := path + l.ServerPath(i)
		s.validate(r, at, gpus)
		server := baseurl.Identity(s.VLLMBaseURL)
		if first, twice := servers[server]; twice && server != "" {
			r.that(false, at+".vllm_base_url", "is that of servers[%d] already", first)
		} else {
			servers[server] = i
		}
	}
}

// validate notes what is wrong with a server; seen are the GPUs of those before.
func (s *LiveServer) validate(r *rules, path string, seen map[string]bool) {
	if s.VLLMBaseURL != "" {
		validBaseURL(r, path+".vllm_base_url", s.VLLMBaseURL)
	}
	validActuator(r, path, s.BatchSizeActuator)
	for i, e := range s.GPUEndpoints {
		at := fmt.Sprintf("%s.gpu_endpoints[%d]", path, i)
		e.validate(r, at)
		kind, known := kinds.Table()[e.Kind()]
		for j, g := range e.GPUs() {
			if index := fmt.Sprintf("%s.gpu_indices[%d]", at, j); known && r.clean(index) {
				id := fmt.Sprintf("%s %s %d", e.Kind(), kind.Identity(e.Endpoint()), g)
				r.that(!seen[id], index, "GPU %d of this endpoint stands there twice", g)
				seen[id] = true
			}
		}
	}
}

func validActuator(r *rules, path, actuator string) {
	r.that(actuator == "" || slices.Contains(batchSizeActuators(), actuator), path+".batch_size_actuator",
		"must be one of %q, got %q", batchSizeActuators(), actuator)
}

func validBaseURL(r *rules, path, raw string) {
	_, err := baseurl.Parse(raw)
	var flawed *baseurl.Error
	switch {
	case !errors.As(err, &flawed):
	case flawed.Flaw == baseurl.NoAddress:
		r.that(false, path, "must be an http or https URL such as http://node1:8000, got %s", sentence(power.QuoteAddress(raw)))
	case flawed.Flaw == baseurl.WithUser:
		r.that(false, path, "must have no user name or password in it; the key of a server goes into api_key_file")
	default:
		r.that(false, path, "%v", flawed)
	}
}

func (e *GPUEndpoint) validate(r *rules, path string) {
	names := slices.Sorted(maps.Keys(kinds.Table()))
	kind, known := kinds.Table()[e.Kind()]
	if !r.that(known, path+".source", "must be one of %q, got %q", names, e.Source) {
		return
	}
	for _, p := range slices.Concat(kind.Check(e.Endpoint()), power.CheckGPUs(e.GPUs()), power.CheckRange(e.PowerRangeW)) {
		at := path
		if p.Key != "" {
			at += "." + p.Key
		}
		r.that(false, at, "%s", sentence(p.Text))
	}
}

// Kind is the kind of the source.
func (e *GPUEndpoint) Kind() string { return cmp.Or(e.Source, kinds.Default) }

// GPUs are the indices of the endpoint's GPUs, by default the first.
func (e *GPUEndpoint) GPUs() []int {
	if e.GPUIndices == nil {
		return []int{0}
	}
	return e.GPUIndices
}

// Endpoint is the endpoint in the vocabulary of package power, its token still to
// be read.
func (e *GPUEndpoint) Endpoint() power.Endpoint {
	endpoint := power.Endpoint{Host: e.Host, Port: e.Port, Socket: e.Socket, File: e.File, TokenFile: e.TokenFile, GPUIndices: e.GPUs()}
	if len(e.PowerRangeW) == len(endpoint.RangeW) {
		endpoint.RangeW = [2]float64(e.PowerRangeW)
	}
	return endpoint
}

// batchSizeActuators are the values of batch_size_actuator.
func batchSizeActuators() []string {
	names := []string{"auto"}
	for _, name := range vllm.Actuators() {
		names = append(names, string(name))
	}
	return names
}
