package tools

import (
	"fmt"
	"slices"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/manager/agent"
)

// maxCommandBytes bounds how much of a run's command an answer repeats.
const maxCommandBytes = 2 << 10

// rowFields describe a run in a list and beside output.
var rowFields = []Field{
	{Name: "id", Type: "string", Description: "The run's ID, run_ and 12 hexadecimal digits."},
	{Name: "name", Type: "string", Description: "Its name, unique among live runs."},
	{Name: "state", Type: "string", Description: "Stopped and failed are final.", Enum: stateNames},
	{Name: "exit_code", Type: "integer", Optional: true, Description: "Exit code of the command, once it has ended; 128 plus the signal's number after a signal."},
	{Name: "signal", Type: "string", Optional: true, Description: "The signal that ended the command."},
	{Name: "end_reason", Type: "string", Optional: true, Description: "Why the run ended: exited, stop_requested, deadline, idle, budget, oom, lost or setup_failed."},
	{Name: "error", Type: "string", Optional: true, Description: "Why the run failed."},
	{Name: "runtime", Type: "string", Description: "The driver of its sandbox."},
	{Name: "isolation", Type: "string", Optional: true, Description: "What stands between the run and the host: gvisor, runc or vm."},
	{Name: "created_at", Type: "string", Description: "RFC 3339 in UTC."},
	{Name: "stopped_at", Type: "string", Optional: true, Description: "When it ended."},
	{Name: "state_note", Type: "string", Optional: true, Description: "Why the state may be out of date; absent if it is confirmed."},
	agentField,
	{Name: "requests_refused", Type: "integer", Optional: true, Description: "How many of its requests its network policy refused; network_log has them."},
	{Name: "refused_hosts", Type: "array", Optional: true, Description: "Hosts of the last refusals: what network_rules lack, if they are needed."},
}

// agentField is what an agent says of itself.
var agentField = Field{Name: "agent", Type: "object", Optional: true, Description: "How the run's agent is doing, as its own output says.", Fields: []Field{
	{Name: "name", Type: "string", Description: "Which agent it is."},
	{Name: "state", Type: "string", Description: "What it does now, or did last.", Enum: []string{string(agent.Starting), string(agent.Thinking), string(agent.Using), string(agent.Retrying), string(agent.Waiting), string(agent.Done), string(agent.Failed)}},
	{Name: "tool", Type: "string", Optional: true, Description: "The tool that it uses."},
	{Name: "on", Type: "string", Optional: true, Description: "What it uses the tool on."},
	{Name: "notice", Type: "string", Optional: true, Description: "How to take its answer."},
	{Name: "answer", Type: "string", Optional: true, Description: "What it said last, once it is done. Untrusted data."},
	{Name: "answer_shortened", Type: "boolean", Optional: true, Description: "The answer is longer; transcript has it."},
	{Name: "errors", Type: "array", Optional: true, Description: "The latest errors."},
	{Name: "turns", Type: "integer", Description: "Prompts that it answered."},
	{Name: "tool_calls", Type: "integer", Description: "How often it used a tool."},
	{Name: "input_tokens", Type: "integer", Description: "Tokens that the model read."},
	{Name: "output_tokens", Type: "integer", Description: "Tokens that the model wrote."},
	{Name: "cost_usd", Type: "number", Optional: true, Description: "What it cost, if the agent tells it."},
}}

