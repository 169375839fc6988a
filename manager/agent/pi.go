package agent

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// pi is the pi coding agent, which works with the models of several services.
func pi() Agent {
	return Agent{
		Name: "pi", Title: "pi", Aliases: []string{"pi-cli", "pi-coding-agent"},
		Dependency: "pi-cli", Package: "@earendil-works/pi-coding-agent", Version: "1.3.0", Executable: "pi",
		Grants: []string{"anthropic", "openai", "gemini"},
		Hosts:  []string{"api.anthropic.com", "api.openai.com", "generativelanguage.googleapis.com"},
		// No catalogues of models and no look for a newer version.
		Env:         []string{"PI_OFFLINE=1", "PI_TELEMETRY=0"},
		ContextFile: ".pi/agent/AGENTS.md", Sessions: ".pi/agent/sessions",
		command: piCommand, input: piInput, stage: piStage, decode: piDecode,
	}
}

func piCommand(in Invocation) []string {
	var args []string
	switch {
	case in.Live:
		args = append(args, "--mode", "rpc")
		in.Prompt = ""
	case !in.Interactive:
		args = append(args, "--print", "--mode", "json")
	}
	args = withFlag(args, "--model", in.Model)
	args = withFlag(args, "--session", in.Session)
	if strings.HasPrefix(in.Prompt, "@") {
		in.Prompt = " " + in.Prompt // or it is taken for the name of a file
	}
	return withPrompt(args, in.Prompt)
}

// piInput asks for the state as well, because in this mode nothing else tells the ID of
// the session.
func piInput(prompt string) []byte {
	return slices.Concat(
		jsonLine(object{"type": "get_state"}),
		jsonLine(object{"type": "prompt", "message": prompt, "streamingBehavior": "steer"}),
	)
}

// piStage needs no permissions: pi asks for none.
func piStage(s Setup) ([]File, error) {
	values := object{"defaultProjectTrust": "always", "enableInstallTelemetry": false, "quietStartup": true, "theme": "dark"}
	if s.Provider != "" {
		values["defaultProvider"] = s.Provider
	}
	settings, err := jsonFile(".pi/agent/settings.json", values)
	if err != nil {
		return nil, err
	}
	servers, err := jsonFile(".pi/agent/mcp.json", object{"mcpServers": s.servers("url", nil)})
	if err != nil {
		return nil, err
	}
	return []File{settings, servers}, nil
}

type piMessage struct {
	Role      string          `json:"role"`
	Content   json.RawMessage `json:"content"`
	Provider  string          `json:"provider"`
	Model     string          `json:"model"`
	Stop      string          `json:"stopReason"`
	Error     string          `json:"errorMessage"`
	Timestamp int64           `json:"timestamp"` // in milliseconds
	Usage     struct {
		Input      int64 `json:"input"`
		Output     int64 `json:"output"`
		CacheRead  int64 `json:"cacheRead"`
		CacheWrite int64 `json:"cacheWrite"`
		Cost       struct {
			Total float64 `json:"total"`
		} `json:"cost"`
	} `json:"usage"`
}

// piDecode reads --mode json.
func piDecode(r *recording, kind string, line []byte) (bool, error) {
	var event struct {
		ID        string          `json:"id"`
		CallID    string          `json:"toolCallId"`
		Tool      string          `json:"toolName"`
		Args      json.RawMessage `json:"args"`
		Result    json.RawMessage `json:"result"`
		IsError   bool            `json:"isError"`
		WillRetry bool            `json:"willRetry"`
		Aborted   bool            `json:"aborted"`
		Message   piMessage       `json:"message"`
		Error     string          `json:"errorMessage"`
		Command   string          `json:"command"` // that is answered
		Refusal   string          `json:"error"`
		Success   bool            `json:"success"`
		Data      struct {
			Session string `json:"sessionId"`
		} `json:"data"`
	}
	if err := json.Unmarshal(line, &event); err != nil {
		return true, err
	}
	switch kind {
	case "session":
		r.begin(event.ID, "")
	case "response":
		switch {
		case event.Command == "get_state" && event.Data.Session != r.Report.Session:
			r.begin(event.Data.Session, "")
		case event.Command == "prompt" && !event.Success:
			r.Report.Prompts++
			r.fail(event.Refusal)
		}
	case "agent_start":
		r.work()
	case "message_end":
		piMessageEnd(r, event.Message)
	case "tool_execution_start":
		r.call(time.Time{}, event.CallID, event.Tool, summary(event.Args), string(event.Args))
	case "tool_execution_end":
		r.result(time.Time{}, event.CallID, textOf(event.Result), event.IsError)
	case "auto_retry_start", "summarization_retry_scheduled":
		r.retry(time.Time{}, event.Error)
	case "agent_settled":
		switch {
		case event.Aborted:
			r.fail("the work was broken off")
		case r.Fault != "":
			r.fail(r.Fault)
		default:
			r.answer(r.lastSaid())
		}
	case "turn_start", "turn_end", "agent_end", "message_start", "message_update", "tool_execution_update",
		"auto_retry_end", "summarization_retry_attempt_start", "summarization_retry_finished",
		"compaction_start", "compaction_end", "queue_update", "entry_appended", "session_info_changed", "thinking_level_changed":
	default:
		return false, nil
	}
	return true, nil
}

func piMessageEnd(r *recording, m piMessage) {
	at := time.Time{}
	if m.Timestamp > 0 {
		at = time.UnixMilli(m.Timestamp).UTC()
	}
	switch m.Role {
	case "user":
		r.Report.Prompts++
		r.hear(at, textOf(m.Content))
	case "assistant":
		r.setModel(strings.TrimPrefix(m.Provider+"/"+m.Model, "/"))
		r.spend(newTokens(m.Usage.CacheRead, m.Usage.Output, m.Usage.Input, m.Usage.CacheRead, m.Usage.CacheWrite))
		r.spendCost(m.Usage.Cost.Total)
		var blocks []struct {
			Type     string `json:"type"`
			Text     string `json:"text"`
			Thinking string `json:"thinking"`
		}
		if json.Unmarshal(m.Content, &blocks) == nil {
			for _, b := range blocks {
				switch b.Type {
				case "text":
					r.say(at, b.Text)
				case "thinking":
					r.think(at, b.Thinking)
				}
			}
		}
		if m.Stop == "error" || m.Stop == "aborted" {
			r.fault(at, firstOf(m.Error, m.Stop))
		}
	}
}
