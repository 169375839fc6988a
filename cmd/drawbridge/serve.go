package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/mark3labs/mcp-go/server"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/manager/access/daemon"
	"github.com/drawbridge-mcp/drawbridge/manager/access/secret"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/deps"
	"github.com/drawbridge-mcp/drawbridge/mcpserver"
	"github.com/drawbridge-mcp/drawbridge/tools"
)

// serveFlags are the flags of serve.
type serveFlags struct {
	listen      string
	tokenFile   string
	origins     []string
	hosts       []string
	roots       []string
	maxRuns     int
	maxMemory   string
	logLimit    string
	maxCPUs     float64
	image       string
	sandbox     string
	readOnly    bool
	toolsets    []string
	nativePaths []string
	imageRoots  []string
	grants      []string
	limit       []string
	allow       []string
	secrets     []string
	docker      []string
	profile     string
	waiting     int // sandboxes that are kept booted
}

// serveName is the command that is started for each session of an agent.
const serveName = "serve"

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   serveName,
		Short: "Serve MCP to an agent, on stdio or over HTTP",
		Long: `Serve MCP to an agent, on standard input and output.

With --listen it serves over HTTP instead: streamable HTTP at /mcp, the older SSE
transport at /sse with /message, and /healthz. Loopback addresses need no token
unless --token-file names one; every other address does.

Runs outlive the server. It ends at the end of its input, or on SIGTERM; the next
server, or any other drawbridge command, goes on with its runs. Several servers
may share one home.

A run's workspace must lie below a --workspace-root. Without one that is the
directory in which the server was started.`,
		Example: `  claude mcp add drawbridge -- drawbridge serve --workspace-root ~/src
  drawbridge serve --listen 127.0.0.1:7433
  drawbridge serve --listen 0.0.0.0:7433 --token-file ~/.drawbridge-token`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.serve(cmd.Context(), f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", "", "serve over HTTP on this address, e.g. 127.0.0.1:7433")
	flags.StringVar(&f.tokenFile, "token-file", "", "file with the bearer token that HTTP clients must send (mode 0600)")
	flags.StringArrayVar(&f.origins, "allowed-origin", nil, "web origin whose pages may call, e.g. https://ide.example.com; may be repeated")
	flags.StringArrayVar(&f.hosts, "allowed-host", nil, "Host header to accept besides loopback names; may be repeated")
	flags.StringArrayVar(&f.roots, "workspace-root", nil, "directory below which workspaces may lie; may be repeated (default the current directory)")
	flags.IntVar(&f.maxRuns, "max-runs", manager.DefaultMaxLiveRuns, "live runs at most")
	flags.StringVar(&f.logLimit, "log-limit", "", "what is kept of the output of a run, the oldest part is dropped first (default 64m)")
	flags.StringVar(&f.maxMemory, "max-memory", "", "memory limits of all live runs together, e.g. 32g (default no bound)")
	flags.Float64Var(&f.maxCPUs, "max-cpus", 0, "CPU limits of all live runs together (default no bound)")
	flags.StringVar(&f.image, "image", "", imageHelp("image of runs that name none"))
	flags.BoolVar(&f.readOnly, "read-only", false, "offer only tools that change nothing")
	flags.StringSliceVar(&f.toolsets, "toolsets", nil, "offer only these toolsets: runs, exec, files (default all)")
	flags.StringArrayVar(&f.imageRoots, "image-root", nil, "directory below which images of native runs may be named by their paths; may be repeated (default none)")
	_ = cmd.MarkFlagDirname("image-root")
	flags.StringSliceVar(&f.grants, "grants", nil, "grants that runs may use, beside those that \"drawbridge grant allow\" named")
	flags.StringArrayVar(&f.limit, "network-limit", nil, "network rule beyond which no run reaches anything but the hosts of its grants, whatever its own rules say (repeatable; default no limit)")
	flags.StringSliceVar(&f.allow, "allow", nil, "what moat.yaml of a workspace may ask for: "+permissionNames())
	flags.StringArrayVar(&f.secrets, "allow-secret", nil, "secret that moat.yaml of a workspace may put into the environment of runs, which can read it there: op://VAULT/ITEM/FIELD, ssm:///PATH or env://VARIABLE, or all below one, as op://VAULT/*; may be repeated (default none)")
	flags.StringSliceVar(&f.docker, "allow-docker", nil, "Docker engine that runs of agents and moat.yaml of a workspace may ask for: host, that of this machine, which makes the run as good as root on it; dind, one of the run's own (default none)")
	flags.StringVar(&f.profile, "profile", "", "set of grants to use (default $DRAWBRIDGE_PROFILE, or else the one without a name)")
	nativePathFlag(cmd, &f.nativePaths)
	flags.IntVar(&f.waiting, "waiting-sandboxes", 1, fmt.Sprintf("gVisor sandboxes that the native runtime keeps booted after a run, for the next ones like it, at most %d; 0 keeps none", maxWaiting))
	sandboxFlag(cmd, &f.sandbox)
	_ = cmd.MarkFlagDirname("workspace-root")
	return cmd
}

