package manager

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// systemDirs are never a workspace, nor is anything that contains one of them:
// a sandbox that can write there is not a sandbox.
var systemDirs = []string{
	"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys", "/usr",
	"/var/run", "/var/lib/docker", "/var/lib/containerd",
	"/System", "/Library", "/private/etc",
}

// resolveDir returns the absolute path of an existing directory with all
// symbolic links resolved.
func resolveDir(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	resolved, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(resolved)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", &os.PathError{Op: "open", Path: path, Err: errNotDirectory}
	}
	return resolved, nil
}

// checkWorkspace resolves a workspace that a caller asks for and refuses it
// unless it lies under an allowed root and holds nothing that no sandbox may
// write. The decision is about the resolved path, which is also the path that
// gets mounted.
func (m *Manager) checkWorkspace(path string) (string, error) {
	resolved, err := resolveDir(path)
	if err != nil {
		return "", failf(CodeInvalidArgument, "name an existing directory", "use the workspace %s: %v", path, err)
	}
	if reason := m.neverWorkspace(resolved); reason != "" {
		return "", failf(CodePolicyDenied, "name a project directory", "use the workspace %s: %s is never a workspace", path, reason)
	}
	if len(m.opts.WorkspaceRoots) == 0 || slices.ContainsFunc(m.opts.WorkspaceRoots, func(root string) bool { return within(root, resolved) }) {
		return resolved, nil
	}
	return "", failf(CodePolicyDenied,
		"name a directory below an allowed root, or ask the person who runs the server to add `--workspace-root "+resolved+"` to `drawbridge serve`",
		"use the workspace %s: it lies outside the allowed roots (%s)", path, strings.Join(m.opts.WorkspaceRoots, ", "))
}

const (
	// maxMounts bounds the further mounts of one run.
	maxMounts = 64
	// maxExcludes bounds what is hidden from one run, in memory each.
	maxExcludes = 64
)

// checkMounts resolves what is to be mounted beside the workspace, and refuses what
// no sandbox may have. Agents need permission also for a part of the workspace: who
// can write there could put a link in its place, just before it is mounted. What is
// mounted at the workspace's own place says what of it the run sees empty, which
// needs none.
func (m *Manager) checkMounts(wanted []runtime.MountConfig, workspace string) (mounts []runtime.MountConfig, exclude []string, err error) {
	fail := func(err error) ([]runtime.MountConfig, []string, error) { return nil, nil, err }
	if len(wanted) > maxMounts {
		return fail(failf(CodeInvalidArgument, "", "there are %d mounts, the limit is %d", len(wanted), maxMounts))
	}
	if wanted, exclude, err = splitWorkspace(wanted, workspace); err != nil {
		return fail(err)
	}
	excludes := len(exclude)
	if len(wanted) > 0 && m.opts.ForAgents && !slices.Contains(m.opts.Allow, config.AllowMounts) {
		return fail(failf(CodePolicyDenied, "leave them out, or ask the person who runs the server to start it with `drawbridge serve --allow mounts`", "agents are not allowed to mount %s", wanted[0].Source))
	}
	for _, mount := range wanted {
		if excludes += len(mount.Exclude); excludes > maxExcludes {
			break
		}
		source, err := sourcePath(mount.Source, workspace)
		if err == nil {
			source, err = filepath.EvalSymlinks(source)
		}
		if err != nil {
			return fail(failf(CodeInvalidArgument, "name a file or directory that exists", "mount %s: %v", mount.Source, err))
		}
		if reason := m.neverWorkspace(source); reason != "" {
			return fail(failf(CodePolicyDenied, "name another directory", "mount %s: %s is never mounted", mount.Source, reason))
		}
		if target := path.Clean(mount.Target); !path.IsAbs(target) || within(runtime.WorkspacePath, target) {
			// What is below the workspace would be made there, on the host.
			return fail(failf(CodeInvalidArgument, "choose an absolute path outside "+runtime.WorkspacePath, "mount %s at %s: no mount can be there", mount.Source, mount.Target))
		}
		mounts = append(mounts, runtime.MountConfig{Source: source, Target: path.Clean(mount.Target), ReadOnly: mount.ReadOnly, Exclude: mount.Exclude})
	}
	if excludes > maxExcludes {
		return fail(failf(CodeInvalidArgument, "exclude what is above them", "%d paths are excluded, the limit is %d", excludes, maxExcludes))
	}
	return mounts, exclude, nil
}

