package datacenter

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// ByModel is a value for each of some models, in an order: that of the config
// wherever the agent says something of models. In JSON it is an object whose members
// keep the order, which a map's do not. Nil is an object without members.
type ByModel[T any] []OfModel[T]

// OfModel is the value of one model in a [ByModel].
type OfModel[T any] struct {
	ModelLabel string
	Value      T
}

// ByModelOf returns what value says of each of the models, by their labels.
func ByModelOf[M, T any](models []M, value func(*M) (label string, v T)) ByModel[T] {
	b := make(ByModel[T], len(models))
	for i := range models {
		b[i].ModelLabel, b[i].Value = value(&models[i])
	}
	return b
}

// Get returns the value of a model, false if there is none.
func (b ByModel[T]) Get(label string) (value T, ok bool) {
	i := slices.IndexFunc(b, func(m OfModel[T]) bool { return m.ModelLabel == label })
	if i < 0 {
		return value, false
	}
	return b[i].Value, true
}

// MarshalJSON writes an object whose members are in the order of b.
func (b ByModel[T]) MarshalJSON() ([]byte, error) {
	text := []byte{'{'}
	for i := range b {
		if i > 0 {
			text = append(text, ',')
		}
		value, err := json.Marshal(b[i].Value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", b[i].ModelLabel, err)
		}
		text = append(appendJSONString(text, b[i].ModelLabel), ':')
		text = append(text, value...)
	}
	return append(text, '}'), nil
}

// UnmarshalJSON reads an object in the order of its members. A model that stands there
// twice is an error.
func (b *ByModel[T]) UnmarshalJSON(raw []byte) error {
	*b = ByModel[T]{}
	return eachByModel(raw, func(label string, v T) bool {
		_, there := b.Get(label)
		*b = append(*b, OfModel[T]{label, v})
		return !there
	})
}

// eachByModel calls add for each member of an object of values by model label, in
// order. That add returns false says that the model was there before.
func eachByModel[T any](raw []byte, add func(label string, v T) bool) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("want an object of values by model label, got %.20s", raw)
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		label, _ := key.(string) // what precedes a colon is a string
		var v T
		if err := d.Decode(&v); err != nil {
			return fmt.Errorf("%s: %w", label, err)
		}
		if !add(label, v) {
			return fmt.Errorf("model %q stands there twice", label)
		}
	}
	return nil
}
