package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// statsTimeout bounds the question what a run uses now: an engine that hangs must
// not keep the rest from being shown.
const statsTimeout = 5 * time.Second

// usageView is what a run uses now, as programs read it.
type usageView struct {
	MemoryBytes int64   `json:"memory_bytes"`
	MemoryLimit int64   `json:"memory_limit"`
	CPUSeconds  float64 `json:"cpu_seconds"`
	Processes   int64   `json:"processes"`
}

func (a *app) inspectCommand() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "inspect RUN",
		Short: "Show everything that is known of a run",
		Example: `  drawbridge inspect my-run
  drawbridge inspect --output json my-run | jq .run.exit_code`,
		Args:              runArgs(1),
		ValidArgsFunction: a.completeRun,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			m, err := a.open()
			if err != nil {
				return err
			}
			defer closeManager(m, &err)
			ctx, cancel := context.WithTimeout(cmd.Context(), readTimeout)
			defer cancel()
			r, err := m.ResolveOne(ctx, args[0])
			if err != nil {
				return err
			}
			usage, note := usageOf(ctx, m, r)
			joined, err := m.Joined(ctx, r.ID)
			if err != nil {
				return err
			}
			if output == formatJSON {
				return a.printJSON(struct {
					Run       runView          `json:"run"`
					Usage     *usageView       `json:"usage,omitempty"`
					UsageNote string           `json:"usage_note,omitempty"`
					Joined    []manager.Joined `json:"joined,omitempty"`
				}{viewOf(r), usage, note, joined})
			}
			return a.printInspection(r, joined, usage, note)
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// usageOf asks what a running run uses. Where that is unknown it says why.
func usageOf(ctx context.Context, m *manager.Manager, r *manager.Run) (*usageView, string) {
	if r.GetState() != manager.StateRunning {
		return nil, ""
	}
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	s, err := m.Stats(ctx, r.ID)
	if err != nil {
		return nil, oneLine(err.Error())
	}
	return &usageView{MemoryBytes: s.MemoryBytes, MemoryLimit: s.MemoryLimit, CPUSeconds: s.CPUTime.Seconds(), Processes: s.Processes}, ""
}

// facts is a list of names and values, laid out in two columns.
type facts struct{ table }

// add leaves out what is not known.
func (f *facts) add(name, value string) {
	if value != "" {
		f.table.add(name, value)
	}
}

func (a *app) printInspection(r *manager.Run, joined []manager.Joined, usage *usageView, note string) error {
	now := time.Now()
	f := facts{table{header: []string{"RUN", r.ID}}}
	f.add("name", r.Name)
	f.add("state", stateText(r))
	f.add("state note", r.StateNote)
	if r.ExitCode != nil {
		f.add("exit code", fmt.Sprint(*r.ExitCode))
	}
	f.add("signal", r.Signal)
	f.add("end reason", string(r.EndReason))
	f.add("error", r.Error)
	addReport(&f, r)
	for _, j := range joined {
		f.add("joined", joinedText(j))
	}
	f.add("command", quoteCommand(r.Command))
	f.add("workspace", r.Workspace)
	if r.WorkspaceMode == manager.WorkspaceVolume {
		f.add("works in", "a copy, see `drawbridge workspace copy`")
		f.add("not copied", strings.Join(r.Exclude, ", "))
	} else {
		f.add("seen empty", strings.Join(r.Exclude, ", "))
	}
	for _, v := range r.Volumes {
		f.add("volume", v.Name+" at "+v.Target)
	}
	f.add("branch", r.WorktreeBranch)
	f.add("image", r.Image)
	f.add("isolation", isolationText(r))
	f.add("isolation note", r.IsolationNote)
	f.add("container", r.ContainerID)
	f.add("network", networkText(r))
	for _, rule := range r.NetworkRules {
		f.add("network rule", rule)
	}
	f.add("grants", strings.Join(r.Grants, ", "))
	var secrets []string
	for _, name := range slices.Sorted(maps.Keys(r.Secrets)) {
		secrets = append(secrets, name+" from "+r.Secrets[name]+" (everything in the run can read it)")
	}
	f.add("secrets", strings.Join(secrets, ", "))
	for _, denied := range r.Denied {
		f.add("operations", oneLine(denied))
	}
	f.add("requested", requestedText(r))
	f.add("ports", portsText(r))
	f.add("ports note", r.PortsNote)
	for _, s := range r.Services {
		f.add("service", serviceText(s))
	}
	f.add("URLs note", r.URLsNote)
	f.add("input", inputText(r))
	f.add("limits", fmt.Sprintf("%s memory, %g CPUs, %d processes", bytesText(r.MemoryBytes), r.CPUs, r.PidsLimit))
	if usage != nil {
		f.add("uses", fmt.Sprintf("%s memory, %.3g s CPU time, %d processes", bytesText(usage.MemoryBytes), usage.CPUSeconds, usage.Processes))
	}
	f.add("uses", note)
	if r.KeepContainer {
		f.add("sandbox", "kept after the end, until `drawbridge destroy`")
	}
	f.add("created", timeText(r.CreatedAt, now))
	f.add("started", timeText(r.StartedAt, now))
	f.add("deadline", timeText(r.Deadline, now))
	f.add("stopped", timeText(r.StoppedAt, now))
	if r.Store != nil {
		f.add("directory", r.Store.Dir())
	}
	return f.write(a.out)
}

