package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/g2g-agent/g2g-agent/internal/decimal"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/internal/textfile"
)

// The tags of values that are read in a way of our own.
const (
	textTag  = "!!str"
	wholeTag = "!!int"
	realTag  = "!!float"
	dateTag  = "!!timestamp"
	mergeTag = "!!merge"
)

// yamlParser is readYAML as a [koanf.Parser], which keeps what that tells.
type yamlParser struct {
	specs             bool // a list stands for a config's models
	isList            bool
	numbers, problems []Problem
}

// errProblems stands for the problems that the parser keeps.
var errProblems = errors.New("the config cannot be read")

// Unmarshal implements [koanf.Parser].
func (p *yamlParser) Unmarshal(raw []byte) (tree map[string]any, err error) {
	change := func(doc *yaml.Node) { p.isList = p.specs && wrapSpecs(doc) }
	if tree, p.numbers, p.problems = readYAML(raw, change); len(p.problems) > 0 {
		return nil, errProblems
	}
	return tree, nil
}

// Marshal implements [koanf.Parser]; nobody writes a config.
func (*yamlParser) Marshal(map[string]any) ([]byte, error) {
	return nil, errors.New("a config is only read")
}

// readYAML reads a text that is one document of YAML 1.2, as JSON is too, and holds
// a map. Numbers that readers of YAML differ on are told in numbers, each with its
// path; the map has them as decimal ones. What else is wrong comes with its line. change,
// unless nil, may change the document first.
func readYAML(raw []byte, change func(doc *yaml.Node)) (tree map[string]any, numbers, problems []Problem) {
	text, pairs := hidePairs(textfile.ToUTF8(raw))
	doc, err := loadYAML(text)
	if err == nil && doc != nil {
		if change != nil {
			change(doc)
		}
		r := resolver{pairs: pairs}
		r.resolve(doc, "")
		numbers = r.problems
		err = doc.Load(&tree)
	}
	if err != nil {
		return nil, nil, yamlProblems(err, text)
	}
	return tree, numbers, nil
}

// loadYAML returns a stream's only document, nil if it has none. A text that says it
// is YAML 1.2 is read as such: the parser, which reads it, stops at that word.
func loadYAML(text []byte) (*yaml.Node, error) {
	doc, err := loadDocument(text)
	var stopped *yaml.LoadError
	if errors.As(err, &stopped) {
		if end := versionEnd(text, stopped.Mark.Index); end > 0 {
			other := bytes.Clone(text)
			other[end-1] = '1'
			return loadDocument(other)
		}
	}
	return doc, err
}

// versionEnd returns the end of the directive %YAML 1.2 that begins at a character,
// 0 if none does.
func versionEnd(text []byte, character int) int {
	at := 0
	for ; character > 0 && at < len(text); character-- {
		_, size := utf8.DecodeRune(text[at:])
		at += size
	}
	if directive := regexp.MustCompile(`^%YAML[ \t]+1\.2\b`).Find(text[at:]); directive != nil {
		return at + len(directive)
	}
	return 0
}