// splitWorkspace takes what is mounted at the workspace's own place out of a list of
// mounts, and returns what that excludes.
func splitWorkspace(wanted []runtime.MountConfig, workspace string) (others []runtime.MountConfig, exclude []string, err error) {
	for _, mount := range wanted {
		if path.Clean(mount.Target) != runtime.WorkspacePath {
			others = append(others, mount)
			continue
		}
		source, err := sourcePath(mount.Source, workspace)
		if err == nil && source != workspace {
			source, err = filepath.EvalSymlinks(source)
		}
		if err != nil || source != workspace {
			return nil, nil, failf(CodeInvalidArgument, "name that directory as the workspace instead", "mount %s at %s: only the workspace itself is there", mount.Source, runtime.WorkspacePath)
		}
		if mount.ReadOnly {
			return nil, nil, failf(CodeUnsupported, "leave the mode out", "mount the workspace read-only: a run can always write there")
		}
		exclude = append(exclude, mount.Exclude...)
	}
	return others, exclude, nil
}

// sourcePath returns the absolute path that a mount's source means.
func sourcePath(source, workspace string) (string, error) {
	if rest, ok := strings.CutPrefix(source+"/", "~/"); ok {
		home, err := os.UserHomeDir()
		return filepath.Join(home, rest), err
	}
	if filepath.IsAbs(source) {
		return filepath.Clean(source), nil
	}
	return filepath.Join(workspace, source), nil
}

// checkImage refuses an image that is a path of this machine and lies where no
// caller may read, for runtimes whose images are paths. It returns the path that is
// to be used.
func (m *Manager) checkImage(driver runtime.Runtime, image string) (string, error) {
	if _, named := driver.(runtime.ImageManager); named || image == m.opts.DefaultImage {
		return image, nil
	}
	if len(m.opts.ImageRoots) == 0 && len(m.opts.WorkspaceRoots) == 0 {
		return image, nil
	}
	refuse := func(why string) (string, error) {
		return "", failf(CodePolicyDenied,
			"leave the image out, or ask the person who runs the server to add `--image-root DIR` to `drawbridge serve`",
			"use the image %s: %s", image, why)
	}
	if !filepath.IsAbs(image) {
		return refuse("an image of the runtime " + string(driver.Type()) + " is the absolute path of a file or directory")
	}
	resolved, err := filepath.EvalSymlinks(image)
	if err != nil || !slices.ContainsFunc(m.opts.ImageRoots, func(root string) bool { return within(root, resolved) }) {
		// The same answer whether or not there is anything.
		return refuse("it lies below no image root of this server")
	}
	return resolved, nil
}

// neverWorkspace says what is wrong with a resolved directory, or nothing.
func (m *Manager) neverWorkspace(dir string) string {
	if dir == "/" {
		return "the root directory"
	}
	if user, err := os.UserHomeDir(); err == nil {
		if resolved, err := filepath.EvalSymlinks(user); err == nil && within(dir, resolved) {
			return "the home directory, or a directory that contains it,"
		}
	}
	home := m.opts.Home
	if resolved, err := filepath.EvalSymlinks(home); err == nil {
		home = resolved
	}
	if within(dir, home) || within(home, dir) {
		return "Drawbridge's own home"
	}
	for _, system := range systemDirs {
		if resolved, err := filepath.EvalSymlinks(system); err == nil {
			system = resolved
		}
		if within(system, dir) || within(dir, system) {
			return "a system directory"
		}
	}
	return ""
}

// within reports whether path is dir or lies below it. Both are clean and
// absolute.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}
