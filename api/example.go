package api

// exampleState is the state that the API's description shows.
func exampleState() map[string]any {
	const label = "Llama-3.1-8B"
	one := func(v any) map[string]any { return map[string]any{label: v} }
	return map[string]any{
		"seq": 300, "time_s": 30.0, "wall_time": nil, "source": "replay",
		"power_w":          map[string]any{"a": 720512.4, "b": 718903.1, "c": 721377.9},
		"power_by_model_w": one(431206.5), "batch_size_by_model": one(64), "active_replicas_by_model": one(720),
		"observed_itl_s_by_model": one(0.0183), "phase_share_by_model": one([]float64{0.33, 0.34, 0.33}),
	}
}
