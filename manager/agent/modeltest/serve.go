package modeltest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
)

// maxBody bounds a request in bytes. The agents' first ones have about 100,000.
const maxBody = 32 << 20

// conversation is a request in what the three protocols have in common.
type conversation struct {
	api    API
	model  string
	system []string
	items  []item
	tools  []string
	stream bool
}

// item is what the user's side added: words, or the result of a tool.
type item struct {
	isResult bool
	text     string
}

// reply is what the model does: it calls a tool, or else it says something.
type reply struct {
	text   string
	tool   string
	input  map[string]any // of the tool
	called string         // in a script: what the name of a tool ends in
}

// shellTools are the tools by which the agents run a command, with the argument
// that takes it.
var shellTools = map[string]string{
	"Bash": "command", "bash": "command", // Claude Code; pi
	"exec_command": "cmd", scriptTool: "cmd", // Codex
	"run_shell_command": "command", // Gemini CLI
}

// serveModel answers a request for a model.
func (s *Service) serveModel(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "" && r.Host == openaiHost {
		// Codex tries a WebSocket first, and takes this for a reason not to try again.
		http.Error(w, "this service has no WebSockets", http.StatusUpgradeRequired)
		return
	}
	if site := s.site(r.Host); site != nil {
		site.ServeHTTP(w, r)
		return
	}
	read, write, isKnown := protocol(r)
	if !isKnown {
		s.refuse(r.Method + " " + r.Host + r.URL.Path)
		http.Error(w, `{"error":{"message":"there is no such path"}}`, http.StatusNotFound)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return // the client is gone, or has been told
	}
	c, err := read(r.URL.Path, body)
	if err != nil {
		http.Error(w, fmt.Sprintf(`{"error":{"message":%q}}`, err), http.StatusBadRequest)
		return
	}
	step, at := s.choose(c.items)
	s.record(r, c, at)
	if step.Status != 0 {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(step.Status)
		fmt.Fprintf(w, `{"type":"error","error":{"type":"invalid_request_error","code":"refused","message":"the script refuses %s"}}`, step.Prompt)
		return
	}
	write(w, c, c.answer(step, at))
}

// protocol returns what reads and writes the protocol of a request.
func protocol(r *http.Request) (read func(string, []byte) (conversation, error), write func(http.ResponseWriter, conversation, reply), isKnown bool) {
	path := r.URL.Path
	switch {
	case r.Method != http.MethodPost:
		return nil, nil, false
	case path == "/v1/messages":
		return readAnthropic, writeAnthropic, true
	case r.Host == openaiHost && path == "/v1/responses":
		return readOpenAI, writeOpenAI, true
	case r.Host == geminiHost && strings.HasPrefix(path, geminiPrefix) && strings.Contains(path, "enerateContent"):
		return readGemini, writeGemini, true
	}
	return nil, nil, false
}

// choose returns the step for a conversation, and the item that it is for.
func (s *Service) choose(items []item) (step Step, at int) {
	for i, it := range slices.Backward(items) {
		if it.isResult {
			continue
		}
		for _, step := range s.script {
			if strings.Contains(it.text, step.Prompt) {
				return step, i
			}
		}
	}
	return Step{Answer: "The script has no answer to this."}, len(items)
}

// answer is what a step comes to: first its tools, and its words when they are done.
func (c conversation) answer(step Step, at int) reply {
	done := len(c.results(at))
	switch {
	case done < len(step.Calls):
		return c.call(step.Calls[done])
	case step.Shell == "" || done > 0:
		return reply{text: step.Answer}
	}
	i := slices.IndexFunc(c.tools, func(name string) bool { return shellTools[name] != "" })
	if i < 0 {
		return reply{text: "The program offers no tool for commands."}
	}
	tool := c.tools[i]
	input := map[string]any{shellTools[tool]: step.Shell}
	if tool == "Bash" {
		input["description"] = "Run a command"
	}
	return reply{tool: tool, input: input}
}

// call is the reply that calls a tool, also one that the program does not list.
func (c conversation) call(call Call) reply {
	input := call.Input
	if input == nil {
		input = map[string]any{}
	}
	if i := slices.IndexFunc(c.tools, func(name string) bool { return strings.HasSuffix(name, call.Tool) }); i >= 0 {
		return reply{tool: c.tools[i], input: input}
	}
	if slices.Contains(c.tools, scriptTool) {
		return reply{tool: scriptTool, called: call.Tool, input: input}
	}
	return reply{tool: call.Tool, input: input}
}

func (c conversation) results(at int) []string {
	var results []string
	for i := at + 1; i < len(c.items); i++ {
		if c.items[i].isResult {
			results = append(results, c.items[i].text)
		}
	}
	return results
}

func (s *Service) record(r *http.Request, c conversation, at int) {
	request := Request{
		API: c.api, Host: r.Host, Path: r.URL.Path, Model: c.model, System: strings.Join(c.system, "\n"),
		Results: c.results(at), Tools: c.tools,
	}
	for _, name := range []string{"X-Api-Key", "X-Goog-Api-Key", "Authorization"} {
		if value := r.Header.Get(name); value != "" {
			request.Credential = strings.TrimPrefix(value, "Bearer ")
		}
	}
	for _, it := range c.items {
		if !it.isResult {
			request.Prompts = append(request.Prompts, it.text)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, request)
}

// events writes server-sent events.
type events struct {
	w http.ResponseWriter
}

func newEvents(w http.ResponseWriter) events {
	w.Header().Set("Content-Type", "text/event-stream")
	return events{w: w}
}

// send writes one event; its name stays away where it is empty.
func (e events) send(name string, data any) {
	text, err := json.Marshal(data)
	if err != nil {
		panic(err) // it is ours
	}
	if name != "" {
		fmt.Fprintf(e.w, "event: %s\n", name)
	}
	fmt.Fprintf(e.w, "data: %s\n\n", text)
	_ = http.NewResponseController(e.w).Flush()
}

// object is a JSON object that is only written.
type object map[string]any

// texts reads a JSON value that is a string, or a list of parts with a field text, and
// returns the texts. Parts without one are left out.
func texts(raw json.RawMessage) []string {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return []string{one}
	}
	var parts []struct {
		Text string `json:"text"`
	}
	var all []string
	if json.Unmarshal(raw, &parts) == nil {
		for _, p := range parts {
			if p.Text != "" {
				all = append(all, p.Text)
			}
		}
	}
	return all
}
