package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Limits of what is read.
const (
	maxLine  = 1 << 20 // bytes; results of tools that are longer are pictures
	maxDepth = 100     // of arrays and objects in each other
)

// Reader turns the standard output of an agent into a report and a transcript. The
// output may come in pieces of any size, and from several processes one after the
// other. It is trusted in nothing.
//
// A Reader is not for concurrent use. Its state is what json.Marshal makes of it, and
// Restore makes a Reader of that again, so that reading goes on after the position in
// the log that was read last.
type Reader struct {
	agent Agent
	state readerState
}

type readerState struct {
	Agent string    `json:"agent"`
	Rec   recording `json:"recording"`
	// Partial is the beginning of a line whose end has not come yet.
	Partial    []byte `json:"partial,omitempty"`
	IsSkipping bool   `json:"skipping,omitempty"` // that line is too long
}

// NewReader returns a Reader of the agent's output.
func (a Agent) NewReader() *Reader {
	r := &Reader{agent: a, state: readerState{Agent: a.Name}}
	r.state.Rec.Report.Activity.State = Starting
	return r
}

// Restore returns the Reader whose state was saved.
func Restore(state []byte) (*Reader, error) {
	var r Reader
	if err := json.Unmarshal(state, &r.state); err != nil {
		return nil, fmt.Errorf("read the state of an agent's reader: %w", err)
	}
	a, err := Lookup(r.state.Agent)
	if err != nil {
		return nil, fmt.Errorf("read the state of an agent's reader: %w", err)
	}
	r.agent = a
	return &r, nil
}

// MarshalJSON returns the state.
func (r *Reader) MarshalJSON() ([]byte, error) { return json.Marshal(r.state) }

// Feed reads a piece of output. At is when it was printed, for agents that tell no
// times.
func (r *Reader) Feed(output []byte, at time.Time) {
	r.state.Rec.now = at.UTC()
	for len(output) > 0 {
		piece, rest, hasEnd := bytes.Cut(output, []byte("\n"))
		output = rest
		if !hasEnd {
			r.keep(piece)
			return
		}
		r.endLine(piece)
	}
}

// End reads what was printed last without the end of a line. It is for the end of the
// agent's process.
func (r *Reader) End() {
	if len(r.state.Partial) > 0 || r.state.IsSkipping {
		r.endLine(nil)
	}
	r.state.Rec.finishSaying()
}

// Report returns what the output said so far.
func (r *Reader) Report() Report {
	report := r.state.Rec.Report
	report.Errors = slices.Clone(report.Errors)
	if report.CostUSD != nil {
		cost := *report.CostUSD
		report.CostUSD = &cost
	}
	return report
}

// Take returns the entries since the last call, at most 1,000 of them: earlier ones
// are dropped, and counted.
func (r *Reader) Take() []Entry {
	entries := r.state.Rec.Entries
	r.state.Rec.Entries = nil
	return entries
}

// keep remembers the beginning of a line.
func (r *Reader) keep(piece []byte) {
	switch {
	case r.state.IsSkipping:
	case len(r.state.Partial)+len(piece) > maxLine:
		r.state.IsSkipping, r.state.Partial = true, nil
	default:
		r.state.Partial = append(r.state.Partial, piece...)
	}
}

// endLine reads a line that ends with a piece.
func (r *Reader) endLine(piece []byte) {
	counts := &r.state.Rec.Report.Counts
	line := piece
	isTooLong := r.state.IsSkipping || len(r.state.Partial)+len(piece) > maxLine
	if len(r.state.Partial) > 0 && !isTooLong {
		line = slices.Concat(r.state.Partial, piece)
	}
	r.state.IsSkipping, r.state.Partial = false, nil
	line = bytes.TrimSpace(line)
	switch {
	case isTooLong:
		counts.Lines++
		counts.TooLong++
	case len(line) > 0:
		counts.Lines++
		r.read(line)
	}
}

// read reads a line.
func (r *Reader) read(line []byte) {
	rec := &r.state.Rec
	var event struct {
		Type string `json:"type"`
	}
	if line[0] != '{' || !isShallow(line) || json.Unmarshal(line, &event) != nil || event.Type == "" {
		rec.Report.Counts.Malformed++
		return
	}
	isKnown, err := r.agent.decode(rec, event.Type, line)
	switch {
	case !isKnown:
		rec.Report.Counts.Unknown++
	case err != nil:
		rec.Report.Counts.Malformed++
	}
}

// isShallow reports whether what is nested in a line of JSON is within bounds.
func isShallow(line []byte) bool {
	depth, isString := 0, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case isString && c == '\\':
			i++
		case c == '"':
			isString = !isString
		case isString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return false
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return true
}