func loadDocument(text []byte) (*yaml.Node, error) {
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	var doc, second yaml.Node
	if err := loader.Load(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	switch err := loader.Load(&second); {
	case errors.Is(err, io.EOF):
		return &doc, nil
	case err != nil:
		return nil, err
	}
	return nil, &yaml.LoadError{Message: "a second YAML document begins; a config is a single one", Mark: yaml.Mark{Line: second.Line}}
}

// resolver settles what the values of a document stand for, where YAML 1.2 and the
// parser differ.
type resolver struct {
	pairs    pairs
	problems []Problem
}

func (r *resolver) resolve(n *yaml.Node, path string) {
	r.pairs.restore(n)
	switch n.Kind {
	case yaml.DocumentNode:
		for _, child := range n.Content {
			r.resolve(child, path)
		}
	case yaml.SequenceNode:
		for i, child := range n.Content {
			r.resolve(child, fmt.Sprintf("%s[%d]", path, i))
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			r.pairs.restore(key)
			if key.Kind == yaml.ScalarNode && key.Tag != mergeTag {
				key.Tag = textTag // 8, null and true are names like others
			}
			r.resolve(value, strings.TrimPrefix(path+"."+key.Value, "."))
		}
	case yaml.ScalarNode:
		r.resolveScalar(n, path)
	}
}

func (r *resolver) resolveScalar(n *yaml.Node, path string) {
	switch n.Tag {
	case dateTag:
		n.Tag = textTag // there are no dates in YAML 1.2
	case wholeTag, realTag:
		if decimal.Plain(n.Value) {
			return
		}
		problem := fmt.Sprintf("%s is a number that readers of YAML differ on", excerpt.Printable(n.Value, maxQuoted))
		written := decimal.Of(n.Value)
		if written != "" {
			problem += ": write " + written
		} else {
			problem += ": write it in decimal digits"
		}
		r.problems = append(r.problems, Problem{path, problem + ", or put it in quotes if it is a text"})
		n.Value = cmp.Or(written, "0")
	}
}

// yamlProblems words the parser's errors: a sentence each, with its line.
func yamlProblems(err error, text []byte) []Problem {
	var several *yaml.LoadErrors
	var one *yaml.LoadError
	var all []*yaml.LoadError
	switch {
	case errors.As(err, &several):
		all = several.Errors
	case errors.As(err, &one):
		all = []*yaml.LoadError{one}
	default:
		return []Problem{{"", err.Error()}}
	}
	var problems []Problem
	last := 1 + bytes.Count(bytes.TrimRight(text, "\r\n"), []byte{'\n'}) // the parser adds one at the end
	for _, e := range all {
		line, message := min(e.Mark.Line, max(last, bytes.Count(text, []byte{'\r'}))), e.Message
		if line == 0 && e.Stage == yaml.ReaderStage {
			line = 1 + bytes.Count(text[:min(e.Mark.Index, len(text))], []byte{'\n'})
		}
		switch {
		case strings.HasPrefix(message, "cannot construct ") && strings.HasSuffix(message, " into map[string]interface {}"):
			message = `a config is a map of keys, such as "seed: 42"; this file holds something else`
		case strings.HasPrefix(message, "cannot construct ") && strings.HasSuffix(message, " into string"):
			message = "a key is a list or a map; want a name"
		case message == "found incompatible YAML document":
			message = "the version that %YAML names is not read; want 1.2, or no such line"
		}
		if line > 0 {
			message = fmt.Sprintf("line %d: %s", line, message)
		}
		problems = append(problems, Problem{"", message})
	}
	return problems
}

// pairs are the pairs of escapes, such as \ud83d\udd0b, with which JSON spells one
// character. The parser takes each half for a mistake, so they are hidden from it:
// in a text in double quotes they become a mark and what reads as the same letters,
// and in the value that comes of it they become the character. Elsewhere they are
// no escapes, and become again what they were. Each value's style, which the parser
// tells, decides; nothing here looks for quotes.
type pairs struct {
	mark string // does not occur in the text; empty if there are no pairs
}

const (
	high = `\\u([dD][89abAB][0-9a-fA-F]{2})`
	low  = `\\u([dD][c-fC-F][0-9a-fA-F]{2})`
)

// hidePairs returns the text with its pairs hidden.
func hidePairs(text []byte) ([]byte, pairs) {
	escapes := regexp.MustCompile(`\\*` + high + low)
	if !escapes.Match(text) {
		return text, pairs{}
	}
	p := pairs{unusedCharacter(text)}
	if p.mark == "" {
		return text, p
	}
	const length = len(`\ud83d\udd0b`)
	return escapes.ReplaceAllFunc(text, func(match []byte) []byte {
		before, pair := match[:len(match)-length], match[len(match)-length:]
		if len(before)%2 == 1 { // the backslash is itself escaped
			return match
		}
		return []byte(string(before) + p.mark + strings.ReplaceAll(string(pair), `\`, `\\`))
	}), p
}

// unusedCharacter returns a character for private use that neither occurs in the
// text nor is escaped there; empty if all that are tried do.
func unusedCharacter(text []byte) string {
	lower := bytes.ToLower(text)
	for r := rune(0xF0000); r < 0xF0040; r++ {
		if !bytes.ContainsRune(text, r) && !bytes.Contains(lower, fmt.Appendf(nil, "%x", r)) {
			return string(r)
		}
	}
	return ""
}

// restore makes a node's value what it would be without hiding.
func (p pairs) restore(n *yaml.Node) {
	if p.mark == "" || !strings.Contains(n.Value, p.mark) {
		return
	}
	if n.Style&yaml.DoubleQuotedStyle == 0 {
		hidden := regexp.MustCompile(p.mark + `\\` + high + `\\` + low)
		n.Value = hidden.ReplaceAllString(n.Value, `\u$1\u$2`)
		return
	}
	n.Value = regexp.MustCompile(p.mark+high+low).ReplaceAllStringFunc(n.Value, func(hidden string) string {
		var a, b rune
		if _, err := fmt.Sscanf(strings.TrimPrefix(hidden, p.mark), `\u%x\u%x`, &a, &b); err != nil {
			return hidden
		}
		return string(utf16.DecodeRune(a, b))
	})
}