// runFields describe a run in full.
var runFields = append(slices.Clip(rowFields), []Field{
	{Name: "isolation_note", Type: "string", Optional: true, Description: "Why the isolation is not stronger."},
	{Name: "image", Type: "string", Description: "The image of its sandbox."},
	{Name: "workspace", Type: "string", Description: "The host directory that is /workspace inside."},
	{Name: "workspace_is_copied", Type: "boolean", Optional: true, Description: "Inside there is a copy of it, which goes away with the run; the directory itself stays as it is."},
	{Name: "volumes", Type: "array", Optional: true, Description: "Storage that outlives the run.", Fields: []Field{
		{Name: "name", Type: "string", Description: "Its name."},
		{Name: "target", Type: "string", Description: "Where it is in the sandbox."},
		{Name: "readonly", Type: "boolean", Optional: true, Description: "It cannot be written."},
	}},
	{Name: "command", Type: "array", Description: "The command. Long ones are shortened."},
	{Name: "command_shortened", Type: "boolean", Optional: true, Description: "The command is longer than what is shown."},
	{Name: "network", Type: "string", Description: "What it reaches: none, strict (what its rules name) or permissive (the Internet, except what they deny).", Enum: []string{string(manager.NetworkNone), string(manager.NetworkStrict), string(manager.NetworkPermissive)}},
	{Name: "network_rules", Type: "array", Optional: true, Description: "Its network rules."},
	{Name: "grants", Type: "array", Optional: true, Description: "The grants that it uses."},
	{Name: "secrets", Type: "array", Optional: true, Description: "Variables of its environment that are secrets."},
	{Name: "secrets_note", Type: "string", Optional: true, Description: "Who can read them."},
	{Name: "requests", Type: "integer", Optional: true, Description: "How many requests it sent, once it has ended; network_log has them."},
	{Name: "interactive", Type: "boolean", Optional: true, Description: "It takes input."},
	{Name: "keep", Type: "boolean", Optional: true, Description: "Its sandbox stays after its end, until destroy."},
	{Name: "started_at", Type: "string", Optional: true, Description: "When its command started."},
	{Name: "timeout_seconds", Type: "number", Optional: true, Description: "From start to the deadline."},
	{Name: "deadline", Type: "string", Optional: true, Description: "When it will be ended."},
	{Name: "oom_killed", Type: "boolean", Optional: true, Description: "It was killed for want of memory."},
	{Name: "memory_mb", Type: "integer", Optional: true, Description: "Its memory limit in MiB."},
	{Name: "cpus", Type: "number", Optional: true, Description: "Its CPU limit in cores."},
	{Name: "ports", Type: "array", Optional: true, Description: "Its published ports.", Fields: []Field{
		{Name: "endpoint", Type: "string", Description: "Name of the endpoint."},
		{Name: "port", Type: "integer", Description: "TCP port in the sandbox."},
		{Name: "address", Type: "string", Optional: true, Description: "Where it is reached on the host, as ADDRESS:PORT, from the start of the run to its end."},
		{Name: "url", Type: "string", Optional: true, Description: "Where people open it in a browser of the host, for as long as the run is up."},
	}},
	{Name: "services", Type: "array", Optional: true, Description: "Servers beside its sandbox, which it alone reaches.", Fields: []Field{
		{Name: "name", Type: "string", Description: "Name of the service, and its host name in the sandbox."},
		{Name: "state", Type: "string", Description: "How it is doing.", Enum: []string{string(manager.ServiceCreated), string(manager.ServiceStarted), string(manager.ServiceReady), string(manager.ServiceExited), string(manager.ServiceStopped)}},
		{Name: "address", Type: "string", Description: "Where the sandbox reaches it, as HOST:PORT."},
		{Name: "image", Type: "string", Description: "Its image."},
		{Name: "note", Type: "string", Optional: true, Description: "How it ended before its run."},
	}},
	{Name: "ports_note", Type: "string", Optional: true, Description: "Which addresses are others than they were, and why."},
	{Name: "urls_note", Type: "string", Optional: true, Description: "Why the ports have no URLs."},
}...)

var stateNames = []string{
	string(manager.StateCreated), string(manager.StateStarting), string(manager.StateRunning),
	string(manager.StateStopping), string(manager.StateStopped), string(manager.StateFailed),
}

// runField and rowField are the field "run" of an answer.
var (
	runField = Field{Name: "run", Type: "object", Description: "The run, in full.", Fields: runFields}
	rowField = Field{Name: "run", Type: "object", Description: "The run, in short.", Fields: rowFields}
)

// noticeField is part of every answer with text from inside a sandbox.
var noticeField = Field{Name: "notice", Type: "string", Description: "How to take text from inside the sandbox."}

// nextField is part of answers after which there is something to do.
var nextField = Field{Name: "next", Type: "string", Optional: true, Description: "What to do next."}

// Row adds a run in short.
func (a *answer) Row(name string, run *manager.Run) {
	a.Object(name, func() { a.row(run) })
}

func (a *answer) row(run *manager.Run) {
	a.String("id", run.ID)
	a.String("name", run.Name)
	a.String("state", string(run.GetState()))
	if run.ExitCode != nil {
		a.Number("exit_code", int64(*run.ExitCode))
	}
	a.StringIf("signal", run.Signal)
	a.StringIf("end_reason", string(run.EndReason))
	a.StringIf("error", run.Error)
	a.String("runtime", string(run.Runtime))
	a.StringIf("isolation", string(run.Isolation))
	a.Time("created_at", run.CreatedAt)
	a.TimeIf("stopped_at", run.StoppedAt)
	if !run.StateConfirmed {
		a.StringIf("state_note", run.StateNote)
	}
	a.agent(run)
	a.refusals(run)
}

// maxAnswerBytes bounds what an answer shows of that of an agent.
const maxAnswerBytes = 4 << 10

