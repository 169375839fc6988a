package agent

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// codex is the Codex CLI.
func codex() Agent {
	return Agent{
		Name: "codex", Title: "Codex CLI", Aliases: []string{"codex-cli"},
		Dependency: "codex-cli", Package: "@openai/codex", Version: "0.169.0", Executable: "codex",
		Grants: []string{"openai", "chatgpt"}, Hosts: []string{"api.openai.com", "chatgpt.com"},
		ContextFile: ".codex/AGENTS.md", Sessions: ".codex/sessions",
		command: codexCommand, stage: codexStage, decode: codexDecode,
	}
}

func codexCommand(in Invocation) []string {
	var args []string
	if !in.Interactive {
		args = append(args, "exec")
	}
	if in.Session != "" {
		args = append(args, "resume")
	}
	if !in.Interactive {
		// The workspace need not be a repository: the sandbox bounds what is lost.
		args = append(args, "--json", "--skip-git-repo-check")
	}
	args = withFlag(args, "--model", in.Model)
	if in.Session != "" {
		args = append(args, in.Session)
	}
	return withPrompt(args, in.Prompt)
}

// codexStage writes the settings. The login is the grant's.
func codexStage(s Setup) ([]File, error) {
	var b strings.Builder
	b.WriteString(`approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false
cli_auth_credentials_store = "file"

[analytics]
enabled = false

[feedback]
enabled = false

[notice]
hide_full_access_warning = true
hide_rate_limit_model_nudge = true

`)
	// The daemon copies Codex into the home, keeps that up to date, and outlives the
	// session. The others ask chatgpt.com, and some wait for its answer, which a run
	// with an API key does not reach.
	b.WriteString("[features]\n")
	for _, feature := range []string{"api_key_model_discovery", "apps", "daemon_auto_start", "plugins", "remote_plugin"} {
		fmt.Fprintf(&b, "%s = false\n", feature)
	}
	b.WriteString("\n[shell_environment_policy]\ninherit = \"all\"\n")
	fmt.Fprintf(&b, "\n[projects.%s]\ntrust_level = \"trusted\"\n", tomlString(s.Workspace))
	for _, server := range s.Servers {
		fmt.Fprintf(&b, "\n[mcp_servers.%s]\n", server.Name)
		if server.URL != "" {
			fmt.Fprintf(&b, "url = %s\n", tomlString(server.URL))
			writeTable(&b, "http_headers", server.Headers)
			continue
		}
		command := s.commandLine(server)
		fmt.Fprintf(&b, "command = %s\n", tomlString(command[0]))
		writeList(&b, "args", command[1:])
		// Codex starts servers with a few variables of its own choice otherwise.
		writeList(&b, "env_vars", s.variables(server))
		writeTable(&b, "env", server.Env)
	}
	return []File{{Path: ".codex/config.toml", Content: []byte(b.String()), Mode: configMode}}, nil
}

// writeList writes an array of strings.
func writeList(b *strings.Builder, name string, values []string) {
	fmt.Fprintf(b, "%s = [", name)
	for i, value := range values {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(tomlString(value))
	}
	b.WriteString("]\n")
}

// writeTable writes an inline table, if there is anything in it.
func writeTable(b *strings.Builder, name string, pairs map[string]string) {
	if len(pairs) == 0 {
		return
	}
	fmt.Fprintf(b, "%s = {", name)
	for i, key := range slices.Sorted(maps.Keys(pairs)) {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(b, " %s = %s", tomlString(key), tomlString(pairs[key]))
	}
	b.WriteString(" }\n")
}

// tomlString quotes a basic string of TOML.
func tomlString(value string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range value {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case isControl(r):
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

type codexItem struct {
	ID        string          `json:"id"`
	Type      string          `json:"type"`
	Text      string          `json:"text"`
	Message   string          `json:"message"`
	Command   string          `json:"command"`
	Output    string          `json:"aggregated_output"`
	ExitCode  *int            `json:"exit_code"`
	Status    string          `json:"status"`
	Server    string          `json:"server"`
	Tool      string          `json:"tool"`
	Arguments json.RawMessage `json:"arguments"`
	Result    json.RawMessage `json:"result"`
	Query     string          `json:"query"`
	Changes   []struct {
		Path string `json:"path"`
		Kind string `json:"kind"`
	} `json:"changes"`
}

// codexDecode reads exec --json, which tells no times, no model and no cost.
func codexDecode(r *recording, kind string, line []byte) (bool, error) {
	var event struct {
		Thread  string    `json:"thread_id"`
		Message string    `json:"message"`
		Item    codexItem `json:"item"`
		Error   struct {
			Message string `json:"message"`
		} `json:"error"`
		Usage struct {
			Input  int64 `json:"input_tokens"`
			Cached int64 `json:"cached_input_tokens"`
			Output int64 `json:"output_tokens"`
		} `json:"usage"`
	}
	if err := json.Unmarshal(line, &event); err != nil {
		return true, err
	}
	switch kind {
	case "thread.started":
		r.begin(event.Thread, "")
	case "turn.started":
		r.work()
	case "item.started":
		codexStarted(r, event.Item)
	case "item.updated":
	case "item.completed":
		codexCompleted(r, event.Item)
	case "turn.completed":
		// Of all turns of the thread, also where it was continued.
		r.total(newTokens(event.Usage.Cached, event.Usage.Output, event.Usage.Input))
		r.answer(r.lastSaid())
	case "turn.failed":
		r.fail(event.Error.Message)
	case "error":
		if strings.HasPrefix(event.Message, "Reconnecting") {
			r.retry(time.Time{}, event.Message)
			return true, nil
		}
		r.fault(time.Time{}, event.Message)
	default:
		return false, nil
	}
	return true, nil
}

// tool returns the name of an item's tool, and what it works on; no name where the
// item is no tool's.
func (i codexItem) tool() (name, on, input string) {
	switch i.Type {
	case "command_execution":
		return "command", i.Command, i.Command
	case "file_change":
		paths := make([]string, 0, len(i.Changes))
		for _, change := range i.Changes {
			paths = append(paths, strings.TrimSpace(change.Kind+" "+change.Path))
		}
		all := strings.Join(paths, "\n")
		return "file_change", strings.Join(paths, ", "), all
	case "mcp_tool_call":
		return i.Server + "." + i.Tool, summary(i.Arguments), string(i.Arguments)
	case "web_search":
		return "web_search", i.Query, i.Query
	case "collab_tool_call":
		return firstOf(i.Tool, i.Type), "", ""
	}
	return "", "", ""
}

func codexStarted(r *recording, i codexItem) {
	if name, on, input := i.tool(); name != "" {
		r.call(time.Time{}, i.ID, name, on, input)
	}
}

func codexCompleted(r *recording, i codexItem) {
	switch i.Type {
	case "agent_message":
		r.say(time.Time{}, i.Text)
		return
	case "reasoning":
		r.think(time.Time{}, i.Text)
		return
	case "error":
		r.notice(time.Time{}, i.Message)
		return
	}
	name, on, input := i.tool()
	if name == "" {
		return
	}
	if !r.isOpen(i.ID) {
		r.call(time.Time{}, i.ID, name, on, input) // some items only end
	}
	isError := i.Status == "failed" || i.Status == "declined" || (i.ExitCode != nil && *i.ExitCode != 0)
	r.result(time.Time{}, i.ID, firstOf(i.Output, textOf(i.Result)), isError)
}
