package datacenter

// Measurement says what a model's data were measured on, in the words of OpenG2G's
// InferenceModelSpec. What nobody says is empty or 0.
type Measurement struct {
	// SpecHash is the name that OpenG2G 0.2 gives the measurement, and its folder.
	SpecHash string
	// GPUModel is such as H100, Task such as lm-arena-chat, Precision such as bfloat16.
	GPUModel, Task, Precision string
	TensorParallel            int
	// BatchSizes are those that there are data for, ascending; nil where the model runs
	// on hardware.
	BatchSizes []int
}
