package worktree

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// run runs Git as a person does, in a directory.
func run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=Person", "-c", "user.email=person@example.com"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(withoutGit(os.Environ()), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// world is a repository with two branches, and a place for worktrees.
type world struct {
	t          *testing.T
	dir, base  string
	repository Repository
}

func newWorld(t *testing.T) *world {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: filepath.Join(root, "app"), base: filepath.Join(root, "base")}
	run(t, root, "init", "--quiet", "--initial-branch=main", w.dir)
	write(t, filepath.Join(w.dir, "file"), "first\n")
	run(t, w.dir, "add", ".")
	run(t, w.dir, "commit", "--quiet", "--message", "first")
	run(t, w.dir, "branch", "other")
	run(t, w.dir, "config", "user.name", "Person")
	run(t, w.dir, "checkout", "--quiet", "-b", "secret")
	write(t, filepath.Join(w.dir, "unseen"), "only in the branch secret\n")
	run(t, w.dir, "add", ".")
	run(t, w.dir, "commit", "--quiet", "--message", "secret")
	run(t, w.dir, "checkout", "--quiet", "main")
	if w.repository, err = Find(t.Context(), w.dir); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) made(branch string) Worktree {
	w.t.Helper()
	made, err := w.repository.Plan(w.t.Context(), w.base, branch)
	if err == nil {
		err = w.repository.Make(w.t.Context(), made)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return made
}

// commit commits a change in a worktree, as a run does.
func (w *world) commit(made Worktree, text string) {
	w.t.Helper()
	write(w.t, filepath.Join(made.Path, "file"), text)
	run(w.t, made.Path, "commit", "--quiet", "--all", "--message", text)
}

// state is all that Git has of a repository, and its files.
func state(t *testing.T, dir string) map[string]string {
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

func TestAWorktreeIsACloneOfOneBranch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := state(t, w.dir)
	for branch, want := range map[string]string{"other": "_local/app/other", "made/anew": "_local/app/made~anew"} {
		made := w.made(branch)
		if got, err := filepath.Rel(w.base, made.Path); err != nil || got != filepath.FromSlash(want) {
			t.Errorf("%s is at %s, %v", branch, got, err)
		}
		if got := run(t, made.Path, "rev-parse", "--abbrev-ref", "HEAD"); got != branch {
			t.Errorf("%s: %s is checked out", branch, got)
		}
		if got := run(t, made.Path, "config", "user.name"); got != "Person" {
			t.Errorf("%s: commits are of %q", branch, got)
		}
		// It is whole by itself: neither objects nor anything else is shared, and
		// what is not of the branch is not in it.
		for _, file := range []string{".git/objects/info/alternates", "unseen"} {
			if _, err := os.Lstat(filepath.Join(made.Path, file)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: there is %s: %v", branch, file, err)
			}
		}
		if info, err := os.Lstat(filepath.Join(made.Path, ".git")); err != nil || !info.IsDir() {
			t.Errorf("%s: .git is %v, %v", branch, info, err)
		}
		for path, content := range state(t, made.Path) {
			if strings.Contains(content, w.dir) {
				t.Errorf("%s: %s names %s", branch, path, w.dir)
			}
		}
		if out := run(t, made.Path, "log", "--all", "--format=%s"); out != "first" {
			t.Errorf("%s has the commits %q", branch, out)
		}
	}
	if diff := cmp.Diff(before, state(t, w.dir)); diff != "" {
		t.Errorf("the repository was changed:\n%s", diff)
	}
}

// What is there is used again, with what was done in it.
func TestAWorktreeIsMadeOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.made("work")
	w.commit(made, "second\n")
	w.made("work")
	if got := run(t, made.Path, "log", "--format=%s", "-1"); got != "second" {
		t.Errorf("the last commit is %q", got)
	}
	// Another repository of the same name does not get it.
	other := newWorld(t)
	planned, err := other.repository.Plan(t.Context(), w.base, "work")
	if err != nil {
		t.Fatal(err)
	}
	if err := other.repository.Make(t.Context(), planned); !errors.Is(err, ErrOther) {
		t.Errorf("another repository: %v", err)
	}
	all, err := List(w.base)
	if err != nil || len(all) != 1 || all[0].Path != made.Path || all[0].Branch != "work" || all[0].RepoID != "_local/app" || all[0].Source != w.dir || all[0].Made.IsZero() {
		t.Errorf("listed %+v, %v", all, err)
	}
}

