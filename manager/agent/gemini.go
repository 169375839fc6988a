package agent

import (
	"encoding/json"
	"maps"
	"slices"
	"time"
)

// gemini is the Gemini CLI.
func gemini() Agent {
	return Agent{
		Name: "gemini", Title: "Gemini CLI", Aliases: []string{"gemini-cli"},
		Dependency: "gemini-cli", Package: "@google/gemini-cli", Version: "0.61.0", Executable: "gemini",
		Grants: []string{"gemini"}, Hosts: []string{"generativelanguage.googleapis.com"},
		// It starts itself a second time otherwise, only to have more memory.
		Env:         []string{"GEMINI_CLI_NO_RELAUNCH=true"},
		ContextFile: ".gemini/GEMINI.md", Sessions: ".gemini/tmp",
		command: geminiCommand, stage: geminiStage, decode: geminiDecode,
	}
}

// geminiCommand joins flags with their values, so that a prompt may begin with a
// dash. That nobody is asked for permissions cannot be a setting.
func geminiCommand(in Invocation) []string {
	args := []string{"--approval-mode=yolo"}
	if in.Model != "" {
		args = append(args, "--model="+in.Model)
	}
	if in.Session != "" {
		args = append(args, "--resume="+in.Session)
	}
	switch {
	case !in.Interactive:
		args = append(args, "--output-format=stream-json", "--prompt="+in.Prompt)
	case in.Prompt != "":
		args = append(args, "--prompt-interactive="+in.Prompt)
	}
	return args
}

func geminiStage(s Setup) ([]File, error) {
	s.Servers = slices.Clone(s.Servers)
	for i, server := range s.Servers {
		if server.URL != "" {
			continue
		}
		// Gemini CLI keeps from servers what looks like a secret, as placeholders do,
		// and what it does not know, unless their settings refer to it.
		env := maps.Clone(server.Env)
		for _, name := range s.variables(server) {
			if env == nil {
				env = map[string]string{}
			}
			env[name] = "$" + name
		}
		s.Servers[i].Env = env
	}
	settings, err := jsonFile(".gemini/settings.json", object{
		"general":   object{"enableAutoUpdate": false, "enableAutoUpdateNotification": false},
		"ide":       object{"enabled": false, "hasSeenNudge": true},
		"privacy":   object{"usageStatisticsEnabled": false},
		"telemetry": object{"enabled": false},
		"ui":        object{"theme": "Default", "hideTips": true},
		"security": object{
			"auth":        object{"selectedType": "gemini-api-key"},
			"folderTrust": object{"enabled": false},
		},
		"mcpServers": s.servers("httpUrl", nil),
	})
	if err != nil {
		return nil, err
	}
	trust, err := jsonFile(".gemini/trustedFolders.json", object{s.Workspace: "TRUST_FOLDER"})
	if err != nil {
		return nil, err
	}
	return []File{settings, trust}, nil
}

// geminiDecode reads --output-format stream-json, which tells no cost.
func geminiDecode(r *recording, kind string, line []byte) (bool, error) {
	var event struct {
		Timestamp  time.Time       `json:"timestamp"`
		Session    string          `json:"session_id"`
		Model      string          `json:"model"`
		Role       string          `json:"role"`
		Content    string          `json:"content"`
		Delta      bool            `json:"delta"`
		Tool       string          `json:"tool_name"`
		ToolID     string          `json:"tool_id"`
		Parameters json.RawMessage `json:"parameters"`
		Status     string          `json:"status"`
		Output     string          `json:"output"`
		Severity   string          `json:"severity"`
		Message    string          `json:"message"`
		Error      struct {
			Message string `json:"message"`
		} `json:"error"`
		Stats struct {
			Input  int64 `json:"input_tokens"`
			Cached int64 `json:"cached"`
			Output int64 `json:"output_tokens"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(line, &event); err != nil {
		return true, err
	}
	switch kind {
	case "init":
		r.begin(event.Session, event.Model)
	case "message":
		switch {
		case event.Role == "user":
			r.hear(event.Timestamp, event.Content)
		case event.Delta:
			r.sayMore(event.Timestamp, event.Content)
		default:
			r.say(event.Timestamp, event.Content)
		}
	case "tool_use":
		r.call(event.Timestamp, event.ToolID, event.Tool, summary(event.Parameters), string(event.Parameters))
	case "tool_result":
		r.result(event.Timestamp, event.ToolID, firstOf(event.Output, event.Error.Message), event.Status == "error")
	case "error":
		if event.Severity == "warning" {
			r.notice(event.Timestamp, event.Message)
			return true, nil
		}
		r.fault(event.Timestamp, event.Message)
	case "result":
		// Of this process only.
		r.spend(newTokens(event.Stats.Cached, event.Stats.Output, event.Stats.Input))
		if event.Status == "success" {
			r.answer(r.lastSaid())
		} else {
			r.fail(event.Error.Message)
		}
	default:
		return false, nil
	}
	return true, nil
}