// maxWaiting bounds --waiting-sandboxes: each takes memory while nobody uses it.
const maxWaiting = 16

func (a *app) serve(ctx context.Context, f serveFlags) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// A client that is gone shows as a failed write, which ends the session in
	// good order; the signal would end the process at once.
	signal.Ignore(syscall.SIGPIPE)

	// First of all, before anything could print.
	protocol := os.Stdout
	if f.listen == "" {
		var err error
		if protocol, err = takeStdout(); err != nil {
			return err
		}
		defer protocol.Close()
	}
	opts, err := a.serveOptions(f)
	if err != nil {
		return err
	}
	runs := openInBackground(opts)
	defer func() {
		if err := runs.close(); err != nil {
			opts.Logger.Warn("closing the manager failed", zap.Error(err))
		}
	}()
	server, err := newServer(runs, opts.Logger, f)
	if err != nil {
		return err
	}
	if f.listen != "" {
		return a.serveHTTP(ctx, server, f)
	}
	if err := onlyStdio(f); err != nil {
		return err
	}
	if terminal.Is(a.in) {
		a.say("drawbridge: an MCP client is expected on standard input; `drawbridge demo` shows one at work, `drawbridge --help` the commands for people")
	}
	in, closeInput := pollable(a.in)
	defer closeInput()
	return server.ServeStdio(ctx, in, protocol)
}

// pollable returns the same pipe as a file on which a read parks a goroutine rather
// than a thread: that saves two changes of thread for each message, and the read
// can be interrupted. The pipe is opened anew, because the mode of a file that we
// were given is shared with whoever gave it. Where that is not possible (no Linux,
// no pipe, a pipe of another user) it returns the file itself.
func pollable(file *os.File) (in *os.File, closeInput func()) {
	same := func() {}
	info, err := file.Stat()
	if err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return file, same
	}
	in, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return file, same
	}
	return in, func() { _ = in.Close() }
}

// onlyStdio refuses flags that mean something over HTTP only.
func onlyStdio(f serveFlags) error {
	for flag, set := range map[string]bool{
		"--token-file": f.tokenFile != "", "--allowed-origin": len(f.origins) > 0, "--allowed-host": len(f.hosts) > 0,
	} {
		if set {
			return usagef("add --listen, e.g. --listen 127.0.0.1:7433", "%s has no meaning on stdio", flag)
		}
	}
	return nil
}

// newServer puts the tools on an MCP server.
func newServer(runs *opening, log *zap.Logger, f serveFlags) (*mcpserver.Server, error) {
	needs := tools.Deps{Manager: runs.get}
	offered := tools.Inventory(needs)
	if len(f.toolsets) > 0 {
		var err error
		if offered, err = tools.Toolsets(offered, f.toolsets); err != nil {
			return nil, usagef("see `drawbridge serve --help`", "%v", err)
		}
	}
	if f.readOnly {
		offered = tools.ReadOnly(offered)
	}
	if len(offered) == 0 {
		return nil, usagef("leave out --read-only or name more toolsets", "no tool is left to offer")
	}
	return mcpserver.New(mcpserver.Config{
		Name:              "drawbridge",
		Version:           buildVersion().Version,
		Instructions:      tools.Instructions(),
		Tools:             func() []server.ServerTool { return tools.ServerTools(offered) },
		ResourceTemplates: tools.ResourceTemplates(needs),
		Logger:            log,
	}), nil
}

func (a *app) serveHTTP(ctx context.Context, server *mcpserver.Server, f serveFlags) error {
	options := mcpserver.HTTPOptions{AllowedOrigins: f.origins, AllowedHosts: f.hosts}
	if f.tokenFile != "" {
		var err error
		if options.Token, err = mcpserver.LoadToken(f.tokenFile); err != nil {
			return err
		}
	}
	listener, err := mcpserver.Listen(ctx, f.listen, options.Token)
	if err != nil {
		return err
	}
	a.say("drawbridge: serving MCP on http://%s/mcp, and for older clients on http://%[1]s/sse", hostPort(listener.Addr()))
	return server.Serve(ctx, listener, options)
}

// hostPort writes an address as a client on this machine would use it.
func hostPort(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if ok && tcp.IP.IsUnspecified() {
		return fmt.Sprintf("127.0.0.1:%d", tcp.Port)
	}
	return addr.String()
}

