package tools

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// Kind is the type of an argument.
type Kind int

// The kinds of arguments.
const (
	Text       Kind = iota
	Integer         // also accepted as a string of digits: some clients send all values as strings
	Number          // likewise
	Boolean         // also accepted as "true" or "false"
	TextList        // array of strings
	TextMap         // object of strings
	IntegerMap      // object of integers, which may be strings of digits
)

func (k Kind) String() string {
	return [...]string{"a string", "an integer", "a number", "true or false", "an array of strings", "an object of strings", "an object of integers"}[k]
}

// Param is one argument of a tool.
type Param struct {
	Name        string
	Kind        Kind
	Description string // says what the default is, if there is one
	Required    bool
	Enum        []string // of a Text: the values there are
	// Min and Max bound the value of an Integer or Number, the bytes of a
	// Text, each value of an IntegerMap, and the bytes of all strings together of
	// a list or another map.
	Min, Max int64
	MaxItems int    // of a list or map
	Mend     string // what to say where the argument is missing or has a wrong type; optional
	// check looks at what the kind does not say; nil accepts. Its error is
	// read after the argument's name.
	check func(v value) error
}

// Bounds of an error about arguments: enough to mend a call, whatever was sent.
const (
	maxProblems  = 8
	maxEchoBytes = 48
)

// value is one checked argument; the field of its kind is set.
type value struct {
	text   string
	number float64
	flag   bool
	list   []string
	pairs  map[string]string
	counts map[string]int
}

// args are the checked arguments of one call. Arguments that were not given are
// absent, and null counts as not given.
type args map[string]value

// Has reports whether the argument was given.
func (a args) Has(name string) bool { _, ok := a[name]; return ok }

// Text returns a Text argument, empty if it was not given.
func (a args) Text(name string) string { return a[name].text }

// Bool returns a Boolean argument, false if it was not given.
func (a args) Bool(name string) bool { return a[name].flag }

// BoolOr returns a Boolean argument, or otherwise if it was not given.
func (a args) BoolOr(name string, otherwise bool) bool {
	if v, ok := a[name]; ok {
		return v.flag
	}
	return otherwise
}

// Int returns an Integer argument, or otherwise if it was not given.
func (a args) Int(name string, otherwise int64) int64 {
	if v, ok := a[name]; ok {
		return int64(v.number)
	}
	return otherwise
}

// Float returns a Number argument, zero if it was not given.
func (a args) Float(name string) float64 { return a[name].number }

// Texts returns a TextList argument, nil if it was not given.
func (a args) Texts(name string) []string { return a[name].list }

// Pairs returns a TextMap argument, nil if it was not given.
func (a args) Pairs(name string) map[string]string { return a[name].pairs }

// Ints returns an IntegerMap argument, nil if it was not given.
func (a args) Ints(name string) map[string]int { return a[name].counts }

// paramSet checks the arguments of one tool.
type paramSet struct {
	tool   string
	names  []string
	params []Param
}

func newParamSet(tool string, params []Param) *paramSet {
	s := &paramSet{tool: tool, params: params}
	for _, p := range params {
		s.names = append(s.names, p.Name)
	}
	return s
}

// parse checks what a client sent as arguments. Its error lists every problem.
func (s *paramSet) parse(raw any) (args, error) {
	given, ok := raw.(map[string]any)
	if !ok && raw != nil {
		return nil, s.refuse([]string{"the arguments must be an object, not " + kindOf(raw)})
	}
	problems := s.unknown(given)
	checked := make(args, len(given))
	for i := range s.params {
		p := &s.params[i]
		sent, ok := given[p.Name]
		if !ok || sent == nil {
			if p.Required {
				problems = append(problems, fmt.Sprintf("argument %q is missing%s", p.Name, p.mend()))
			}
			continue
		}
		v, err := p.read(sent)
		if err != nil {
			problems = append(problems, fmt.Sprintf("argument %q %v", p.Name, err))
			continue
		}
		checked[p.Name] = v
	}
	if len(problems) > 0 {
		return nil, s.refuse(problems)
	}
	return checked, nil
}

