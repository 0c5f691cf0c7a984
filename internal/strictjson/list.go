package strictjson

import "fmt"

// Path is where the object stands in the text, such as .reset; empty for the whole of it.
func (o *Object) Path() string { return o.path }

// IsNull reports whether there is a member of the name, and it is null.
func (o *Object) IsNull(name string) bool {
	v, ok := o.members[name]
	return ok && v == nil
}

// Within reads a member that is an object, nil if it is missing or none.
func (o *Object) Within(name string) *Object {
	v, ok := o.members[name]
	if !ok {
		return nil
	}
	inner, ok := v.(*Object)
	if !ok {
		o.Fault(name, "must be an object, got %s", kindOf(v))
	}
	return inner
}

// Objects reads a list of objects, empty if it is missing or none.
func (o *Object) Objects(name string) []*Object {
	values := o.list(name, "objects")
	objects := make([]*Object, 0, len(values))
	for i, v := range values {
		inner, ok := v.(*Object)
		if !ok {
			o.Fault(element(name, i), "must be an object, got %s", kindOf(v))
			continue
		}
		objects = append(objects, inner)
	}
	return objects
}

// Texts reads a list of strings, empty if it is missing or none.
func (o *Object) Texts(name string) []string {
	values := o.list(name, "strings")
	texts := make([]string, 0, len(values))
	for i, v := range values {
		text, ok := v.(string)
		if !ok {
			o.Fault(element(name, i), "must be a string, got %s", kindOf(v))
			continue
		}
		texts = append(texts, text)
	}
	return texts
}

func (o *Object) list(name, of string) []any {
	v, ok := o.members[name]
	if !ok {
		return nil
	}
	values, ok := v.([]any)
	if !ok {
		o.Fault(name, "must be a list of %s, got %s", of, kindOf(v))
	}
	return values
}

// element is the path of an element below its object.
func element(name string, i int) string { return fmt.Sprintf("%s[%d]", name, i) }