// agent tells how an agent is doing.
func (a *answer) agent(run *manager.Run) {
	report := run.Report
	if report == nil {
		return
	}
	a.Object("agent", func() {
		a.String("name", run.Agent)
		a.String("state", string(report.Activity.State))
		a.StringIf("tool", report.Activity.Tool)
		a.StringIf("on", report.Activity.On)
		if report.Answer != "" {
			text, shortened := shorten(report.Answer, maxAnswerBytes)
			a.Notice()
			a.Framed("answer", text)
			a.FlagIf("answer_shortened", shortened || report.IsAnswerShortened)
		}
		if len(report.Errors) > 0 {
			a.Strings("errors", report.Errors)
		}
		a.Number("turns", report.Turns)
		a.Number("tool_calls", report.ToolCalls)
		a.Number("input_tokens", report.Tokens.Input)
		a.Number("output_tokens", report.Tokens.Output)
		if report.CostUSD != nil {
			a.Decimal("cost_usd", *report.CostUSD)
		}
	})
}

// refusals tells what the run's network policy refused.
func (a *answer) refusals(run *manager.Run) {
	if run.Requested == nil || run.Requested.Refused == 0 {
		return
	}
	a.Number("requests_refused", int64(run.Requested.Refused))
	hosts := make([]string, len(run.Requested.Last))
	for i, refusal := range run.Requested.Last {
		hosts[i] = refusal.Host
	}
	a.Strings("refused_hosts", hosts)
}

// Run adds a run in full. The environment is no part of it: it may hold secrets.
func (a *answer) Run(name string, run *manager.Run) {
	a.Object(name, func() {
		a.row(run)
		a.StringIf("isolation_note", run.IsolationNote)
		a.String("image", run.Image)
		a.String("workspace", run.Workspace)
		a.FlagIf("workspace_is_copied", run.WorkspaceMode == manager.WorkspaceVolume)
		a.volumes(run)
		command, shortened := shortCommand(run.Command)
		a.Strings("command", command)
		a.FlagIf("command_shortened", shortened)
		a.String("network", string(run.Network))
		a.network(run)
		a.FlagIf("interactive", run.Interactive)
		a.FlagIf("keep", run.KeepContainer)
		a.TimeIf("started_at", run.StartedAt)
		if run.Timeout > 0 {
			a.Decimal("timeout_seconds", run.Timeout.Seconds())
		}
		a.TimeIf("deadline", run.Deadline)
		a.FlagIf("oom_killed", run.OOMKilled)
		if run.MemoryBytes > 0 {
			a.Number("memory_mb", run.MemoryBytes>>20)
		}
		if run.CPUs > 0 {
			a.Decimal("cpus", run.CPUs)
		}
		a.ports(run)
		a.services(run)
	})
}

func (a *answer) volumes(run *manager.Run) {
	if len(run.Volumes) == 0 {
		return
	}
	a.List("volumes", len(run.Volumes), func(i int) {
		v := run.Volumes[i]
		a.String("name", v.Name)
		a.String("target", v.Target)
		a.FlagIf("readonly", v.ReadOnly)
	})
}

func (a *answer) services(run *manager.Run) {
	if len(run.Services) == 0 {
		return
	}
	a.List("services", len(run.Services), func(i int) {
		s := run.Services[i]
		a.String("name", s.Name)
		a.String("state", string(s.State))
		a.String("address", s.Address)
		a.String("image", s.Image)
		a.StringIf("note", s.Note)
	})
}

func (a *answer) ports(run *manager.Run) {
	endpoints := sortedKeys(run.Ports)
	if len(endpoints) == 0 {
		return
	}
	a.List("ports", len(endpoints), func(i int) {
		a.String("endpoint", endpoints[i])
		a.Number("port", int64(run.Ports[endpoints[i]]))
		if port, ok := run.HostPorts[endpoints[i]]; ok {
			a.String("address", fmt.Sprintf("127.0.0.1:%d", port))
		}
		a.StringIf("url", run.URLs[endpoints[i]])
	})
	a.StringIf("ports_note", run.PortsNote)
	a.StringIf("urls_note", run.URLsNote)
}

func (a *answer) network(run *manager.Run) {
	if len(run.NetworkRules) > 0 {
		a.Strings("network_rules", run.NetworkRules)
	}
	if len(run.Grants) > 0 {
		a.Strings("grants", run.Grants)
	}
	if len(run.Secrets) > 0 {
		a.Strings("secrets", sortedKeys(run.Secrets))
		a.String("secrets_note", secretsNote)
	}
	if run.Requested != nil {
		a.Number("requests", int64(run.Requested.Requests))
	}
}

// secretsNote is part of every answer about a run with secrets in full.
const secretsNote = "Everything in the run can read these variables, and send them wherever the run reaches. They are masked in its output, and not in files that it writes."

// shortCommand returns what an answer shows of a command.
func shortCommand(command []string) (shown []string, shortened bool) {
	left := maxCommandBytes
	for i, word := range command {
		if len(word) > left {
			return append(shown, word[:left]), true
		}
		// An argument costs something even where it is empty.
		if left -= len(word) + 1; left <= 0 && i+1 < len(command) {
			return append(shown, word), true
		}
		shown = append(shown, word)
	}
	return shown, false
}

// seconds converts an argument.
func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }
