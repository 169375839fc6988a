package agent

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// recording is what decoders write to. All of it is kept when a Reader is.
type recording struct {
	Report  Report  `json:"report"`
	Entries []Entry `json:"entries,omitempty"`

	Earlier usage `json:"earlier,omitzero"` // of the sessions before this one
	Current usage `json:"current,omitzero"` // of this session
	// Live is of the message LiveID, which comes in several parts that say the
	// same. It counts until the agent tells a total.
	Live   Tokens `json:"live,omitzero"`
	LiveID string `json:"live_id,omitempty"`

	Open  []openCall `json:"open,omitempty"`
	Said  string     `json:"said,omitempty"`  // what the model said last
	Fault string     `json:"fault,omitempty"` // what went wrong since the model was last heard

	// Saying is an entry that comes in parts.
	Saying *Entry `json:"saying,omitempty"`

	now time.Time // of the output that is being read
}

// usage is what a session cost.
type usage struct {
	Tokens Tokens   `json:"tokens"`
	Cost   *float64 `json:"cost,omitempty"`
}

// openCall is a call of a tool that has not ended.
type openCall struct {
	ID   string    `json:"id"`
	Tool string    `json:"tool"`
	On   string    `json:"on,omitempty"`
	At   time.Time `json:"at,omitzero"`
}

// at is the time of an event: the agent's, or else that of its output.
func (r *recording) at(t time.Time) time.Time {
	if t.IsZero() {
		return r.now
	}
	return t.UTC()
}

// begin notes the session and the model. A session that is not the one so far is
// counted apart.
func (r *recording) begin(session, model string) {
	r.setModel(model)
	if session == "" {
		return
	}
	if !sessionPattern.MatchString(session) {
		r.Report.Counts.Malformed++
		return
	}
	if session != r.Report.Session && r.Report.Session != "" {
		r.Earlier = usage{Tokens: r.Report.Tokens, Cost: r.Report.CostUSD}
		r.Current = usage{}
		r.LiveID, r.Live = "", Tokens{}
	}
	r.Report.Session = session
	r.work()
}

func (r *recording) setModel(model string) {
	if model != "" {
		r.Report.Model = oneLine(model, maxWord)
	}
}

// work says that the model is asked.
func (r *recording) work() { r.become(Activity{State: Thinking, Since: r.now}) }

func (r *recording) become(a Activity) {
	if a.State != r.Report.Activity.State || a.Tool != r.Report.Activity.Tool || a.On != r.Report.Activity.On {
		r.Report.Activity = a
	}
}

// add appends an entry.
func (r *recording) add(e Entry) {
	r.finishSaying()
	r.append(e)
}

func (r *recording) append(e Entry) {
	if e.Text == "" && e.Kind != KindCall && e.Kind != KindResult {
		return
	}
	e.Time = r.at(e.Time)
	if text := clip(e.Text, maxText); text != e.Text {
		e.Text, e.IsShortened = text, true
	}
	if len(r.Entries) >= maxEntries {
		r.Entries = slices.Delete(r.Entries, 0, 1)
		r.Report.Counts.Dropped++
	}
	r.Entries = append(r.Entries, e)
}

// finishSaying ends an entry that came in parts.
func (r *recording) finishSaying() {
	if r.Saying == nil {
		return
	}
	e := *r.Saying
	r.Saying = nil
	r.Said, r.Fault = e.Text, ""
	r.append(e)
}

func (r *recording) hear(at time.Time, text string) {
	r.add(Entry{Time: at, Role: RoleUser, Kind: KindText, Text: text})
	r.work()
}

func (r *recording) say(at time.Time, text string) {
	r.add(Entry{Time: at, Role: RoleAgent, Kind: KindText, Text: text})
	if text != "" {
		r.Said, r.Fault = clip(text, maxSaid), ""
	}
	r.work()
}

// sayMore continues what the model says.
func (r *recording) sayMore(at time.Time, text string) {
	if r.Saying == nil {
		r.Saying = &Entry{Time: r.at(at), Role: RoleAgent, Kind: KindText}
	}
	r.Saying.Text = clip(r.Saying.Text+text, maxSaid)
	r.work()
}

func (r *recording) think(at time.Time, text string) {
	r.add(Entry{Time: at, Role: RoleAgent, Kind: KindThinking, Text: text})
	r.work()
}

func (r *recording) notice(at time.Time, text string) {
	r.add(Entry{Time: at, Role: RoleHost, Kind: KindNotice, Text: text})
}

// fault is something that went wrong, and may or may not be the end.
func (r *recording) fault(at time.Time, text string) {
	r.add(Entry{Time: at, Role: RoleHost, Kind: KindError, Text: text})
	r.Fault = clip(text, maxErrorText)
}

// retry says that the model will be asked again.
func (r *recording) retry(at time.Time, why string) {
	r.notice(at, why)
	r.become(Activity{State: Retrying, Since: r.at(at)})
}

// call says that a tool is used.
func (r *recording) call(at time.Time, id, tool, on, input string) {
	c := openCall{ID: clip(id, maxWord), Tool: oneLine(tool, maxWord), On: oneLine(on, maxOn), At: r.at(at)}
	r.add(Entry{Time: at, Role: RoleAgent, Kind: KindCall, Tool: c.Tool, Text: input})
	r.Report.ToolCalls++
	r.Fault = ""
	if len(r.Open) >= maxOpen {
		r.Open = slices.Delete(r.Open, 0, 1)
	}
	r.Open = append(r.Open, c)
	r.become(Activity{State: Using, Tool: c.Tool, On: c.On, Since: c.At})
}

func (r *recording) isOpen(id string) bool { return r.find(id) >= 0 }

func (r *recording) find(id string) int {
	return slices.IndexFunc(r.Open, func(c openCall) bool { return c.ID == clip(id, maxWord) })
}

// result says what a tool returned.
func (r *recording) result(at time.Time, id, text string, isError bool) {
	var tool string
	if i := r.find(id); i >= 0 {
		tool = r.Open[i].Tool
		r.Open = slices.Delete(r.Open, i, i+1)
	}
	r.add(Entry{Time: at, Role: RoleTool, Kind: KindResult, Tool: tool, Text: text, IsError: isError})
	if last := len(r.Open) - 1; last >= 0 {
		c := r.Open[last]
		r.become(Activity{State: Using, Tool: c.Tool, On: c.On, Since: c.At})
		return
	}
	r.become(Activity{State: Thinking, Since: r.at(at)})
}

// lastSaid is what the model said last.
func (r *recording) lastSaid() string {
	r.finishSaying()
	return r.Said
}

// answer ends a turn well.
func (r *recording) answer(text string) {
	r.finishSaying()
	r.Report.Answer = clip(text, maxAnswer)
	r.Report.IsAnswerShortened = len(r.Report.Answer) < len(text)
	r.end(Done)
}

// fail ends a turn with what went wrong.
func (r *recording) fail(problems ...string) {
	r.finishSaying()
	for _, problem := range problems {
		problem = clip(firstOf(problem, "the agent does not say why"), maxErrorText)
		if problem != r.Fault { // or it is in the transcript already
			r.append(Entry{Role: RoleHost, Kind: KindError, Text: problem})
		}
		r.Report.Errors = append(r.Report.Errors, problem)
	}
	if more := len(r.Report.Errors) - maxErrors; more > 0 {
		r.Report.Errors = slices.Delete(r.Report.Errors, 0, more)
	}
	r.end(Failed)
}

func (r *recording) end(state State) {
	r.Open, r.Said, r.Fault = nil, "", ""
	r.Report.Turns++
	r.become(Activity{State: state, Since: r.now})
}

// spendOnce counts a message that comes in several parts.
func (r *recording) spendOnce(id string, t Tokens) {
	if id != r.LiveID {
		r.Current.Tokens = r.Current.Tokens.plus(r.Live)
	}
	r.LiveID, r.Live = clip(id, maxWord), t
	r.sum()
}

// spend adds to what the session used.
func (r *recording) spend(t Tokens) {
	r.Current.Tokens = r.Current.Tokens.plus(t)
	r.sum()
}

// total is what the whole session used, from its beginning.
func (r *recording) total(t Tokens) {
	r.LiveID, r.Live = "", Tokens{}
	r.Current.Tokens = t
	r.sum()
}

func (r *recording) spendCost(usd float64) {
	if r.Current.Cost != nil {
		usd += *r.Current.Cost
	}
	r.totalCost(usd)
}

func (r *recording) totalCost(usd float64) {
	usd = max(0, min(usd, maxCost))
	r.Current.Cost = &usd
	r.sum()
}

func (r *recording) sum() {
	r.Report.Tokens = r.Earlier.Tokens.plus(r.Current.Tokens).plus(r.Live)
	switch {
	case r.Current.Cost == nil:
		r.Report.CostUSD = r.Earlier.Cost
	case r.Earlier.Cost == nil:
		r.Report.CostUSD = r.Current.Cost
	default:
		both := min(*r.Earlier.Cost+*r.Current.Cost, maxCost)
		r.Report.CostUSD = &both
	}
}

// subjects are the arguments of tools that say best what one works on.
var subjects = []string{"command", "cmd", "file_path", "path", "absolute_path", "dir_path", "notebook_path", "url", "pattern", "query", "description", "prompt"}

// summary says in one line what the arguments of a tool are about.
func summary(input json.RawMessage) string {
	var args map[string]json.RawMessage
	if json.Unmarshal(input, &args) != nil {
		return ""
	}
	for _, name := range subjects {
		var text string
		if raw, has := args[name]; has && json.Unmarshal(raw, &text) == nil && text != "" {
			return oneLine(text, maxOn)
		}
	}
	return ""
}

// textOf returns the text of a JSON value: a string, a list of blocks with text, or an
// object whose content is one of these.
func textOf(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	var object struct {
		Content json.RawMessage `json:"content"`
	}
	if json.Unmarshal(raw, &object) == nil && len(object.Content) > 0 {
		raw = object.Content
		if json.Unmarshal(raw, &text) == nil {
			return text
		}
	}
	var blocks []struct {
		Text string `json:"text"`
	}
	if json.Unmarshal(raw, &blocks) != nil {
		return ""
	}
	texts := make([]string, 0, len(blocks))
	for _, b := range blocks {
		texts = append(texts, b.Text)
	}
	return strings.Join(texts, "\n")
}
