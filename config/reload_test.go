package config

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// onReload says of every key what a running agent makes of a new value. A key
// that is new has to be classified here.
var onReload = map[string]string{
	"seed":                          "restart",
	"dt_s":                          "restart",
	"datacenter.name":               "restart",
	"datacenter.gpus_per_server":    "restart",
	"datacenter.base_kw_per_phase":  "restart",
	"datacenter.power_factor":       "restart",
	"datacenter.total_gpu_capacity": "restart",
	"datacenter.allow_labels_differing_in_case":                "restart",
	"augmentation.amplitude_scale_range":                       "restart",
	"augmentation.noise_fraction":                              "restart",
	"models[0].model_label":                                    "restart",
	"models[0].model_id":                                       "restart",
	"models[0].gpus_per_replica":                               "restart",
	"models[0].itl_deadline_s":                                 "restart",
	"models[0].feasible_batch_sizes":                           "restart",
	"models[0].initial_batch_size":                             "restart",
	"models[0].failsafe_batch_size":                            "restart",
	"models[0].replicas.initial":                               "restart",
	"models[0].replicas.ramps[0].target":                       "restart",
	"models[0].replicas.ramps[0].t_start":                      "restart",
	"models[0].replicas.ramps[0].t_end":                        "restart",
	"models[0].spec_hash":                                      "restart",
	"models[0].gpu_model":                                      "restart",
	"models[0].task":                                           "restart",
	"models[0].precision":                                      "restart",
	"models[0].tensor_parallel":                                "restart",
	"models[0].expert_parallel":                                "restart",
	"models[0].batch_sizes":                                    "restart",
	"models[0].fit_exclude_batch_sizes":                        "restart",
	"models[0].live.vllm_base_url":                             "restart",
	"models[0].live.api_key_file":                              "restart",
	"models[0].live.simulated_num_replicas":                    "restart",
	"models[0].live.batch_size_actuator":                       "restart",
	"models[0].live.gpu_endpoints[0].source":                   "restart",
	"models[0].live.gpu_endpoints[0].host":                     "restart",
	"models[0].live.gpu_endpoints[0].port":                     "restart",
	"models[0].live.gpu_endpoints[0].socket":                   "restart",
	"models[0].live.gpu_endpoints[0].file":                     "restart",
	"models[0].live.gpu_endpoints[0].token_file":               "restart",
	"models[0].live.gpu_endpoints[0].gpu_indices":              "restart",
	"models[0].live.gpu_endpoints[0].power_range_w":            "restart",
	"models[0].live.request_extra_body":                        "restart",
	"models[0].live.servers[0].vllm_base_url":                  "restart",
	"models[0].live.servers[0].api_key_file":                   "restart",
	"models[0].live.servers[0].batch_size_actuator":            "restart",
	"models[0].live.servers[0].gpu_endpoints[0].source":        "restart",
	"models[0].live.servers[0].gpu_endpoints[0].host":          "restart",
	"models[0].live.servers[0].gpu_endpoints[0].port":          "restart",
	"models[0].live.servers[0].gpu_endpoints[0].socket":        "restart",
	"models[0].live.servers[0].gpu_endpoints[0].file":          "restart",
	"models[0].live.servers[0].gpu_endpoints[0].token_file":    "restart",
	"models[0].live.servers[0].gpu_endpoints[0].gpu_indices":   "restart",
	"models[0].live.servers[0].gpu_endpoints[0].power_range_w": "restart",
	"models[0].live.servers[0].request_extra_body":             "restart",
	"training[0].n_gpus":                                       "restart",
	"training[0].trace":                                        "restart",
	"training[0].target_peak_w_per_gpu":                        "restart",
	"training[0].t_start":                                      "restart",
	"training[0].t_end":                                        "restart",
	"control.allow_infeasible_batch_sizes":                     "restart",
	"control.default_lease_s":                                  "reload",
	"replay.data_dir":                                          "restart",
	"control.allow_shifts_past_capacity":                       "restart",
	"replay.template_duration_s":                               "restart",
	"replay.at_end":                                            "restart",
	"replay.duration_s":                                        "restart",
	"replay.steady_skip_s":                                     "restart",
	"replay.itl":                                               "restart",
	"replay.commands[0].t":                                     "restart",
	"replay.commands[0].set_batch_size":                        "restart",
	"replay.commands[0].shift_replicas.model_label":            "restart",
	"replay.commands[0].shift_replicas.replica_delta":          "restart",
	"live.requests_dir":                                        "restart",
	"live.prometheus_poll_interval_s":                          "restart",
	"live.minimal_request_text":                                "restart",
	"live.max_output_tokens":                                   "restart",
	"live.itl_window_s":                                        "restart",
	"live.stagger_s":                                           "restart",
	"live.warmup_timeout_s":                                    "restart",
	"live.saturation_threshold":                                "restart",
	"live.stale_after_s":                                       "restart",
	"live.stale_error_after_s":                                 "restart",
	"live.restore_batch_sizes":                                 "restart",
	"api.listen":                                               "restart",
	"api.token_file":                                           "reload",
	"api.read_token_file":                                      "reload",
	"api.tls_cert_file":                                        "restart",
	"api.tls_key_file":                                         "restart",
	"api.allowed_origins":                                      "restart",
	"api.max_requests_per_s":                                   "restart",
	"api.max_connections":                                      "restart",
	"api.max_connections_per_address":                          "restart",
	"api.allowed_hosts":                                        "restart",
	"api.history_states":                                       "restart",
	"log.level":                                                "reload",
	"log.format":                                               "restart",
	"record.dir":                                               "restart",
	"record.max_bytes":                                         "restart",
	"record.max_age_s":                                         "restart",
	"record.sync_commands":                                     "restart",
}