func TestRepositoriesAreNamedAfterTheirOrigin(t *testing.T) {
	t.Parallel()
	for origin, want := range map[string][2]string{
		"https://github.com/owner/name.git":              {"github.com/owner/name", "https://github.com/owner/name.git"},
		"https://user:password@Example.com/group/a/name": {"example.com/group/a/name", "https://Example.com/group/a/name"},
		"git@github.com:owner/name.git":                  {"github.com/owner/name", "git@github.com:owner/name.git"},
		"ssh://git:password@example.com:2222/owner/name": {"example.com/owner/name", "ssh://git@example.com:2222/owner/name"},
		"https://example.com/../../etc/..":               {"example.com/etc", "https://example.com/../../etc/.."},
		"https://example.com/":                           {"_local/app", "https://example.com/"},
		"/srv/git/name.git":                              {"_local/app", ""},
		"file:///srv/git/name.git":                       {"_local/app", ""},
		"ext::sh -c evil":                                {"_local/app", ""},
		"":                                               {"_local/app", ""},
	} {
		url := reachable(origin)
		if got := [2]string{repoID(url, "/home/me/app"), url}; got != want {
			t.Errorf("%q: %q, want %q", origin, got, want)
		}
	}
}

// HEAD need not be on a branch.
func TestAWorktreeOfADetachedHead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run(t, w.dir, "checkout", "--quiet", "--detach")
	made := w.made("work")
	if got := run(t, made.Path, "for-each-ref", "--format=%(refname)"); got != "refs/heads/work" {
		t.Errorf("it has %q", got)
	}
	if err := Remove(t.Context(), w.base, made, KeepUnfetched); err != nil {
		t.Error(err)
	}
}

func TestBranchesThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, branch := range []string{"", "-d", "a..b", "a b", "/a", "a/", "a~b", "x.lock", "@{", "../../etc", strings.Repeat("a", 201)} {
		if made, err := w.repository.Plan(t.Context(), w.base, branch); !errors.Is(err, ErrBranch) {
			t.Errorf("%q: %+v, %v", branch, made, err)
		}
	}
	if _, err := Find(t.Context(), t.TempDir()); !errors.Is(err, ErrNotRepository) {
		t.Errorf("no repository: %v", err)
	}
	empty := t.TempDir()
	run(t, empty, "init", "--quiet")
	repository, err := Find(t.Context(), empty)
	if err != nil {
		t.Fatal(err)
	}
	made, err := repository.Plan(t.Context(), w.base, "work")
	if err != nil {
		t.Fatal(err)
	}
	if err := repository.Make(t.Context(), made); err == nil || !strings.Contains(err.Error(), "no commit yet") {
		t.Errorf("an empty repository: %v", err)
	}
	if left, err := List(w.base); err != nil || len(left) != 0 {
		t.Errorf("left behind: %+v, %v", left, err)
	}
}

func TestWorkThatNobodyElseHasIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	remove := func(made Worktree) error { return Remove(t.Context(), w.base, made, KeepUnfetched) }
	committed := w.made("committed")
	w.commit(committed, "second\n")
	changed := w.made("changed")
	write(t, filepath.Join(changed.Path, "file"), "other\n")
	added := w.made("added")
	write(t, filepath.Join(added.Path, "new"), "")
	elsewhere := w.made("elsewhere")
	run(t, elsewhere.Path, "checkout", "--quiet", "-b", "more")
	w.commit(elsewhere, "third\n")
	run(t, elsewhere.Path, "checkout", "--quiet", "elsewhere")
	damaged := w.made("damaged")
	if err := os.RemoveAll(filepath.Join(damaged.Path, ".git")); err != nil {
		t.Fatal(err)
	}
	for _, made := range []Worktree{committed, changed, added, elsewhere, damaged} {
		if err := remove(made); !errors.Is(err, ErrUnfetched) {
			t.Errorf("%s: %v", made.Branch, err)
		}
		if _, err := os.Stat(filepath.Join(made.Path, "file")); err != nil {
			t.Error(err)
		}
	}
	// What was fetched is there twice, and what was never touched is no work.
	run(t, w.dir, "fetch", "--quiet", committed.Path, "committed:committed")
	for _, made := range []Worktree{committed, w.made("untouched")} {
		if err := remove(made); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(made.Path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", made.Path, err)
		}
	}
	if got := run(t, w.dir, "log", "--format=%s", "-1", "committed"); got != "second" {
		t.Errorf("the branch leads to %q", got)
	}
	for _, made := range []Worktree{changed, added, elsewhere, damaged} {
		if err := Remove(t.Context(), w.base, made, RemoveUnfetched); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(w.base); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	for _, path := range []string{w.dir, w.base, filepath.Join(w.base, "..", "app"), "/"} {
		if err := Remove(t.Context(), w.base, Worktree{Path: path}, RemoveUnfetched); err == nil {
			t.Errorf("%s was removed", path)
		}
	}
}

// A run owns what is in its worktree: it may have written whatever makes Git run
// programs. None of it runs on the host when the worktree is listed and removed, also
// not for a file that has been changed.
func TestNothingOfAWorktreeRunsOnTheHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.made("evil")
	mark := filepath.Join(w.base, "mark")
	evil := filepath.Join(made.Path, "evil")
	if err := os.WriteFile(evil, []byte("#!/bin/sh\necho \"$0 $*\" >>"+mark+"\ncat\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"post-checkout", "pre-commit", "post-index-change", "reference-transaction", "pre-auto-gc"} {
		write(t, filepath.Join(made.Path, ".git", "hooks", name), "#!/bin/sh\necho "+name+" >>"+mark+"\n")
		if err := os.Chmod(filepath.Join(made.Path, ".git", "hooks", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]string{
		"core.fsmonitor": evil, "core.hooksPath": filepath.Join(made.Path, ".git", "hooks"), "core.sshCommand": evil, "core.pager": evil, "core.editor": evil,
		"core.alternateRefsCommand": evil, "uploadpack.packObjectsHook": evil, "filter.evil.clean": evil, "filter.evil.smudge": evil, "filter.evil.process": evil, "diff.external": evil,
		"extensions.partialClone": "promisor", "remote.promisor.promisor": "true", "remote.promisor.url": "ext::" + evil, "remote.promisor.uploadpack": evil,
		"protocol.ext.allow": "always", "credential.helper": "!" + evil, "gpg.program": evil,
	} {
		run(t, made.Path, "config", name, value)
	}
	write(t, filepath.Join(made.Path, ".gitattributes"), "* filter=evil diff=evil\n")
	write(t, filepath.Join(made.Path, "file"), "changed\n")
	// The mirror: Git there runs some of it.
	cmd := exec.Command("git", "status")
	cmd.Dir = made.Path
	_ = cmd.Run()
	if _, err := os.Stat(mark); err != nil {
		t.Fatalf("what was planted works nowhere: %v", err)
	}
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	if _, err := List(w.base); err != nil {
		t.Error(err)
	}
	w.made("evil") // as for the next run
	if err := Remove(t.Context(), w.base, made, KeepUnfetched); !errors.Is(err, ErrUnfetched) {
		t.Errorf("removed: %v", err)
	}
	if err := Remove(t.Context(), w.base, made, RemoveUnfetched); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(mark); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("on the host ran %s, %v", text, err)
	}
}

// Links in a worktree lead nobody out of it.
func TestRemovingFollowsNoLink(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.made("links")
	if err := os.Symlink(w.dir, filepath.Join(made.Path, "link")); err != nil {
		t.Fatal(err)
	}
	before := state(t, w.dir)
	if err := Remove(t.Context(), w.base, made, RemoveUnfetched); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, state(t, w.dir)); diff != "" {
		t.Errorf("the repository was changed:\n%s", diff)
	}
}