// refuse makes the error about all problems of one call.
func (s *paramSet) refuse(problems []string) error {
	more := ""
	if len(problems) > maxProblems {
		more = fmt.Sprintf("; and %d more", len(problems)-maxProblems)
		problems = problems[:maxProblems]
	}
	return &manager.Error{
		Code:    manager.CodeInvalidArgument,
		Message: s.tool + ": " + strings.Join(problems, "; ") + more,
		Next:    "correct the arguments and call " + s.tool + " again",
	}
}

// unknown reports arguments that the tool does not have.
func (s *paramSet) unknown(given map[string]any) []string {
	var problems, strangers []string
	for name := range given {
		if !slices.Contains(s.names, name) {
			strangers = append(strangers, name)
		}
	}
	slices.Sort(strangers)
	listed := false
	for _, name := range strangers {
		problem := "unknown argument " + echo(name)
		if near := nearest(name, s.names); near != "" {
			problem += fmt.Sprintf(", did you mean %q?", near)
		} else if !listed {
			problem += fmt.Sprintf(" (%s takes %s)", s.tool, strings.Join(s.names, ", "))
			listed = true
		}
		problems = append(problems, problem)
	}
	return problems
}

// read checks and converts one argument. Its error is read after the
// argument's name.
func (p *Param) read(sent any) (v value, err error) {
	switch p.Kind {
	case Text:
		v, err = p.readText(sent)
	case Integer, Number:
		v, err = p.readNumber(sent)
	case Boolean:
		v, err = p.readBoolean(sent)
	case TextList:
		v, err = p.readList(sent)
	case TextMap:
		v, err = p.readMap(sent)
	case IntegerMap:
		v, err = p.readIntegers(sent)
	}
	if err == nil && p.check != nil {
		err = p.check(v)
	}
	return v, err
}

func (p *Param) readText(sent any) (value, error) {
	text, ok := sent.(string)
	if !ok {
		return value{}, p.wrongType(sent)
	}
	if p.Enum != nil {
		if !slices.Contains(p.Enum, text) {
			return value{}, fmt.Errorf("must be one of %s, not %s", strings.Join(p.Enum, ", "), echo(text))
		}
		return value{text: text}, nil
	}
	if size := int64(len(text)); size < p.Min || size > p.Max {
		if size == 0 {
			return value{}, fmt.Errorf("must not be empty%s", p.mend())
		}
		return value{}, fmt.Errorf("must have %d to %d bytes, not %d", p.Min, p.Max, size)
	}
	return value{text: text}, checkText(text)
}

func (p *Param) readNumber(sent any) (value, error) {
	var number float64
	switch sent := sent.(type) {
	case float64:
		number = sent
	case string:
		var err error
		if number, err = strconv.ParseFloat(strings.TrimSpace(sent), 64); err != nil {
			return value{}, fmt.Errorf("must be %v, not the string %s", p.Kind, echo(sent))
		}
	default:
		return value{}, p.wrongType(sent)
	}
	if p.Kind == Integer && number != math.Trunc(number) {
		return value{}, fmt.Errorf("must be an integer, not %s", shortNumber(number))
	}
	// The comparison is written so that it also refuses NaN.
	if !(number >= float64(p.Min) && number <= float64(p.Max)) {
		return value{}, fmt.Errorf("must be %d to %d, not %s", p.Min, p.Max, shortNumber(number))
	}
	return value{number: number}, nil
}

func (p *Param) readBoolean(sent any) (value, error) {
	switch sent := sent.(type) {
	case bool:
		return value{flag: sent}, nil
	case string:
		switch {
		case strings.EqualFold(sent, "true"):
			return value{flag: true}, nil
		case strings.EqualFold(sent, "false"):
			return value{}, nil
		}
		return value{}, fmt.Errorf("must be true or false, not the string %s", echo(sent))
	}
	return value{}, p.wrongType(sent)
}