// addReport adds what the run's agent says of itself.
func addReport(f *facts, r *manager.Run) {
	if r.Report == nil {
		return
	}
	doing := string(r.Report.Activity.State)
	if r.Report.Activity.Tool != "" {
		doing += " " + r.Report.Activity.Tool + " " + r.Report.Activity.On
	}
	f.add("agent", r.Agent+": "+oneLine(doing))
	f.add("answer", oneLine(r.Report.Answer))
	used := fmt.Sprintf("%d turns, %d uses of tools, %d tokens in and %d out", r.Report.Turns, r.Report.ToolCalls, r.Report.Tokens.Input, r.Report.Tokens.Output)
	if r.Report.CostUSD != nil {
		used += fmt.Sprintf(", %.4f USD", *r.Report.CostUSD)
	}
	f.add("agent used", used)
}

func networkText(r *manager.Run) string {
	text := string(r.Network)
	switch r.Network {
	case manager.NetworkNone:
		text = "none: nothing but loopback"
	case manager.NetworkStrict:
		text = "strict: what its rules name, through the gate"
	case manager.NetworkPermissive:
		text = "permissive: the Internet by HTTP, through the gate, except what its rules deny"
	}
	if r.Learn {
		text += "; what is refused is let through and recorded"
	}
	return text
}

// requestedText says what an ended run requested.
func requestedText(r *manager.Run) string {
	if r.Requested == nil {
		return ""
	}
	text := fmt.Sprintf("%d requests, %d refused", r.Requested.Requests, r.Requested.Refused)
	hosts := make([]string, len(r.Requested.Last))
	for i, refusal := range r.Requested.Last {
		hosts[i] = refusal.Host
	}
	if len(hosts) == 0 {
		return text
	}
	return text + ": " + strings.Join(hosts, " ")
}

func portsText(r *manager.Run) string {
	var ports []string
	for _, name := range slices.Sorted(maps.Keys(r.Ports)) {
		text := fmt.Sprintf("%s %d", name, r.Ports[name])
		if host, ok := r.HostPorts[name]; ok {
			text += fmt.Sprintf(" at 127.0.0.1:%d", host)
		}
		if url := r.URLs[name]; url != "" {
			text += " and " + url
		}
		ports = append(ports, text)
	}
	return strings.Join(ports, ", ")
}

func serviceText(s manager.Service) string {
	text := fmt.Sprintf("%s at %s, %s: %s", s.Name, s.Address, s.Image, s.State)
	if s.Note != "" {
		text += " (" + s.Note + ")"
	}
	return text
}

func inputText(r *manager.Run) string {
	switch {
	case r.TTY:
		return "terminal"
	case r.Interactive:
		return "open"
	}
	return "none"
}

// timeText writes a time with how far away it is.
func timeText(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	distance := span(now.Sub(t)) + " ago"
	if t.After(now) {
		distance = "in " + span(t.Sub(now))
	}
	return fmt.Sprintf("%s (%s)", t.Local().Format("2006-01-02 15:04:05 -07:00"), distance)
}