// serveOptions turns the flags into what the manager takes. What is wrong with
// them shows here, before a client is answered.
func (a *app) serveOptions(f serveFlags) (manager.ManagerOptions, error) {
	opts, err := a.managerOptions()
	if err != nil {
		return opts, err
	}
	if f.maxRuns < 1 {
		return opts, usagef("give 1 or more", "--max-runs %d leaves no run", f.maxRuns)
	}
	if f.maxCPUs < 0 {
		return opts, usagef("give a number of cores", "--max-cpus %v is negative", f.maxCPUs)
	}
	if f.waiting < 0 || f.waiting > maxWaiting {
		return opts, usagef(fmt.Sprintf("give 0 to %d", maxWaiting), "--waiting-sandboxes %d cannot be", f.waiting)
	}
	opts.WaitingSandboxes = f.waiting
	if opts.MaxMemoryBytes, err = parseBytes("--max-memory", f.maxMemory); err != nil {
		return opts, err
	}
	if opts.LogLimitBytes, err = parseBytes("--log-limit", f.logLimit); err != nil {
		return opts, err
	}
	if opts.NoSandbox, err = parseSandbox(f.sandbox); err != nil {
		return opts, err
	}
	if opts.WorkspaceRoots, err = a.workspaceRoots(f.roots); err != nil {
		return opts, err
	}
	opts.MaxLiveRuns, opts.MaxCPUs = f.maxRuns, f.maxCPUs
	opts.DefaultImage = f.image
	opts.ForAgents, opts.Grants = true, f.grants
	if _, err := daemon.ParseRules("", f.limit); err != nil {
		return opts, usagef("write a rule as HOST, HOST:PORT, or \"HOST allow|deny METHOD /path\"", "--network-limit: %v", err)
	}
	opts.NetworkLimit = f.limit
	for _, pattern := range f.secrets {
		if _, err := secret.ParsePattern(pattern); err != nil {
			return opts, usagef(err.Error(), "--allow-secret names no secret") // which it might be itself
		}
	}
	opts.AllowSecrets = f.secrets
	if opts.Allow, err = permissions(f); err != nil {
		return opts, err
	}
	if f.profile != "" {
		opts.Profile = f.profile
	}
	opts.NativePaths, opts.ImageRoots = f.nativePaths, f.imageRoots
	return opts, nil
}

// permissions returns what --allow and --allow-docker permit.
func permissions(f serveFlags) ([]config.Permission, error) {
	var all []config.Permission
	for _, name := range f.allow {
		switch p := config.Permission(name); {
		case p == config.AllowSecrets:
			return nil, usagef("name each of them: --allow-secret REFERENCE", "--allow does not take %s", name)
		case name == deps.NameDocker || strings.HasPrefix(name, deps.NameDocker+":"):
			return nil, usagef("say which engine: --allow-docker host or --allow-docker dind", "--allow does not take %s", name)
		case !slices.Contains(config.Permissions, p) || hasOwnFlag(p):
			return nil, usagef("use "+permissionNames(), "unknown --allow %q", name)
		default:
			all = append(all, p)
		}
	}
	for _, mode := range f.docker {
		p := config.Permission(deps.NameDocker + ":" + mode)
		if p != config.AllowDockerHost && p != config.AllowDockerDind {
			return nil, usagef("use host or dind", "unknown --allow-docker %q", mode)
		}
		all = append(all, p)
	}
	return all, nil
}

// hasOwnFlag tells what --allow does not take.
func hasOwnFlag(p config.Permission) bool {
	return p == config.AllowGrants || p == config.AllowSecrets || p == config.AllowDockerHost || p == config.AllowDockerDind
}

// permissionNames lists what --allow takes.
func permissionNames() string {
	var names []string
	for _, p := range config.Permissions {
		if !hasOwnFlag(p) {
			names = append(names, string(p))
		}
	}
	return strings.Join(names, ", ")
}

// workspaceRoots returns the roots, by default the current directory. Desktop
// applications start servers in the root directory, which nobody has chosen: then
// no directory of the host may be a workspace.
func (a *app) workspaceRoots(named []string) ([]string, error) {
	for _, root := range named {
		info, err := os.Stat(root)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is not a directory", root)
		}
		if err != nil {
			return nil, usagef("name an existing directory", "use --workspace-root %s: %v", root, err)
		}
	}
	if len(named) > 0 {
		return named, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("find the current directory: %w; name a --workspace-root", err)
	}
	if filepath.Clean(dir) != string(filepath.Separator) {
		return []string{dir}, nil
	}
	home, err := a.homeDir()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, fmt.Errorf("make the home %s: %w", home, err)
	}
	a.say("drawbridge: started in /, so no directory of this machine may be a workspace; " +
		"name one with --workspace-root")
	// Drawbridge's own home is never a workspace, nor is anything below it.
	return []string{home}, nil
}
