package manager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/manager/spec/deps"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// nativePath is where a native run without an image finds programs.
var nativePath = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// withDependencies returns the options with an image that has what the run depends
// on, which is built if need be. A native run uses what this machine has.
func (m *Manager) withDependencies(ctx context.Context, opts Options) (Options, error) {
	wanted, hooks := opts.Dependencies, deps.Hooks{Root: opts.PostBuildRoot, User: opts.PostBuild}
	opts.Dependencies, opts.PostBuildRoot, opts.PostBuild = nil, "", ""
	if size := len(hooks.Root) + len(hooks.User); size > maxHookBytes {
		return opts, failf(CodeInvalidArgument, "put them into a program that they download", "the hooks of the build have %d bytes, the limit is %d", size, maxHookBytes)
	}
	list, err := deps.Parse(wanted)
	if err != nil {
		return opts, failf(CodeInvalidArgument, "docs/dependencies-of-runs.md lists what there is", "%v", err)
	}
	plan, err := deps.Resolve(list)
	addOwnServices(plan, opts.Services)
	nothing := err == nil && plan.Empty() && hooks == (deps.Hooks{}) // to build
	switch {
	case err != nil:
		return opts, failf(CodeInvalidArgument, "docs/dependencies-of-runs.md lists what there is", "%v", err)
	case unwanted(plan, opts.Services) != "":
		name := unwanted(plan, opts.Services)
		return opts, failf(CodeInvalidArgument, "add "+dependencyOf(name)+" to the dependencies", "there are settings of the service %s, which is not among the dependencies", name)
	case nothing && opts.Rebuild:
		return opts, failf(CodeInvalidArgument, "leave rebuild out", "there is nothing to build again: the run has no dependencies that go into an image, and no hooks of a build")
	case nothing && len(plan.Services) == 0:
		return opts, nil
	}
	kind := opts.Runtime
	if kind == "" {
		kind = m.drivers.preferred(ctx)
	}
	driver, err := m.drivers.get(kind)
	if err != nil {
		return opts, err
	}
	if opts, err = m.withDocker(ctx, driver, list, opts); err != nil {
		return opts, err
	}
	if opts, err = m.withServices(driver, plan, opts); err != nil || nothing {
		return opts, err
	}
	if builder, builds := driver.(runtime.ImageBuilder); builds {
		opts.Image, err = m.imageOf(ctx, driver, builder, recipeOf{plan, hooks}, &opts)
		return opts, err
	}
	if opts.Rebuild || hooks != (deps.Hooks{}) {
		return opts, failf(CodeUnsupported, "leave rebuild and the hooks of a build out, or use the docker runtime", "the runtime %s builds no images", kind)
	}
	if opts.Image != "" {
		return opts, failf(CodeUnsupported, "name an image that has them, and no dependencies", "the runtime %s adds nothing to an image", kind)
	}
	return opts, m.haveOnHost(ctx, plan)
}

