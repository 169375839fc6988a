package agent

import (
	"encoding/json"
	"strings"
	"time"
)

// claude is Claude Code.
func claude() Agent {
	return Agent{
		Name: "claude", Title: "Claude Code", Aliases: []string{"claude-code"},
		Dependency: "claude-code", Package: "@anthropic-ai/claude-code", Version: "2.1.332", Executable: "claude",
		Grants: []string{"anthropic", "claude"}, Hosts: []string{"api.anthropic.com"},
		// Without it Claude Code refuses to work without permissions as root. It is
		// in the settings too, which tell the processes that it starts.
		Env:         []string{"IS_SANDBOX=1"},
		ContextFile: ".claude/CLAUDE.md", Sessions: ".claude/projects",
		command: claudeCommand, input: claudeInput, stage: claudeStage, decode: claudeDecode,
	}
}

func claudeCommand(in Invocation) []string {
	var args []string
	if !in.Interactive {
		args = append(args, "-p", "--output-format", "stream-json", "--verbose")
	}
	if in.Live {
		// What it has taken it prints again, with the time.
		args = append(args, "--input-format", "stream-json", "--replay-user-messages")
		in.Prompt = ""
	}
	args = withFlag(args, "--model", in.Model)
	args = withFlag(args, "--resume", in.Session)
	return withPrompt(args, in.Prompt)
}

func claudeInput(prompt string) []byte {
	return jsonLine(object{"type": "user", "message": object{"role": "user", "content": prompt}})
}

// claudeKeyTail is how much of the end of an API key Claude Code remembers of those
// that it was allowed to use.
const claudeKeyTail = 20

func claudeStage(s Setup) ([]File, error) {
	state := object{
		"hasCompletedOnboarding": true,
		"theme":                  "dark",
		"autoUpdates":            false,
		// Without it the first run of each version says what is new.
		"lastOnboardingVersion":         claude().Version,
		"lastReleaseNotesSeen":          claude().Version,
		"bypassPermissionsModeAccepted": true,
		// Or a session on a terminal fetches a list of plugins from GitHub.
		"officialMarketplaceAutoInstallAttempted":  true,
		"officialMarketplaceAutoInstallFailReason": "policy_blocked",
		"projects": object{s.Workspace: object{
			"hasTrustDialogAccepted": true, "hasCompletedProjectOnboarding": true, "projectOnboardingSeenCount": 1,
		}},
		"mcpServers": s.servers("url", object{"type": "http"}),
	}
	if key := s.variable("ANTHROPIC_API_KEY"); key != "" {
		state["customApiKeyResponses"] = object{"approved": []string{key[max(0, len(key)-claudeKeyTail):]}, "rejected": []string{}}
	}
	stateFile, err := jsonFile(".claude.json", state)
	if err != nil {
		return nil, err
	}
	plugin, err := languageFiles(s.Languages)
	if err != nil {
		return nil, err
	}
	settings, err := jsonFile(".claude/settings.json", claudeSettings(s))
	if err != nil {
		return nil, err
	}
	return append(plugin, stateFile, settings), nil
}

func claudeSettings(s Setup) object {
	env := object{
		// No updates, telemetry, error reports and surveys, which a strict
		// network refuses anyway.
		"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
		"IS_SANDBOX": "1",
	}
	if len(s.Languages) > 0 {
		env["CLAUDE_CODE_PLUGIN_DIRS"] = "~/" + languagePlugin
	}
	settings := object{
		"env":                               env,
		"permissions":                       object{"defaultMode": "bypassPermissions"},
		"skipDangerousModePermissionPrompt": true,
		"enableAllProjectMcpServers":        true,
	}
	if len(s.Plugins) > 0 {
		settings["enabledPlugins"] = s.Plugins
	}
	if len(s.Marketplaces) > 0 {
		known := object{}
		for name, dir := range s.Marketplaces {
			known[name] = object{"source": object{"source": "directory", "path": dir}}
		}
		settings["extraKnownMarketplaces"] = known
	}
	return settings
}

type claudeUsage struct {
	Input         int64 `json:"input_tokens"`
	CacheRead     int64 `json:"cache_read_input_tokens"`
	CacheCreation int64 `json:"cache_creation_input_tokens"`
	Output        int64 `json:"output_tokens"`
}

func (u claudeUsage) tokens() Tokens {
	return newTokens(u.CacheRead, u.Output, u.Input, u.CacheRead, u.CacheCreation)
}

