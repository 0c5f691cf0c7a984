package metrics

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// query evaluates the part of PromQL that the dashboard uses, as far as labels go:
// which series a query gives, not their values. What it does not know is an error,
// so that nothing goes unchecked.
//
// It is stricter than Prometheus: a counter must be in rate or increase, a gauge
// must not, a label that is matched or grouped by must be there, and both sides of
// an operator must have series that match.
func query(text string, all []sample) (series []map[string]string, err error) {
	tokens, err := lex(text)
	if err != nil {
		return nil, err
	}
	p := &parser{tokens: tokens, all: all}
	defer func() {
		if cause := recover(); cause != nil {
			fault, ok := cause.(queryFault)
			if !ok {
				panic(cause)
			}
			series, err = nil, fmt.Errorf("%s (at token %d, %q)", string(fault), p.at, p.peek())
		}
	}()
	v := p.expr()
	if p.peek() != "" {
		p.fail("more than a query")
	}
	if v.ranged {
		p.fail("a range is no result")
	}
	if len(v.series) == 0 && !v.scalar {
		p.fail("no series")
	}
	return v.series, nil
}

type queryFault string

// vector is the labels of the series that an expression gives.
type vector struct {
	series         []map[string]string
	scalar, ranged bool
}

type parser struct {
	tokens []string
	at     int
	all    []sample
}

func lex(text string) ([]string, error) {
	token := regexp.MustCompile(`^(?:[a-zA-Z_][a-zA-Z0-9_]*|[0-9]+[smhd]|[0-9]+(?:\.[0-9]+)?|"(?:[^"\\]|\\.)*"|==|!=|=~|!~|>=|<=|[-+*/<>=(){}\[\],])`)
	var tokens []string
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		t := token.FindString(text)
		if t == "" {
			return nil, fmt.Errorf("no token of PromQL that the tests know: %q", text)
		}
		tokens = append(tokens, t)
		text = text[len(t):]
	}
	return tokens, nil
}

func (p *parser) fail(format string, args ...any) { panic(queryFault(fmt.Sprintf(format, args...))) }

func (p *parser) peek() string {
	if p.at < len(p.tokens) {
		return p.tokens[p.at]
	}
	return ""
}

func (p *parser) next() string {
	t := p.peek()
	p.at++
	return t
}

func (p *parser) want(token string) {
	if p.peek() != token {
		p.fail("want %q", token)
	}
	p.at++
}

// expr is operands and operators; which binds stronger does not matter here.
func (p *parser) expr() vector {
	left := p.operand()
	for slices.Contains([]string{"+", "-", "*", "/", "==", "!=", ">", "<", ">=", "<=", "and"}, p.peek()) {
		operator := p.next()
		right := p.operand()
		if left.ranged || right.ranged {
			p.fail("an operator next to a range")
		}
		switch {
		case left.scalar:
			left = right
		case right.scalar && operator == "and":
			p.fail("and of what is no vector")
		case !right.scalar:
			var both []map[string]string
			for _, l := range left.series {
				if slices.ContainsFunc(right.series, func(r map[string]string) bool { return maps.Equal(l, r) }) {
					both = append(both, l)
				}
			}
			if len(both) == 0 {
				p.fail("no series of one side matches one of the other")
			}
			left.series = both
		}
	}
	return left
}

func (p *parser) operand() vector {
	t := p.next()
	switch {
	case t == "(":
		v := p.expr()
		p.want(")")
		return v
	case t != "" && t[0] >= '0' && t[0] <= '9':
		return vector{scalar: true}
	case slices.Contains([]string{"sum", "min", "max", "avg", "count"}, t):
		return p.aggregation()
	case t == "time":
		p.want("(")
		p.want(")")
		return vector{scalar: true}
	case t == "rate" || t == "increase":
		p.want("(")
		v := p.expr()
		p.want(")")
		if !v.ranged {
			p.fail("%s of what is no range", t)
		}
		return vector{series: v.series}
	case t == "histogram_quantile":
		p.want("(")
		if q, err := strconv.ParseFloat(p.next(), 64); err != nil || q <= 0 || q >= 1 {
			p.fail("the quantile is not between 0 and 1")
		}
		p.want(",")
		v := p.expr()
		p.want(")")
		return p.without(v, "le")
	case regexp.MustCompile(`^[a-z][a-z0-9_]*$`).MatchString(t):
		return p.selector(t)
	}
	p.at--
	p.fail("no operand")
	return vector{}
}

