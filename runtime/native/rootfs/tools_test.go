//go:build linux

package rootfs

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDirectoriesThatHoldMoreThanToolsAreRefused(t *testing.T) {
	dir := tree(t, "home/.ssh/", "home/.cargo/bin/", "home/.config/gcloud/", "home/sdk/bin/gcloud", "home/go/.git/", "sockets/")
	t.Setenv("HOME", filepath.Join(dir, "home"))
	// Its path may be too long for the call.
	t.Chdir(filepath.Join(dir, "sockets"))
	l, err := net.Listen("unix", "agent")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, why := range map[string]string{
		"": "more than programs", "home": "more than programs", "home/.ssh": "credentials", "home/.config": "gcloud", "home/.config/gcloud": "credentials", "sockets": "socket agent",
		"home/.cargo/bin": "", "home/sdk/bin": "", "home/go": "",
	} {
		if got := personal(filepath.Join(dir, name)); !strings.Contains(got, why) || (why == "") != (got == "") {
			t.Errorf("%q: %q, want %q", name, got, why)
		}
	}
}

func TestToolsAreFoundUnderTheNameThatWasGiven(t *testing.T) {
	t.Parallel()
	r := newRoot()
	r.bind("/usr", "/usr", true)
	r.entries["/bin"] = entry{link: "usr/bin"}
	r.bind("/opt/go-1.26", "/opt/go-1.26", true)
	r.alias("/opt/go-1.26", "/opt/go-1.26")
	r.alias("/opt/go", "/opt/go-1.26")
	r.alias("/home/me/go", "/opt/go-1.26")
	for _, taken := range []string{"/usr/local/go", "/bin/go", "/mnt", "/opt/go-1.26/go"} {
		r.alias(taken, "/opt/go-1.26")
	}
	dir := t.TempDir()
	if err := r.make(dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"opt/go": "/opt/go-1.26", "home/me/go": "/opt/go-1.26", "bin": "usr/bin", "mnt": "", "opt/go-1.26": "", "usr": ""} {
		if got, _ := os.Readlink(filepath.Join(dir, name)); got != want {
			t.Errorf("%s leads to %q, want %q", name, got, want)
		}
	}
}

// The command's user gets to a toolchain below a home that is closed to others.
func TestToolsBelowAClosedHomeAreReached(t *testing.T) {
	t.Parallel()
	r := newRoot()
	if mode := r.entries["/root"].mode; mode != 0o700 {
		t.Errorf("a home without tools has mode %o", mode)
	}
	r.bind("/root/sdk/go", "/root/sdk/go", true)
	for _, dir := range []string{"/root", "/root/sdk", "/root/sdk/go"} {
		if mode := r.entries[dir].mode; mode&0o011 != 0o011 {
			t.Errorf("%s has mode %o", dir, mode)
		}
	}
}

func TestLinksOfTheHostLeadIntoTheSandbox(t *testing.T) {
	t.Parallel()
	dir := tree(t, "usr/lib/", "usr/share/zone/", "elsewhere/open/", "elsewhere/closed/", "private/open/")
	for name, mode := range map[string]os.FileMode{"elsewhere/closed": 0o700, "private": 0o700} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	for at := dir; at != "/"; at = filepath.Dir(at) {
		if info, err := os.Stat(at); err == nil && info.Mode()&0o001 == 0 && os.Chmod(at, info.Mode()|0o011) != nil {
			t.Skipf("%s is closed to others", at)
		}
	}
	for name, tt := range map[string]struct{ to, bound string }{
		"inside": {"usr/share/zone", ""}, "shared": {"elsewhere/open", "elsewhere/open"},
		"closed": {"elsewhere/closed", "-"}, "private": {"private/open", "-"}, "dangling": {"nowhere", "-"},
	} {
		t.Run(name, func(t *testing.T) {
			at := filepath.Join(dir, "link-"+name)
			link(t, tt.to, at)
			r := newRoot()
			r.bind(filepath.Join(dir, "usr"), filepath.Join(dir, "usr"), true)
			if err := r.addLink(at); err != nil {
				t.Fatal(err)
			}
			e, has := r.entries[at]
			switch bound := len(r.Binds) > 1; {
			case tt.bound == "" && (e.link != tt.to || bound):
				t.Errorf("it is %+v, %+v", e, r.Binds)
			case tt.bound == "-" && (has || bound):
				t.Errorf("it is in the sandbox: %+v, %+v", e, r.Binds)
			case tt.bound != "" && tt.bound != "-" && (!bound || r.Binds[1].Source != filepath.Join(dir, tt.bound) || r.Binds[1].Target != at):
				t.Errorf("it is bound as %+v", r.Binds)
			}
		})
	}
}

func TestNothingOfTheHostsListsIsASecret(t *testing.T) {
	t.Parallel()
	for _, name := range hostNames() {
		switch filepath.Base(name) {
		case "shadow", "gshadow", "passwd", "group", "hostname", "hosts", "machine-id", "resolv.conf", "ssh", "sudoers", "sudoers.d", "gitconfig", "npmrc", "pip.conf", "wgetrc", "environment", "private", "fstab", "crypttab":
			t.Errorf("%s is in the list", name)
		}
	}
}
