package agent

import (
	"strings"
	"time"
	"unicode/utf8"
)

// Report is what an agent's output said so far, in the same terms for all agents.
type Report struct {
	Session  string   `json:"session,omitempty"` // to continue it, in an Invocation
	Model    string   `json:"model,omitempty"`   // if the agent tells it
	Activity Activity `json:"activity"`

	// Answer is what the agent said last, once it is done.
	Answer            string `json:"answer,omitempty"`
	IsAnswerShortened bool   `json:"answer_shortened,omitempty"`

	Prompts   int64 `json:"prompts,omitempty"` // that were taken, where the agent tells
	Turns     int64 `json:"turns"`             // prompts that were answered, or failed
	ToolCalls int64 `json:"tool_calls"`        // that the agent made

	// Tokens and CostUSD are of the sessions that were read. What a continued
	// session used before counts if the agent tells it (Claude Code and Codex do),
	// or if the same Reader has read it.
	Tokens  Tokens   `json:"tokens"`
	CostUSD *float64 `json:"cost_usd,omitempty"` // nil if the agent does not tell it

	Errors []string `json:"errors,omitempty"` // the latest of them
	Counts Counts   `json:"counts"`
}

// Activity is what an agent does now.
type Activity struct {
	State State     `json:"state"`
	Tool  string    `json:"tool,omitempty"` // that it uses
	On    string    `json:"on,omitempty"`   // and on what, in one line
	Since time.Time `json:"since,omitzero"`
}

// State is the kind of an activity.
type State string

// The states.
const (
	Starting State = "starting" // it has said nothing yet
	Thinking State = "thinking" // it waits for its model
	Using    State = "using"    // it uses a tool, and waits for that
	Retrying State = "retrying" // its model could not be asked, and will be again
	Done     State = "done"     // it answered the last prompt
	Waiting  State = "waiting"  // it did, and a live session waits for another; whoever gave the prompts knows
	Failed   State = "failed"   // it gave the last prompt up
)

// Tokens are amounts of text to and from a model.
type Tokens struct {
	Input  int64 `json:"input"`  // all of it
	Cached int64 `json:"cached"` // of the input, what was cheap
	Output int64 `json:"output"`
}

// Counts are of lines of output.
type Counts struct {
	Lines     int64 `json:"lines"`
	Unknown   int64 `json:"unknown,omitempty"`   // of a type that is not known, and skipped
	Malformed int64 `json:"malformed,omitempty"` // not what the agent prints, and skipped
	TooLong   int64 `json:"too_long,omitempty"`  // and skipped
	Dropped   int64 `json:"dropped,omitempty"`   // entries that nobody took in time
}

// Entry is a part of a transcript.
type Entry struct {
	Time        time.Time `json:"time,omitzero"`
	Role        Role      `json:"role"`
	Kind        Kind      `json:"kind"`
	Tool        string    `json:"tool,omitempty"` // of a call and a result
	Text        string    `json:"text"`
	IsError     bool      `json:"is_error,omitempty"` // of a result
	IsShortened bool      `json:"shortened,omitempty"`
}

// Role is whose part an entry is.
type Role string

// The roles.
const (
	RoleUser  Role = "user"  // who gives the prompts
	RoleAgent Role = "agent" // the model
	RoleTool  Role = "tool"
	RoleHost  Role = "host" // the agent's program itself
)

// Kind is what an entry is.
type Kind string

// The kinds.
const (
	KindText     Kind = "text"
	KindThinking Kind = "thinking"
	KindCall     Kind = "call" // its text is what the tool was given
	KindResult   Kind = "result"
	KindNotice   Kind = "notice"
	KindError    Kind = "error"
)

// Limits of a report.
const (
	maxAnswer    = 64 << 10      // bytes
	maxSaid      = 2 * maxAnswer // that is kept, so that it is seen when an answer is shortened
	maxText      = 16 << 10      // bytes of an entry
	maxWord      = 128           // bytes of names
	maxOn        = 200           // bytes
	maxErrors    = 20
	maxErrorText = 2 << 10 // bytes
	maxEntries   = 1000    // that nobody has taken yet
	maxOpen      = 64      // calls that have not ended
	maxTokens    = 1 << 50 // adds up without an overflow, and is exact in JavaScript
	maxCost      = 1_000_000_000.0
)

// newTokens adds amounts of input up. Nonsense is made harmless.
func newTokens(cached, output int64, inputs ...int64) Tokens {
	var t Tokens
	for _, input := range inputs {
		t.Input = clampTokens(t.Input + clampTokens(input))
	}
	t.Cached = min(clampTokens(cached), t.Input)
	t.Output = clampTokens(output)
	return t
}

func clampTokens(n int64) int64 { return max(0, min(n, maxTokens)) }

func (t Tokens) plus(other Tokens) Tokens {
	return Tokens{
		Input: clampTokens(t.Input + other.Input), Cached: clampTokens(t.Cached + other.Cached), Output: clampTokens(t.Output + other.Output),
	}
}

// clip shortens a text to a number of bytes, between two characters.
func clip(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}

// oneLine makes a text one line.
func oneLine(text string, limit int) string {
	return clip(strings.Join(strings.Fields(clip(text, 4*limit)), " "), limit)
}

// firstOf returns the first text that is not empty.
func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}
