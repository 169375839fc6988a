package manager

import (
	"strings"
	"testing"
)

// Git would run on the host, in a repository that a run may have prepared for it.
func TestAgentsHaveNoWorktreesMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager(func(o *ManagerOptions) { o.ForAgents = true })
	_, err := m.Create(t.Context(), Options{Workspace: workspaceFor(t), WorktreeBranch: "work", Cmd: shell("true")})
	if AsError(err).Code != CodePolicyDenied {
		t.Errorf("got %v", err)
	}
}

func TestRunsOnBranchesAreNamedAfterThem(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100)
	for _, c := range []struct{ name, branch, want string }{
		{"app", "main", "app-main"},
		{"app", "feature/Some.Thing", "app-feature-some-thing"},
		{".hidden", "-", "hidden"},
		{"app", "ünïcode", "app--n-code"},
		{"app", long, "app-" + long[:59]},
		{long[:62], "y", long[:62]},
	} {
		got := worktreeName(c.name, c.branch)
		if err := validateName(got); got != c.want || err != nil {
			t.Errorf("%s on %s: %q, want %q; %v", c.name, c.branch, got, c.want, err)
		}
	}
}