// fill gives every key of a config a value: lists one element, numbers the number,
// texts a text. It calls visit for each single value.
func fill(v reflect.Value, path string, number int, visit func(path string, value reflect.Value)) {
	switch {
	case v.Type() == reflect.TypeFor[datacenter.Seconds]():
		s, _ := datacenter.SecondsOf(float64(number))
		v.Set(reflect.ValueOf(s))
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), strings.TrimPrefix(path+"."+v.Type().Field(i).Tag.Get("koanf"), "."), number, visit)
		}
		return
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), path, number, visit)
		return
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		if v.Type().Elem().Kind() == reflect.Struct {
			fill(v.Index(0), path+"[0]", number, visit)
			return
		}
		fill(v.Index(0), path, number, func(string, reflect.Value) {})
	case v.Kind() == reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		value := reflect.New(v.Type().Elem()).Elem()
		if value.Kind() == reflect.Int {
			value.SetInt(int64(number))
		} else {
			value.Set(reflect.ValueOf(number))
		}
		v.SetMapIndex(reflect.ValueOf("key"), value)
	case v.Kind() == reflect.Bool:
		v.SetBool(number%2 == 0)
	case v.CanInt():
		v.SetInt(int64(number))
	case v.CanUint():
		v.SetUint(uint64(number))
	case v.CanFloat():
		v.SetFloat(float64(number))
	default:
		v.SetString(strings.Repeat("x", number))
	}
	visit(path, v)
}

func TestChangesOfEveryKey(t *testing.T) {
	var before, values Config
	fill(reflect.ValueOf(&before).Elem(), "", 1, func(string, reflect.Value) {})
	fill(reflect.ValueOf(&values).Elem(), "", 2, func(string, reflect.Value) {})
	if reloadable, restart := Changes(&before, &before); reloadable != nil || restart != nil {
		t.Errorf("a config differs from itself in %q and %q", reloadable, restart)
	}
	var keys []string
	var after Config
	fill(reflect.ValueOf(&after).Elem(), "", 1, func(path string, _ reflect.Value) { keys = append(keys, path) })
	for _, key := range keys {
		var changed Config
		fill(reflect.ValueOf(&changed).Elem(), "", 1, func(string, reflect.Value) {})
		fill(reflect.ValueOf(&changed).Elem(), "", 1, func(path string, v reflect.Value) {
			if path == key {
				fill(v, path, 2, func(string, reflect.Value) {})
			}
		})
		reloadable, restart := Changes(&before, &changed)
		got := map[bool]string{true: "reload", false: "restart"}[restart == nil]
		if all := slices.Concat(reloadable, restart); !slices.Equal(all, []string{key}) {
			t.Errorf("%s was changed, and the differences are %q", key, all)
			continue
		}
		switch want := onReload[key]; want {
		case got:
		case "":
			t.Errorf("%s is new: say in onReload (and in docs/operating.md) whether a running agent takes it over, or needs a restart", key)
		default:
			t.Errorf("a change of %s: %s, want %s", key, got, want)
		}
	}
	for key := range onReload {
		if !slices.Contains(keys, key) {
			t.Errorf("there is no key %s any more", key)
		}
	}
	reloadable, restart := Changes(&before, &values)
	if all := len(reloadable) + len(restart); all != len(keys) {
		t.Errorf("all %d keys were changed, and %d differences are found", len(keys), all)
	}
}

func TestChangesOfShape(t *testing.T) {
	before := parsed(t, oneModel)
	for text, want := range map[string][]string{
		oneModel: nil,
		oneModel + "log: {level: debug, format: json}\n":                            {"log.level"},
		oneModel + "api: {listen: \"127.0.0.1:1\"}\n":                               nil,
		oneModel + "control: {default_lease_s: 30}\nlog: {level: warn}\nseed: 12\n": {"control.default_lease_s", "log.level"},
	} {
		if reloadable, _ := Changes(before, parsed(t, text)); !slices.Equal(reloadable, want) {
			t.Errorf("%s: reloadable are %q, want %q", text, reloadable, want)
		}
	}
	longer := *before
	longer.Models = append(slices.Clone(before.Models), before.Models[0])
	longer.Models[0].Live = &LiveModel{}
	longer.Training = []Training{{}}
	one := 1
	other := *before
	other.Models = slices.Clone(before.Models)
	other.Models[0].Live, other.Models[0].InitialBatchSize = &LiveModel{}, &one
	for _, c := range []struct {
		after *Config
		want  []string
	}{
		{&longer, []string{"models", "training"}},
		{&other, []string{"models[0].initial_batch_size", "models[0].live"}},
	} {
		for _, pair := range [][2]*Config{{before, c.after}, {c.after, before}} {
			if _, restart := Changes(pair[0], pair[1]); !slices.Equal(restart, c.want) {
				t.Errorf("restart is needed for (-want +got):\n%s", cmp.Diff(c.want, restart))
			}
		}
	}
}