// toolPath is where programs are in the directories that native runs see beside the
// system's.
func (m *Manager) toolPath() []string {
	var dirs []string
	for _, dir := range m.opts.NativePaths {
		if bin := filepath.Join(dir, "bin"); isDir(bin) {
			dir = bin
		}
		dirs = append(dirs, dir)
	}
	return dirs
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// withToolPath has a native run without an image find the programs of toolPath.
func (m *Manager) withToolPath(kind runtime.Type, image string, env []string) []string {
	if kind != runtime.TypeNative || image != "" || len(m.opts.NativePaths) == 0 {
		return env
	}
	path := strings.Join(slices.Concat(m.toolPath(), nativePath), ":")
	return slices.Concat([]string{"PATH=" + path}, env) // what the caller sets wins
}

// haveOnHost refuses dependencies that this machine lacks.
func (m *Manager) haveOnHost(ctx context.Context, plan *deps.Plan) error {
	items, err := plan.OnHost(ctx, slices.Concat(m.toolPath(), nativePath))
	if err != nil {
		return wrapf(err, "look for the dependencies on this machine")
	}
	var missing, mends []string
	for _, item := range items {
		if item.Problem != "" {
			missing = append(missing, fmt.Sprintf("%s (%s)", item.Dependency, item.Problem))
			mends = append(mends, item.Get)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return failf(CodeUnsupported, strings.Join(append(mends, "or use the docker runtime, which builds an image"), "; "),
		"a native run uses the programs of this machine, and it lacks %s", strings.Join(missing, ", "))
}

// maxHookBytes bounds the scripts of a build.
const maxHookBytes = 256 << 10

// recipeOf is what the image of a run is made from.
type recipeOf struct {
	plan  *deps.Plan
	hooks deps.Hooks
}

// imageOf returns an image with the items of a plan and the work of hooks, on top of the
// one that the run would have without.
func (m *Manager) imageOf(ctx context.Context, driver runtime.Runtime, builder runtime.ImageBuilder, from recipeOf, opts *Options) (string, error) {
	about, err := builder.Builder(ctx)
	if err != nil {
		return "", err
	}
	name := opts.Image
	if name == "" {
		name = m.imageFor(driver)
	}
	images, has := driver.(runtime.ImageManager)
	if !has {
		return "", failf(CodeUnsupported, "leave the dependencies out", "the runtime %s keeps no images", driver.Type())
	}
	base, err := images.Image(ctx, name)
	if errors.Is(err, runtime.ErrImageMissing) {
		if err = m.pullImage(ctx, images, *opts, name); err == nil {
			base, err = images.Image(ctx, name)
		}
	}
	if err != nil {
		return "", wrapf(err, "get the image %s", name)
	}
	recipe, err := from.plan.Recipe(deps.Target{Base: name, Arch: about.Arch, RunFlags: about.RunFlags, Shell: about.Shell}, from.hooks)
	if err != nil {
		return "", failf(CodeInvalidArgument, "", "%v", err)
	}
	build := runtime.BuildSpec{Tag: recipe.Tag(base.ID), Home: runtime.HomeHash(m.opts.Home), Base: name, BaseID: base.ID, Rebuild: opts.Rebuild}
	for _, f := range recipe.Files {
		build.Files = append(build.Files, runtime.BuildFile(f))
	}
	if err := m.permitBuild(ctx, images, &build); err != nil {
		return "", err
	}
	if build.Gate, err = m.newBuildGate(from.plan, build.Tag, opts); err != nil {
		return "", err
	}
	built, err := builder.Build(ctx, build, opts.Progress)
	return built.Ref, buildFailed(err)
}

// permitBuild refuses a build where there is no gate for it, and refuses it to agents
// unless the person allows that: its steps are root in a container that is less shut in
// than a run. An image that is there needs neither.
func (m *Manager) permitBuild(ctx context.Context, images runtime.ImageManager, build *runtime.BuildSpec) error {
	isAllowed := !m.opts.ForAgents || slices.Contains(m.opts.Allow, config.AllowBuild)
	if isAllowed && m.gate.client != nil {
		return nil
	}
	if !build.Rebuild {
		_, err := images.Image(ctx, build.Tag)
		if !errors.Is(err, runtime.ErrImageMissing) {
			return err
		}
	}
	if !isAllowed {
		return failf(CodePolicyDenied, "leave dependencies, hooks of the build and rebuild out, or ask the person who runs the server to start it with `drawbridge serve --allow build`",
			"agents are not allowed to have an image built, because its steps run as root in a container that is less shut in than a run")
	}
	return failf(CodeUnsupported, "use an image that has what the run needs", "the gate, behind which images are built, is not available to this program")
}

// takeDependencies adds those of the Config to the caller's.
func takeDependencies(o *Options, c *config.Config) error {
	all := slices.Clone(c.Dependencies)
	for _, d := range o.Dependencies {
		if !slices.Contains(all, d) {
			all = append(all, d)
		}
	}
	o.Dependencies = all
	return nil
}