func (p *Param) readList(sent any) (value, error) {
	items, ok := sent.([]any)
	if !ok {
		return value{}, p.wrongType(sent)
	}
	if len(items) == 0 && p.Min > 0 {
		return value{}, fmt.Errorf("must not be empty%s", p.mend())
	}
	if len(items) > p.MaxItems {
		return value{}, fmt.Errorf("has %d entries, more than the %d allowed", len(items), p.MaxItems)
	}
	list := make([]string, len(items))
	size := int64(0)
	for i, item := range items {
		text, ok := item.(string)
		if !ok {
			return value{}, fmt.Errorf("must be an array of strings, and entry %d is %s", i, kindOf(item))
		}
		if err := checkText(text); err != nil {
			return value{}, fmt.Errorf("entry %d %w", i, err)
		}
		list[i] = text
		size += int64(len(text))
	}
	if size > p.Max {
		return value{}, fmt.Errorf("has %d bytes in all, more than the %d allowed", size, p.Max)
	}
	return value{list: list}, nil
}

func (p *Param) readMap(sent any) (value, error) {
	entries, ok := sent.(map[string]any)
	if !ok {
		return value{}, p.wrongType(sent)
	}
	if len(entries) > p.MaxItems {
		return value{}, fmt.Errorf("has %d entries, more than the %d allowed", len(entries), p.MaxItems)
	}
	pairs := make(map[string]string, len(entries))
	size := int64(0)
	for _, key := range sortedKeys(entries) {
		text, ok := entries[key].(string)
		if !ok {
			return value{}, fmt.Errorf("must be an object of strings, and %s is %s", echo(key), kindOf(entries[key]))
		}
		// The value may be a secret, and is not repeated in an error.
		if checkText(key) != nil || checkText(text) != nil {
			return value{}, fmt.Errorf("has a NUL byte or text that is not UTF-8 in %s", echo(key))
		}
		pairs[key] = text
		size += int64(len(key) + len(text))
	}
	if size > p.Max {
		return value{}, fmt.Errorf("has %d bytes in all, more than the %d allowed", size, p.Max)
	}
	return value{pairs: pairs}, nil
}

func (p *Param) readIntegers(sent any) (value, error) {
	entries, ok := sent.(map[string]any)
	if !ok {
		return value{}, p.wrongType(sent)
	}
	if len(entries) > p.MaxItems {
		return value{}, fmt.Errorf("has %d entries, more than the %d allowed", len(entries), p.MaxItems)
	}
	entry := Param{Kind: Integer, Min: p.Min, Max: p.Max}
	counts := make(map[string]int, len(entries))
	for _, key := range sortedKeys(entries) {
		if checkText(key) != nil {
			return value{}, fmt.Errorf("has a NUL byte or text that is not UTF-8 in %s", echo(key))
		}
		v, err := entry.readNumber(entries[key])
		if err != nil {
			return value{}, fmt.Errorf("is an object of integers, and %s %w", echo(key), err)
		}
		counts[key] = int(v.number)
	}
	return value{counts: counts}, nil
}

func (p *Param) wrongType(sent any) error {
	return fmt.Errorf("must be %v, not %s%s", p.Kind, kindOf(sent), p.mend())
}

func (p *Param) mend() string {
	if p.Mend == "" {
		return ""
	}
	return ": " + p.Mend
}

// checkText refuses what no command, path or name can contain.
func checkText(text string) error {
	if strings.IndexByte(text, 0) >= 0 {
		return fmt.Errorf("must not contain a NUL byte")
	}
	if !utf8.ValidString(text) {
		return fmt.Errorf("must be valid UTF-8")
	}
	return nil
}

// shortNumber writes numbers of a usual size without an exponent.
func shortNumber(number float64) string {
	if math.Abs(number) < 1e15 {
		return strconv.FormatFloat(number, 'f', -1, 64)
	}
	return strconv.FormatFloat(number, 'g', 4, 64)
}

// kindOf names the JSON type of a value for a person.
func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "a string"
	case float64:
		return "a number"
	case bool:
		return "a boolean"
	case []any:
		return "an array"
	case map[string]any:
		return "an object"
	}
	return fmt.Sprintf("a %T", v)
}

// echo quotes what a client sent, shortened.
func echo(text string) string {
	if len(text) > maxEchoBytes {
		return strconv.Quote(strings.ToValidUTF8(text[:maxEchoBytes], "")) + "..."
	}
	return strconv.Quote(text)
}