func (p *parser) aggregation() vector {
	var by []string
	if p.peek() == "by" {
		p.at++
		p.want("(")
		for p.peek() != ")" {
			by = append(by, p.next())
			if p.peek() != ")" {
				p.want(",")
			}
		}
		p.want(")")
	}
	p.want("(")
	v := p.expr()
	p.want(")")
	if v.scalar || v.ranged {
		p.fail("an aggregation of what is no vector")
	}
	grouped := map[string]map[string]string{}
	for _, s := range v.series {
		group := map[string]string{}
		for _, label := range by {
			value, ok := s[label]
			if !ok {
				p.fail("there is no label %s to group by", label)
			}
			group[label] = value
		}
		grouped[fmt.Sprint(group)] = group
	}
	return vector{series: slices.Collect(maps.Values(grouped))}
}

// without takes a label off that all series must have.
func (p *parser) without(v vector, label string) vector {
	grouped := map[string]map[string]string{}
	for _, s := range v.series {
		if _, ok := s[label]; !ok {
			p.fail("a series has no label %s", label)
		}
		rest := maps.Clone(s)
		delete(rest, label)
		grouped[fmt.Sprint(rest)] = rest
	}
	return vector{series: slices.Collect(maps.Values(grouped))}
}

func (p *parser) selector(name string) vector {
	matchers := p.matchers()
	ranged := false
	if p.peek() == "[" {
		p.at++
		if !regexp.MustCompile(`^[0-9]+[smhd]$`).MatchString(p.next()) {
			p.fail("no duration")
		}
		p.want("]")
		ranged = true
	}
	v := vector{ranged: ranged}
	for _, s := range p.all {
		if s.name != name {
			continue
		}
		if s.rises != ranged {
			p.fail("%s counts since the start: %v, in rate or increase: %v", name, s.rises, ranged)
		}
		if p.matches(name, s.labels, matchers) {
			v.series = append(v.series, s.labels)
		}
	}
	if len(v.series) == 0 {
		p.fail("no series is %s with %v", name, matchers)
	}
	return v
}

// matcher selects series by the value of one label.
type matcher struct {
	label, op, value string
}

// matchers takes those in braces, if there are any.
func (p *parser) matchers() []matcher {
	var matchers []matcher
	if p.peek() == "{" {
		p.at++
		for p.peek() != "}" {
			m := matcher{label: p.next(), op: p.next()}
			value, err := strconv.Unquote(p.next())
			if err != nil || !slices.Contains([]string{"=", "!=", "=~", "!~"}, m.op) {
				p.fail("no matcher: %v", m)
			}
			m.value = value
			matchers = append(matchers, m)
			if p.peek() != "}" {
				p.want(",")
			}
		}
		p.at++
	}
	return matchers
}

// matches: a series of the name with these labels is selected by all matchers.
func (p *parser) matches(name string, labels map[string]string, matchers []matcher) bool {
	matches := true
	for _, m := range matchers {
		got, ok := labels[m.label]
		if !ok {
			p.fail("%s has no label %s", name, m.label)
		}
		equal := got == m.value
		if strings.Contains(m.op, "~") {
			re, err := regexp.Compile("^(?:" + m.value + ")$")
			if err != nil {
				p.fail("%s", err)
			}
			equal = re.MatchString(got)
		}
		matches = matches && equal != strings.HasPrefix(m.op, "!")
	}
	return matches
}
