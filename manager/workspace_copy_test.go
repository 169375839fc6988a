package manager

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// treeOf says of everything below dir what it is.
func treeOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		what := info.Mode().String()
		switch info.Mode().Type() {
		case 0:
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			what += " " + string(text)
		case fs.ModeSymlink:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			what = "-> " + target
		}
		rel, err := filepath.Rel(dir, name)
		all[rel] = what
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A run works in its workspace, or in a copy: it sees and does the same, and only the
// directory of the host tells the difference.
func TestRunWorksInACopyOfItsWorkspace(t *testing.T) {
	t.Parallel()
	for _, mode := range []WorkspaceMode{WorkspaceBind, WorkspaceVolume} {
		for _, owner := range []int{0, workspaceOwner, 1234} {
			if owner != 0 && os.Geteuid() != 0 {
				continue // only root gives files away
			}
			t.Run(fmt.Sprintf("%s of %d", mode, owner), func(t *testing.T) {
				t.Parallel()
				testWorkInACopy(t, mode, owner)
			})
		}
	}
}

func testWorkInACopy(t *testing.T, mode WorkspaceMode, owner int) {
	w := newWorld(t)
	m := w.manager()
	dir := workspaceFor(t)
	writeFiles(t, dir, map[string]string{"moat.yaml": "workspace: {mode: " + string(mode) + "}\n", "in": "given", "d/run": "#!/bin/sh\necho ran\n", "d/old": "old"})
	err := errors.Join(os.Chmod(filepath.Join(dir, "d", "run"), 0o755), os.Symlink("in", filepath.Join(dir, "link")), os.Chmod(filepath.Join(dir, "in"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(name, owner, owner))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	before := treeOf(t, dir)
	run := w.started(m, Options{Workspace: dir, Project: true, Interactive: true, Cmd: shell("cat link; d/run; echo changed >in; rm d/old; echo new >d/new; ln -s new d/made; echo ready; read end; cat told")})
	if run.WorkspaceMode != mode || run.Workspace != dir {
		t.Errorf("the run is %+v", run)
	}
	awaitOutputOf(t, m, run.ID, "^ready$")
	if _, err := m.WriteFile(t.Context(), run.ID, "told", []byte("told\n"), WriteOptions{}); err != nil {
		t.Error(err)
	}
	if got, err := m.ReadFile(t.Context(), run.ID, "in", 0, 0); err != nil || string(got.Data) != "changed\n" {
		t.Errorf("it reads %+v, %v", got, err)
	}
	if got, err := m.Exec(t.Context(), run.ID, ExecOptions{Command: shell("cat d/new; ls")}); err != nil || !strings.Contains(string(got.Stdout.Head), "new\n") {
		t.Errorf("exec: %+v, %v", got, err)
	}
	// Another Manager sees the same, as after a restart.
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	m = w.manager()
	if _, err := m.SendInput(t.Context(), run.ID, []byte("end\n"), false); err != nil {
		t.Error(err)
	}
	if run = w.ended(m, run.ID); run.State != StateStopped {
		t.Errorf("it ended as %+v", run)
	}
	if got := output(t, m, run.ID); got != "given"+"ran\nready\ntold\n" {
		t.Errorf("it printed %q", got)
	}
	if got, err := m.ReadFile(t.Context(), run.ID, "d/new", 0, 0); err != nil || string(got.Data) != "new\n" {
		t.Errorf("after its end it reads %+v, %v", got, err)
	}
	after := map[string]string{"in": "-rw------- changed\n", "d/new": "-rw-r--r-- new\n", "d/made": "-> new", "told": "-rw-r--r-- told\n", "d": before["d"], "d/run": before["d/run"], "link": before["link"], "moat.yaml": before["moat.yaml"]}
	out := filepath.Join(t.TempDir(), "out")
	report, err := m.CopyWorkspace(t.Context(), run.ID, out, nil)
	if mode == WorkspaceBind {
		if AsError(err).Code != CodeInvalidArgument || !strings.Contains(err.Error(), dir) {
			t.Errorf("copied %+v, %v", report, err)
		}
		if diff := cmp.Diff(after, treeOf(t, dir)); diff != "" {
			t.Errorf("in the workspace:\n%s", diff)
		}
		return
	}
	if err != nil || report.Entries != len(after) {
		t.Errorf("copied %+v, %v", report, err)
	}
	if diff := cmp.Diff(after, treeOf(t, out)); diff != "" {
		t.Errorf("in the copy:\n%s", diff)
	}
	if diff := cmp.Diff(before, treeOf(t, dir)); diff != "" {
		t.Errorf("in the workspace:\n%s", diff)
	}
	if _, err := m.CopyWorkspace(t.Context(), run.ID, out, nil); AsError(err).Code != CodeConflict {
		t.Errorf("over what is there: %v", err)
	}
	if err := m.Destroy(t.Context(), run.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(run.Store.Dir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its directory is still there: %v", err)
	}
	if diff := cmp.Diff(before, treeOf(t, dir)); diff != "" {
		t.Errorf("in the workspace, when the run is gone:\n%s", diff)
	}
}

// What is excluded is not in the copy, and may be made there; what the host has is
// never seen.
func TestCopyOfAWorkspaceLacksWhatIsExcluded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	dir := workspaceFor(t)
	writeFiles(t, dir, map[string]string{"secrets/key": "private", ".env": "private", "kept": "kept", ".git/HEAD": "ref"})
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	opts := Options{
		Workspace: dir, WorkspaceMode: WorkspaceVolume, Cmd: shell("ls -A; cat .git/HEAD; mkdir secrets; echo mine >secrets/key"),
		Mounts: []runtime.MountConfig{{Source: ".", Target: runtime.WorkspacePath, Exclude: []string{"secrets", ".env"}}},
	}
	run := w.started(m, opts)
	w.ended(m, run.ID)
	if got := strings.Fields(output(t, m, run.ID)); !slices.Equal(slices.Sorted(slices.Values(got)), []string{".git", "kept", "ref"}) {
		t.Errorf("it sees %q", got)
	}
	if got, err := m.ReadFile(t.Context(), run.ID, "secrets/key", 0, 0); err != nil || string(got.Data) != "mine\n" {
		t.Errorf("what it has made there: %+v, %v", got, err)
	}
	if got, err := m.ReadFile(t.Context(), run.ID, ".env", 0, 0); AsError(err).Code != CodeNotFound {
		t.Errorf("what was excluded: %+v, %v", got, err)
	}
	opts.Mounts[0].Exclude = []string{".git"}
	if _, err := m.Create(t.Context(), opts); AsError(err).Code != CodeInvalidArgument || !strings.Contains(err.Error(), "keeps its .git") {
		t.Errorf("without .git: %v", err)
	}
	for name, change := range map[string]func(*Options){
		"no workspace": func(o *Options) { o.Workspace = "" },
		"a worktree":   func(o *Options) { o.WorktreeBranch = "branch" },
		"unknown mode": func(o *Options) { o.WorkspaceMode = "overlay" },
	} {
		bad := Options{Workspace: dir, WorkspaceMode: WorkspaceVolume, Cmd: shell("true")}
		change(&bad)
		if _, err := m.Create(t.Context(), bad); AsError(err).Code != CodeInvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A run leaves links and devices in its copy. What a person copies from there leads
// nowhere else, and has nothing from elsewhere.
func TestNothingLeadsOutOfWhatIsCopiedFromARun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	dir := workspaceFor(t)
	writeFiles(t, dir, map[string]string{"file": "text"})
	run := w.started(m, Options{Workspace: dir, WorkspaceMode: WorkspaceVolume, Cmd: shell(
		"ln -s /etc/passwd passwd; ln -s ../../../state.db up; mkdir d; ln -s ../file d/good; ln -s ../.. d/out; ln -s d here; ln -s here/../.. trick; ln -s /workspace/file own; mkdir big; ln d/../file again; echo x >big/file")})
	if got := w.ended(m, run.ID); got.State != StateStopped {
		t.Fatalf("it ended as %+v, and printed %q", got, output(t, m, run.ID))
	}
	// Where the engine lets a run make such, it would be there.
	if err := syscall.Mkfifo(filepath.Join(run.WorkspaceDir(), "pipe"), 0o666); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	report, err := m.CopyWorkspace(t.Context(), run.ID, out, []string{"big"})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(report.Links)
	if !slices.Equal(report.Links, []string{"d/out", "own", "passwd", "trick", "up"}) || report.LinksLeft != 5 || !slices.Equal(report.Specials, []string{"pipe"}) {
		t.Errorf("reported %+v", report)
	}
	want := map[string]string{"file": "-rw-r--r-- text", "again": "-rw-r--r-- text", "d": "drwxr-xr-x", "d/good": "-> ../file", "here": "-> d"}
	if diff := cmp.Diff(want, treeOf(t, out)); diff != "" {
		t.Errorf("copied:\n%s", diff)
	}
	for name, to := range map[string]string{"in the home": filepath.Join(run.Store.Dir(), "out"), "below nothing": filepath.Join(t.TempDir(), "no", "such"), "over the workspace": dir} {
		if _, err := m.CopyWorkspace(t.Context(), run.ID, to, nil); err == nil || AsError(err).Next == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := m.CopyWorkspace(t.Context(), run.ID, filepath.Join(t.TempDir(), "x"), []string{"../x"}); AsError(err).Code != CodeInvalidArgument {
		t.Errorf("without what is elsewhere: %v", err)
	}
	// The copy that the run replaces by a link is not followed.
	copied := run.WorkspaceDir()
	if err := errors.Join(os.Rename(copied, copied+"-was"), os.Symlink("/etc", copied)); err != nil {
		t.Fatal(err)
	}
	failed := filepath.Join(t.TempDir(), "failed")
	if _, err := m.CopyWorkspace(t.Context(), run.ID, failed, nil); AsError(err).Code != CodeConflict {
		t.Errorf("through a link: %v", err)
	}
	if _, err := os.Lstat(failed); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after an error there is a directory: %v", err)
	}
}

func TestWorkspacesThatAreTooLargeAreNotCopied(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	dir := workspaceFor(t)
	writeFiles(t, dir, map[string]string{"a/small": "text", "large": ""})
	// Never copied: it is too large before anything of it is.
	if err := os.Truncate(filepath.Join(dir, "large"), maxWorkspaceBytes+1); err != nil {
		t.Fatal(err)
	}
	opts := Options{Workspace: dir, WorkspaceMode: WorkspaceVolume, Cmd: shell("ls")}
	_, err := m.Create(t.Context(), opts)
	if e := AsError(err); e.Code != CodeQuota || !strings.Contains(err.Error(), "copy the workspace") || !strings.Contains(e.Next, "exclude") {
		t.Errorf("says %v", err)
	}
	if left := w.left(m); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
	opts.Mounts = []runtime.MountConfig{{Source: ".", Target: runtime.WorkspacePath, Exclude: []string{"large"}}}
	if got := w.ran(m, opts); got != "a\n" {
		t.Errorf("without it, the run sees %q", got)
	}
}

// Whatever fails after the workspace was copied, or kills the process then, the copy
// goes and the workspace stays.
func TestCopyOfAWorkspaceGoesWithItsRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	dir := workspaceFor(t)
	writeFiles(t, dir, map[string]string{"a/file": "text"})
	before := treeOf(t, dir)
	for _, step := range []string{"create: copy the workspace", "create: make its volumes", "create: publish the run", "start: start the sandbox"} {
		m := w.manager()
		m.onStep = failAt(step)
		run, err := m.Create(t.Context(), Options{Workspace: dir, WorkspaceMode: WorkspaceVolume, Cmd: shell("rm -r a")})
		if err == nil {
			err = m.Start(t.Context(), run.ID, StartOptions{})
			err = errors.Join(err, m.Destroy(t.Context(), run.ID))
		}
		if !errors.Is(err, errInjected) {
			t.Errorf("%s: %v", step, err)
		}
		if left := w.left(m); left != "" {
			t.Errorf("%s: left behind:\n%s", step, left)
		}
		victim := w.victim(step, "rm -r a")
		victim.Env = append(victim.Env, crashWorkspace+"="+dir)
		exit, killed := errors.AsType[*exec.ExitError](victim.Run())
		if !killed || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("%s: the victim ended with %v", step, exit)
		}
		if err := m.Reconcile(t.Context()); err != nil {
			t.Error(err)
		}
		for _, run := range m.List() {
			w.ended(m, run.ID)
			if err := m.Destroy(t.Context(), run.ID); err != nil {
				t.Error(err)
			}
		}
		if left := w.left(m); left != "" {
			t.Errorf("%s: when the process was killed, left behind:\n%s", step, left)
		}
		if diff := cmp.Diff(before, treeOf(t, dir)); diff != "" {
			t.Errorf("%s: in the workspace:\n%s", step, diff)
		}
	}
}

// An agent that goes on with its session finds what it did in its copy; one that begins
// anew does not.
func TestAgentGoesOnInItsCopy(t *testing.T) {
	t.Parallel()
	w := newWorld(t).withGate()
	m := w.manager()
	dir, opts := programFor(t, w, "cat done 2>/dev/null; echo more >>done\n"+saysSession)
	writeFiles(t, dir, map[string]string{"moat.yaml": "workspace: {mode: volume}\n"})
	opts.Project = true
	first := w.started(m, opts)
	first = w.ended(m, first.ID)
	if first.Report == nil || first.Report.Session != "s-1" {
		t.Fatalf("it says %+v, and printed %q", first.Report, output(t, m, first.ID))
	}
	again, err := m.FollowUp(t.Context(), first.ID, FollowUpOptions{Prompt: "more"})
	if err == nil {
		err = m.Start(t.Context(), again.ID, StartOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	again = w.ended(m, again.ID)
	if again.Workspace != dir || again.WorkspaceMode != WorkspaceVolume {
		t.Errorf("it is %+v", again)
	}
	anew := w.started(m, opts)
	w.ended(m, anew.ID)
	for id, want := range map[string]string{first.ID: "more\n", again.ID: "more\nmore\n", anew.ID: "more\n"} {
		if got, err := m.ReadFile(t.Context(), id, "done", 0, 0); err != nil || string(got.Data) != want {
			t.Errorf("in %s there is %+v, %v, want %q", id, got, err, want)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "done")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in the workspace: %v", err)
	}
}

// The option goes before the project, and the two modes are different requests.
func TestWorkspaceModeOfTheCallerGoesFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	dir := workspaceFor(t)
	project := &config.Config{Workspace: config.Workspace{Mode: "volume"}}
	for _, tt := range []struct {
		asked, want WorkspaceMode
		config      *config.Config
	}{
		{"", WorkspaceBind, nil}, {"", WorkspaceVolume, project}, {WorkspaceBind, WorkspaceBind, project}, {WorkspaceVolume, WorkspaceVolume, nil},
	} {
		run := w.create(m, Options{Workspace: dir, WorkspaceMode: tt.asked, Config: tt.config, Cmd: shell("true")})
		if run.WorkspaceMode != tt.want {
			t.Errorf("asked for %q with %+v: got %q", tt.asked, tt.config, run.WorkspaceMode)
		}
	}
	opts := Options{Workspace: dir, IdempotencyKey: "k", WorkspaceMode: WorkspaceVolume, Cmd: shell("true")}
	first := w.create(m, opts)
	if again := w.create(m, opts); again.ID != first.ID || !again.Replayed {
		t.Errorf("a retry is %+v", again)
	}
	opts.WorkspaceMode = WorkspaceBind
	if _, err := m.Create(t.Context(), opts); AsError(err).Code != CodeConflict {
		t.Errorf("with another mode: %v", err)
	}
}
