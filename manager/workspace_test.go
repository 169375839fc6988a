package manager

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWorkspacePolicy(t *testing.T) {
	base := t.TempDir()
	user := filepath.Join(base, "user")
	root := filepath.Join(base, "projects")
	home := filepath.Join(base, "drawbridge")
	for _, dir := range []string{user + "/inner", root + "/app/sub", root + "-evil", home + "/runs", base + "/elsewhere"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"/projects/out": base + "/elsewhere", "/projects/etc": "/etc", "/projects/in": root + "/app", "/projects/self": home, "/way": root + "/app"} {
		if err := os.Symlink(target, base+link); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(root+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", user)
	for _, tt := range []struct {
		name  string
		roots []string
		path  string
		want  string // resolved path, or empty
		code  Code
	}{
		{"below a root", []string{root}, root + "/app", root + "/app", ""},
		{"the root itself", []string{root}, root, root, ""},
		{"a link that stays inside", []string{root}, root + "/in/sub", root + "/app/sub", ""},
		{"a link from outside to inside", []string{root}, base + "/way", root + "/app", ""},
		{"dots that stay inside", []string{root}, root + "/app/../app/sub", root + "/app/sub", ""},
		{"second of two roots", []string{root + "/app", base + "/elsewhere"}, base + "/elsewhere", base + "/elsewhere", ""},
		{"no roots", nil, base + "/elsewhere", base + "/elsewhere", ""},
		{"below the user's home", nil, user + "/inner", user + "/inner", ""},

		{"outside", []string{root}, base + "/elsewhere", "", CodePolicyDenied},
		{"a sibling with the root's name as prefix", []string{root}, root + "-evil", "", CodePolicyDenied},
		{"dots that leave", []string{root}, root + "/../elsewhere", "", CodePolicyDenied},
		{"a link that leaves", []string{root}, root + "/out", "", CodePolicyDenied},
		{"a link to a system directory", []string{"/"}, root + "/etc", "", CodePolicyDenied},
		{"the user's home", nil, user, "", CodePolicyDenied},
		{"above the user's home", nil, base, "", CodePolicyDenied},
		{"the file system's root", []string{"/"}, "/", "", CodePolicyDenied},
		{"a system directory", nil, "/etc", "", CodePolicyDenied},
		{"below a system directory", nil, "/usr/share", "", CodePolicyDenied},
		{"Drawbridge's home", nil, home, "", CodePolicyDenied},
		{"below Drawbridge's home", nil, home + "/runs", "", CodePolicyDenied},
		{"a link to Drawbridge's home", []string{root}, root + "/self", "", CodePolicyDenied},
		{"missing", []string{root}, root + "/none", "", CodeInvalidArgument},
		{"a file", []string{root}, root + "/file", "", CodeInvalidArgument},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &Manager{opts: ManagerOptions{Home: home, WorkspaceRoots: tt.roots}}
			got, err := m.checkWorkspace(tt.path)
			if got != tt.want {
				t.Errorf("got %q, want %q (%v)", got, tt.want, err)
			}
			if (err == nil) != (tt.code == "") || (err != nil && AsError(err).Code != tt.code) {
				t.Errorf("error is %v, want code %q", err, tt.code)
			}
		})
	}
}
