package agent

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/internal/lazyregexp"
)

// Setup is what the files of an agent are made from.
type Setup struct {
	// Workspace is the absolute path of the workspace in the sandbox.
	Workspace string
	// Env are the sandbox's variables. Of those that grants put there the values are
	// read: agents ask whether to use a key that they see for the first time. Of the
	// others only the names are, for servers that an agent would start without them.
	Env []string
	// Provider is whose models pi uses where it is not told a model; empty is its own
	// choice. The other agents have but one.
	Provider string
	// Servers are the MCP servers that the agent is connected to.
	Servers []Server
	// Languages are those whose language servers Claude Code uses; see LanguageServers.
	// The other agents have no use for them.
	Languages []string
	// Plugins are those of Claude Code that are on or off, as NAME@MARKETPLACE, and
	// Marketplaces the directories of the sandbox that they come from, by their names.
	Plugins      map[string]bool
	Marketplaces map[string]string
	// Context is what the agent is told about the sandbox.
	Context Context
}

// Server is an MCP server: a command in the sandbox, or a URL.
type Server struct {
	Name    string
	Command []string
	Dir     string            // that the command starts in; empty is the workspace
	Env     map[string]string // of the command
	URL     string            // of streamable HTTP
	Headers map[string]string // of requests to the URL
}

// File is a file for the home of the sandbox's user.
type File struct {
	Path    string // relative to the home, with slashes
	Content []byte
	Mode    fs.FileMode
}

const (
	maxServers = 64
	// configMode keeps other users of the sandbox from the files: some agents
	// refuse settings that others may write.
	configMode fs.FileMode = 0o600
)

var (
	// serverPattern is what all agents take as the name of a server.
	serverPattern = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)
	// variablePattern is what all agents take as the name of a variable.
	variablePattern = lazyregexp.New(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	keyPattern      = lazyregexp.New(`^[A-Za-z_][A-Za-z0-9_-]{0,127}$`)
)

// Stage returns the files that the agent expects in its user's home, sorted by their
// path. The error matches ErrSetup.
func (a Agent) Stage(s Setup) ([]File, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	s.Servers = slices.SortedFunc(slices.Values(s.Servers), func(x, y Server) int { return cmp.Compare(x.Name, y.Name) })
	files, err := a.stage(s)
	if err != nil {
		return nil, fmt.Errorf("make the files of %s: %w", a.Name, err)
	}
	files = append(files, File{Path: a.ContextFile, Content: []byte(s.Context.Document()), Mode: configMode})
	slices.SortFunc(files, func(x, y File) int { return cmp.Compare(x.Path, y.Path) })
	return files, nil
}

func (s Setup) check() error {
	if !path.IsAbs(s.Workspace) || path.Clean(s.Workspace) != s.Workspace || strings.ContainsFunc(s.Workspace, isControl) {
		return fmt.Errorf("%w: the workspace %.200q is not a clean absolute path", ErrSetup, s.Workspace)
	}
	if len(s.Servers) > maxServers {
		return fmt.Errorf("%w: there are %d MCP servers, %d are allowed", ErrSetup, len(s.Servers), maxServers)
	}
	seen := map[string]bool{}
	for _, server := range s.Servers {
		if err := server.check(); err != nil {
			return err
		}
		if seen[server.Name] {
			return fmt.Errorf("%w: two MCP servers are named %s", ErrSetup, server.Name)
		}
		seen[server.Name] = true
	}
	return nil
}

func (s Server) check() error {
	if !serverPattern.MatchString(s.Name) {
		return fmt.Errorf("%w: %.80q is not a name for an MCP server; use letters, digits, dashes and underscores", ErrSetup, s.Name)
	}
	switch {
	case (len(s.Command) > 0) == (s.URL != ""):
		return fmt.Errorf("%w: the MCP server %s needs either a command or a URL", ErrSetup, s.Name)
	case s.URL != "" && (len(s.Env) > 0 || s.Dir != ""):
		return fmt.Errorf("%w: the MCP server %s has variables or a directory, which are for a command", ErrSetup, s.Name)
	case slices.ContainsFunc(append([]string{s.Dir}, s.Command...), func(word string) bool { return strings.ContainsRune(word, 0) }):
		return fmt.Errorf("%w: the command of the MCP server %s holds a zero byte", ErrSetup, s.Name)
	case s.URL == "" && len(s.Headers) > 0:
		return fmt.Errorf("%w: the MCP server %s has headers, which are for a URL", ErrSetup, s.Name)
	}
	if s.URL != "" {
		if u, err := url.Parse(s.URL); err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil {
			return fmt.Errorf("%w: the URL of the MCP server %s is not one of HTTP without a user", ErrSetup, s.Name)
		}
	}
	for _, pairs := range []map[string]string{s.Env, s.Headers} {
		for key, value := range pairs {
			if !keyPattern.MatchString(key) || strings.ContainsFunc(value, isControl) {
				return fmt.Errorf("%w: %.80q of the MCP server %s is not usable", ErrSetup, key, s.Name)
			}
		}
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// variable returns the value of a variable, the last of those with its name.
func (s Setup) variable(name string) string {
	for _, v := range slices.Backward(s.Env) {
		if key, value, _ := strings.Cut(v, "="); key == name {
			return value
		}
	}
	return ""
}

// variables returns the names of the sandbox's variables that a server is to have too,
// because it has no value of its own for them: the gate's, and those of grants.
func (s Setup) variables(server Server) []string {
	var names []string
	for _, v := range s.Env {
		name, _, _ := strings.Cut(v, "=")
		if _, isOwn := server.Env[name]; !isOwn && variablePattern.MatchString(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// object is a JSON object; encoding/json sorts its keys.
type object map[string]any

// jsonFile returns a file of indented JSON.
func jsonFile(name string, value any) (File, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(value); err != nil {
		return File{}, fmt.Errorf("write %s: %w", name, err)
	}
	return File{Path: name, Content: b.Bytes(), Mode: configMode}, nil
}

// jsonLine returns a value as one line of JSON. It holds nothing but texts, which
// always marshal.
func jsonLine(value object) []byte {
	line, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("marshal %v: %v", value, err))
	}
	return append(line, '\n')
}

// commandLine returns what the agent starts. Not all agents can name a directory, so
// a shell goes there.
func (s Setup) commandLine(server Server) []string {
	if server.Dir == "" {
		return server.Command
	}
	dir := server.Dir
	if !path.IsAbs(dir) {
		dir = path.Join(s.Workspace, dir)
	}
	return append([]string{"/bin/sh", "-c", `cd -- "$0" && exec "$@"`, dir}, server.Command...)
}

// servers returns the MCP servers as the agents with JSON have them. URLKey is the
// field of the URL of streamable HTTP, extra is what such servers have besides.
func (s Setup) servers(urlKey string, extra object) object {
	all := object{}
	for _, server := range s.Servers {
		one := object{}
		if server.URL != "" {
			one[urlKey] = server.URL
			if len(server.Headers) > 0 {
				one["headers"] = server.Headers
			}
			maps.Copy(one, extra)
		} else {
			command := s.commandLine(server)
			one["command"], one["args"] = command[0], append([]string{}, command[1:]...)
			if len(server.Env) > 0 {
				one["env"] = server.Env
			}
		}
		all[server.Name] = one
	}
	return all
}
