package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// gitIn runs Git as a person does.
func gitIn(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=Person", "-c", "user.email=person@example.com"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// newRepository makes the workspace a repository with one commit.
func (c *cli) newRepository() {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.workspace, "file"), []byte("first\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.makeRepository()
}

// makeRepository makes the workspace a repository of what is in it.
func (c *cli) makeRepository() {
	c.t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		runtimetest.Missing(c.t, "this machine has no git: %v", err)
	}
	gitIn(c.t, c.workspace, "init", "--quiet", "--initial-branch=main", ".")
	gitIn(c.t, c.workspace, "add", ".")
	gitIn(c.t, c.workspace, "commit", "--quiet", "--message", "first")
}

// filesOf are the files in a directory, by their path in it.
func filesOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		all[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A run works on a branch in a checkout of its own: it commits there, and neither
// reaches nor changes the repository, whose hooks and configuration Git follows on the
// host. What it did comes back when it is fetched.
func TestARunWorksOnABranchOfItsOwn(t *testing.T) {
	t.Parallel()
	c := newNativeCLI(t)
	c.newRepository()
	before := filesOf(t, c.workspace)
	script := `set -e
		test "$(git rev-parse --abbrev-ref HEAD)" = fix/it
		echo second >file
		git -c user.name=Run -c user.email=run@example.com commit --quiet --all --message second
		echo 'touch /tmp/hooked' >.git/hooks-are-mine; mkdir -p .git/hooks; cp .git/hooks-are-mine .git/hooks/post-checkout
		git config core.fsmonitor /workspace/.git/hooks/post-checkout
		if [ -e ` + c.workspace + ` ]; then echo the repository is in reach; fi
		git remote -v`
	got := c.run("run", "--name", "app", "--workspace", c.workspace, "--worktree", "fix/it", "--", "bash", "-c", script)
	if got.code != 0 || strings.Contains(got.out, "in reach") || strings.Contains(got.out, "origin") {
		t.Fatalf("%+v", got)
	}
	t.Cleanup(func() { c.run("destroy", "--force", "app-fix-it") })
	run := c.inspect("app-fix-it")
	if run.WorktreeBranch != "fix/it" || !strings.HasPrefix(run.Workspace, c.home) || run.WorktreeRepoID == "" {
		t.Errorf("the run has %+v", run)
	}
	if diff := cmp.Diff(before, filesOf(t, c.workspace)); diff != "" {
		t.Errorf("the repository was changed:\n%s", diff)
	}
	listed := c.must("worktree", "list")
	if !strings.Contains(listed, "fix/it") || !strings.Contains(listed, run.Workspace) {
		t.Errorf("listed\n%s", listed)
	}
	// Work that nobody has stays, and goes once it was fetched.
	if got := c.run("worktree", "clean"); got.code != 0 || !strings.Contains(got.err, "kept") {
		t.Errorf("clean: %+v", got)
	}
	if got := c.run("worktree", "clean", "fix/it"); got.code == 0 || !strings.Contains(got.err, "--force") {
		t.Errorf("clean by name: %+v", got)
	}
	gitIn(t, c.workspace, "fetch", "--quiet", run.Workspace, "fix/it:fix/it")
	if got := gitIn(t, c.workspace, "show", "fix/it:file"); got != "second" {
		t.Errorf("fetched %q", got)
	}
	if got := c.run("worktree", "clean"); got.code != 0 || !strings.Contains(got.err, "removed "+run.Workspace) {
		t.Errorf("clean after the fetch: %+v", got)
	}
	if _, err := os.Stat(run.Workspace); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
	if got := gitIn(t, c.workspace, "show", "fix/it:file"); got != "second" {
		t.Errorf("the branch has %q", got)
	}
}

// Two runs do not work in one worktree, and one that a run works in is not removed.
func TestAWorktreeHasOneRun(t *testing.T) {
	t.Parallel()
	c := newNativeCLI(t)
	c.newRepository()
	start := func(name, branch string) result {
		return c.run("run", "--detach", "--name", name, "--workspace", c.workspace, "--worktree", branch, "--", "sleep", "1000")
	}
	first := start("first", "work")
	if first.code != 0 {
		t.Fatalf("%+v", first)
	}
	id := strings.TrimSpace(first.out)
	t.Cleanup(func() { c.run("destroy", "--force", id) })
	if got := start("second", "work"); got.code == 0 || !strings.Contains(got.err, "first-work works in the worktree") {
		t.Errorf("a second run: %+v", got)
	}
	other := start("second", "other")
	if other.code != 0 {
		t.Errorf("on another branch: %+v", other)
	}
	t.Cleanup(func() { c.run("destroy", "--force", strings.TrimSpace(other.out)) })
	path := c.inspect(id).Workspace
	if got := c.run("worktree", "clean", "--force", "work"); got.code == 0 || !strings.Contains(got.err, "first-work works in") {
		t.Errorf("clean: %+v", got)
	}
	if _, err := os.Stat(filepath.Join(path, "file")); err != nil {
		t.Error(err)
	}
	if got := c.run("destroy", "--force", id); got.code != 0 {
		t.Errorf("destroy: %+v", got)
	}
	// The checkout outlives its run, and the next one goes on there.
	if err := os.WriteFile(filepath.Join(path, "left"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again := start("third", "work")
	if again.code != 0 {
		t.Fatalf("%+v", again)
	}
	t.Cleanup(func() { c.run("destroy", "--force", strings.TrimSpace(again.out)) })
	if got := c.inspect(strings.TrimSpace(again.out)).Workspace; got != path {
		t.Errorf("it works in %s", got)
	}
	for _, bad := range [][]string{{"worktree", "clean", "--force"}, {"worktree", "clean", "nothing"}, {"worktree", "remove"}, {"run", "--worktree", "a..b", "--workspace", c.workspace, "--", "true"}, {"run", "--worktree", "x", "--workspace", t.TempDir(), "--", "true"}} {
		if got := c.run(bad...); got.code == 0 || got.err == "" {
			t.Errorf("%v: %+v", bad, got)
		}
	}
}
