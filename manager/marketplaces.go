package manager

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

const (
	// marketplacesPath is where a run has marketplaces that are not in its workspace.
	marketplacesPath = "/marketplaces"
	// marketplaceFile says what a marketplace has, below its directory.
	marketplaceFile = ".claude-plugin/marketplace.json"
	// maxMarketplaceFile bounds it in bytes.
	maxMarketplaceFile = 1 << 20
)

// withMarketplaces makes the marketplaces of plugins, which are directories of this
// machine, ones of the sandbox. What is in the workspace is there already, the others
// are mounted.
func (m *Manager) withMarketplaces(opts Options) (Options, error) {
	section := opts.sections[opts.Agent]
	workspace := opts.Workspace
	if opts.worktree != nil {
		workspace = opts.worktree.Path
	} else if len(section.marketplaces) > 0 && workspace != "" {
		var err error
		if workspace, err = m.checkWorkspace(workspace); err != nil {
			return opts, err
		}
	}
	offers := map[string][]string{} // names of plugins
	opts.marketplaces = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(section.marketplaces)) {
		source := section.marketplaces[name].Path
		isInside := filepath.IsLocal(source) && !strings.HasPrefix(source, "~")
		root, below := workspace, source
		var err error
		if !isInside {
			below = "."
			root, err = sourcePath(source, workspace)
		}
		if err == nil {
			offers[name], err = pluginsOf(root, below, name)
		}
		if err != nil {
			return opts, failf(CodeInvalidArgument, "correct claude.marketplaces in moat.yaml", "use the marketplace %s in %s: %v", name, source, err)
		}
		if isInside {
			opts.marketplaces[name] = path.Join(runtime.WorkspacePath, filepath.ToSlash(source))
			continue
		}
		opts.marketplaces[name] = path.Join(marketplacesPath, name)
		opts.Mounts = append(slices.Clip(opts.Mounts), runtime.MountConfig{Source: source, Target: opts.marketplaces[name], ReadOnly: true})
	}
	for _, plugin := range slices.Sorted(maps.Keys(section.plugins)) {
		name, marketplace, _ := strings.Cut(plugin, "@")
		offered, is := offers[marketplace]
		switch {
		case !section.plugins[plugin]: // off, wherever it is
		case !is:
			return opts, failf(CodeInvalidArgument, "add it to claude.marketplaces of moat.yaml, with the source directory", "use the plugin %s: there is no marketplace %s", plugin, marketplace)
		case !slices.Contains(offered, name):
			return opts, failf(CodeInvalidArgument, "correct claude.plugins in moat.yaml", "use the plugin %s: the marketplace has %s", plugin, strings.Join(offered, ", "))
		}
	}
	return opts, nil
}

// pluginsOf returns the plugins of a marketplace, which has to call itself by its name.
// Links do not lead out of the root: nothing else is in the sandbox.
func pluginsOf(root, below, name string) ([]string, error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// Without O_NONBLOCK a named pipe would keep this waiting.
	f, err := dir.OpenFile(filepath.Join(below, filepath.FromSlash(marketplaceFile)), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxMarketplaceFile {
		return nil, fmt.Errorf("%s is no file of at most %d bytes", marketplaceFile, maxMarketplaceFile)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxMarketplaceFile))
	if err != nil {
		return nil, err
	}
	var about struct {
		Name    string `json:"name"`
		Plugins []struct {
			Name string `json:"name"`
		} `json:"plugins"`
	}
	if json.Unmarshal(data, &about) != nil { // the error could quote a file of this machine
		return nil, errors.New(marketplaceFile + " does not describe a marketplace")
	}
	if about.Name != name {
		return nil, fmt.Errorf("it calls itself %.80q", about.Name)
	}
	var names []string
	for _, p := range about.Plugins {
		names = append(names, p.Name)
	}
	return names, nil
}

// checkMarketplaces refuses those that would be fetched.
func checkMarketplaces(all map[string]config.Marketplace) error {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if source := all[name].Source; source != "directory" {
			return fmt.Errorf("the marketplace %s would be fetched, which this build does not do: clone it, and name its directory (source: directory, path: DIRECTORY)", name)
		}
	}
	return nil
}
