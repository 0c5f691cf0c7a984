package config

import "path/filepath"

// resolvePaths makes relative paths relative to the config file's directory; without
// one they stay.
func (c *Config) resolvePaths(dir string) {
	if dir == "" {
		return
	}
	for _, p := range c.paths() {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, filepath.FromSlash(*p))
		}
	}
}

// paths are the keys that hold paths.
func (c *Config) paths() []*string {
	paths := []*string{&c.Replay.DataDir, &c.Live.RequestsDir, &c.API.TokenFile, &c.API.ReadTokenFile, &c.API.TLSCertFile, &c.API.TLSKeyFile, &c.Record.Dir}
	for i := range c.Training {
		paths = append(paths, &c.Training[i].Trace)
	}
	for i := range c.Models {
		live := c.Models[i].Live
		if live == nil {
			continue
		}
		paths = append(append(paths, &live.APIKeyFile), endpointPaths(live.GPUEndpoints)...)
		for j := range live.Servers {
			s := &live.Servers[j]
			paths = append(append(paths, &s.APIKeyFile), endpointPaths(s.GPUEndpoints)...)
		}
	}
	return paths
}

func endpointPaths(endpoints []GPUEndpoint) []*string {
	var paths []*string
	for i := range endpoints {
		paths = append(paths, &endpoints[i].Socket, &endpoints[i].File, &endpoints[i].TokenFile)
	}
	return paths
}