type claudeBlock struct {
	Type     string          `json:"type"`
	Text     string          `json:"text"`
	Thinking string          `json:"thinking"`
	ID       string          `json:"id"`
	Name     string          `json:"name"`
	Input    json.RawMessage `json:"input"`
	ToolID   string          `json:"tool_use_id"`
	Content  json.RawMessage `json:"content"`
	IsError  bool            `json:"is_error"`
}

// claudeDecode reads --output-format stream-json.
func claudeDecode(r *recording, kind string, line []byte) (bool, error) {
	switch kind {
	case "system":
		return true, claudeSystem(r, line)
	case "assistant", "user":
		return true, claudeMessage(r, kind, line)
	case "result":
		return true, claudeResult(r, line)
	case "stream_event", "rate_limit_event", "tool_progress", "tool_use_summary", "auth_status", "prompt_suggestion":
		return true, nil // nothing that the other events do not tell
	}
	return false, nil
}

func claudeSystem(r *recording, line []byte) error {
	var event struct {
		Subtype string `json:"subtype"`
		Session string `json:"session_id"`
		Model   string `json:"model"`
		Error   string `json:"error"`
	}
	if err := json.Unmarshal(line, &event); err != nil {
		return err
	}
	switch event.Subtype {
	case "init":
		r.begin(event.Session, event.Model)
	case "api_retry":
		r.retry(time.Time{}, event.Error)
	}
	return nil
}

func claudeMessage(r *recording, role string, line []byte) error {
	var event struct {
		Message struct {
			ID      string          `json:"id"`
			Model   string          `json:"model"`
			Content json.RawMessage `json:"content"`
			Usage   claudeUsage     `json:"usage"`
		} `json:"message"`
		Error     string    `json:"error"`
		IsReplay  bool      `json:"isReplay"`
		Timestamp time.Time `json:"timestamp"`
	}
	if err := json.Unmarshal(line, &event); err != nil {
		return err
	}
	var blocks []claudeBlock
	var text string
	if json.Unmarshal(event.Message.Content, &text) == nil {
		blocks = []claudeBlock{{Type: "text", Text: text}}
	} else if err := json.Unmarshal(event.Message.Content, &blocks); err != nil {
		return err
	}
	if event.IsReplay {
		r.Report.Prompts++
	}
	// A model in angle brackets is Claude Code itself, which says what went wrong.
	isModel := role == "assistant" && event.Error == "" && !strings.HasPrefix(event.Message.Model, "<")
	if isModel {
		r.setModel(event.Message.Model)
		r.spendOnce(event.Message.ID, event.Message.Usage.tokens())
	}
	for _, b := range blocks {
		switch {
		case b.Type == "text" && role == "assistant" && !isModel:
			r.fault(event.Timestamp, b.Text)
		case b.Type == "text" && role == "user":
			r.hear(event.Timestamp, b.Text)
		case b.Type == "text":
			r.say(event.Timestamp, b.Text)
		case b.Type == "thinking":
			r.think(event.Timestamp, b.Thinking)
		case strings.HasSuffix(b.Type, "tool_use"):
			r.call(event.Timestamp, b.ID, b.Name, summary(b.Input), string(b.Input))
		case strings.HasSuffix(b.Type, "tool_result"):
			r.result(event.Timestamp, b.ToolID, textOf(b.Content), b.IsError)
		}
	}
	return nil
}

func claudeResult(r *recording, line []byte) error {
	var event struct {
		Session string      `json:"session_id"`
		IsError bool        `json:"is_error"`
		Result  string      `json:"result"`
		Errors  []string    `json:"errors"`
		Subtype string      `json:"subtype"`
		Cost    *float64    `json:"total_cost_usd"`
		Usage   claudeUsage `json:"usage"`
		Models  map[string]struct {
			Input         int64 `json:"inputTokens"`
			CacheRead     int64 `json:"cacheReadInputTokens"`
			CacheCreation int64 `json:"cacheCreationInputTokens"`
			Output        int64 `json:"outputTokens"`
		} `json:"modelUsage"`
	}
	if err := json.Unmarshal(line, &event); err != nil {
		return err
	}
	r.begin(event.Session, "")
	// Both are of the whole session, also where it was continued.
	if len(event.Models) > 0 {
		var all Tokens
		for _, m := range event.Models {
			all = all.plus(claudeUsage(m).tokens())
		}
		r.total(all)
	}
	if event.Cost != nil && len(event.Models) > 0 {
		r.totalCost(*event.Cost)
	}
	if !event.IsError {
		r.answer(event.Result)
		return nil
	}
	problems := event.Errors
	if len(problems) == 0 {
		problems = []string{firstOf(event.Result, event.Subtype)}
	}
	r.fail(problems...)
	return nil
}
