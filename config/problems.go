package config

// problemSet is problems in the order in which they were found, which knows its
// keys: of bad input there may be very many.
type problemSet struct {
	list []Problem
	// at has the keys that have a problem, above those and all that they lie in.
	at, above map[string]bool
}

func newProblemSet(problems ...Problem) *problemSet {
	s := &problemSet{at: map[string]bool{}, above: map[string]bool{}}
	for _, p := range problems {
		s.add(p)
	}
	return s
}

func (s *problemSet) add(p Problem) {
	s.list = append(s.list, p)
	s.at[p.Path], s.above[p.Path] = true, true
	for i := range len(p.Path) {
		if endsKey(p.Path[i]) {
			s.above[p.Path[:i]] = true
		}
	}
}

// within reports whether there is a problem with the key at path or one below it.
func (s *problemSet) within(path string) bool { return s.above[path] }

// around reports whether there is a problem with the key at path or one above it.
func (s *problemSet) around(path string) bool {
	for i := range len(path) {
		if endsKey(path[i]) && s.at[path[:i]] {
			return true
		}
	}
	return s.at[path]
}

// endsKey reports whether a key may end before the character. A label may have it
// too, which does no harm.
func endsKey(c byte) bool { return c == '.' || c == '[' }
