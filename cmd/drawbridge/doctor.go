package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// doctorTimeout bounds all checks together: an engine that hangs is a finding.
const doctorTimeout = 30 * time.Second

// Free space in the home below which doctor warns, or fails: one run's log alone
// takes up to 64 MiB.
const (
	diskWarn = 2 << 30
	diskFail = 128 << 20
)

// status is how bad a finding is.
type status string

const (
	statusOK   status = "ok"
	statusWarn status = "warn"
	statusFail status = "fail"
)

// finding is what one check has to say.
type finding struct {
	Check  string `json:"check"`
	Status status `json:"status"`
	Detail string `json:"detail"`
	Next   string `json:"next,omitempty"`
}

func ok(check, format string, args ...any) finding {
	return finding{Check: check, Status: statusOK, Detail: fmt.Sprintf(format, args...)}
}

func warn(check, next, format string, args ...any) finding {
	return finding{Check: check, Status: statusWarn, Detail: fmt.Sprintf(format, args...), Next: next}
}

func fail(check, next, format string, args ...any) finding {
	return finding{Check: check, Status: statusFail, Detail: fmt.Sprintf(format, args...), Next: next}
}

// failed is a finding about an error that knows its own mend.
func failed(check string, err error) finding {
	e := manager.AsError(err)
	detail := e.Message
	if e.Err != nil {
		detail += ": " + e.Err.Error()
	}
	return fail(check, e.Next, "%s", oneLine(detail))
}

func (a *app) doctorCommand() *cobra.Command {
	var output format
	var sandbox string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what is here, what is missing, and what to do",
		Long: `Look at everything that runs need on this machine, and say what is here, what is
missing, and what to do about it. The exit code is 1 if something is missing
without which no run can start.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			isolation, err := parseSandbox(sandbox)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), doctorTimeout)
			defer cancel()
			findings, err := a.examine(ctx, isolation)
			if err != nil {
				return err
			}
			sound := true
			for _, f := range findings {
				sound = sound && f.Status != statusFail
			}
			if output == formatJSON {
				err = a.printJSON(struct {
					OK       bool      `json:"ok"`
					Findings []finding `json:"findings"`
				}{sound, findings})
			} else {
				err = a.printFindings(findings)
			}
			if err == nil && !sound {
				err = exitCode(exitFailed)
			}
			return err
		},
	}
	outputFlag(cmd, &output)
	sandboxFlag(cmd, &sandbox)
	return cmd
}

// examine makes all checks, in the order in which a reader should mend.
func (a *app) examine(ctx context.Context, isolation *bool) ([]finding, error) {
	home, err := a.homeDir()
	if err != nil {
		return nil, err
	}
	build := buildVersion()
	findings := []finding{ok("program", "drawbridge %s, %s", build.Version, build.Platform), checkHome(home)}
	m, err := a.open(func(o *manager.ManagerOptions) { o.NoSandbox = isolation })
	if err != nil {
		findings = append(findings, failed("state", err))
	} else {
		findings = append(findings, checkState(ctx, m))
		findings = append(findings, checkRuntimes(ctx, m)...)
		if err := m.Close(); err != nil {
			findings = append(findings, failed("state", err))
		}
	}
	findings = append(findings, checkGuest(), checkDisk(home), a.checkWorkspaceRoot(home))
	return append(findings, checkPlatform()...), nil
}

func (a *app) printFindings(findings []finding) error {
	marks := map[status]string{statusOK: "ok", statusWarn: "warn", statusFail: "FAIL"}
	worst := statusOK
	for _, f := range findings {
		if _, err := fmt.Fprintf(a.out, "%-4s  %-10s  %s\n", marks[f.Status], f.Check, oneLine(f.Detail)); err != nil {
			return fmt.Errorf("write the findings: %w", err)
		}
		if f.Next != "" {
			fmt.Fprintf(a.out, "%-4s  %-10s  next: %s\n", "", "", oneLine(f.Next))
		}
		if f.Status == statusFail || worst == statusOK {
			worst = f.Status
		}
	}
	switch worst {
	case statusFail:
		a.say("something is missing: runs cannot start before it is mended")
	case statusWarn:
		a.say("runs can start; the warnings say what could be better")
	default:
		a.say("all is well: `drawbridge run -- echo hello` makes a first run")
	}
	return nil
}

// checkHome looks at the home as it is before anything opens it.
func checkHome(home string) finding {
	info, err := os.Stat(home)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ok("home", "%s is made at first use", home)
	case err != nil:
		return fail("home", "make it readable, or name another one with --home or DRAWBRIDGE_HOME", "%v", err)
	case !info.IsDir():
		return fail("home", "move it away, or name another one with --home or DRAWBRIDGE_HOME", "%s is not a directory", home)
	case info.Mode().Perm()&0o077 != 0:
		return fail("home", "run chmod 700 "+quoteWord(home), "%s can be used by others (mode %04o)", home, info.Mode().Perm())
	}
	return ok("home", "%s, mode %04o", home, info.Mode().Perm())
}

// checkState reads the database.
func checkState(ctx context.Context, m *manager.Manager) finding {
	live := true
	page, err := m.ListPage(ctx, manager.ListQuery{Live: &live, Limit: maxPage})
	if err != nil {
		return failed("state", err)
	}
	return ok("state", "the database answers; %s", count(len(page.Runs), "live run"))
}

// checkGuest looks for the guest, the program that is PID 1 in every sandbox.
func checkGuest() finding {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return fail("guest", "run drawbridge by its full path", "find this program: %v", err)
	}
	beside := filepath.Dir(self)
	var found []string
	for _, dir := range []string{beside, filepath.Join(beside, "..", "libexec", "drawbridge")} {
		for _, arch := range []string{"amd64", "arm64"} {
			if info, err := os.Stat(filepath.Join(dir, "drawbridge-guest-linux-"+arch)); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				found = append(found, arch)
			}
		}
		if len(found) > 0 {
			return guestFound(dir, found)
		}
	}
	return fail("guest", "put the drawbridge-guest-linux-* files of the release beside drawbridge, or run scripts/build in its sources",
		"no guest program beside %s", self)
}

func guestFound(dir string, archs []string) finding {
	if slices.Contains(archs, goruntime.GOARCH) {
		return ok("guest", "for %v in %s", archs, dir)
	}
	return warn("guest", "put drawbridge-guest-linux-"+goruntime.GOARCH+" beside it, unless the engine is another machine",
		"only for %v in %s, and this machine is %s", archs, dir, goruntime.GOARCH)
}

// checkDisk looks at the free space where logs and fresh workspaces go.
func checkDisk(home string) finding {
	dir := home
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir) // the home is made at first use
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return warn("disk", "", "the free space of %s is unknown: %v", dir, err)
	}
	free := int64(fs.Bavail) * int64(fs.Bsize) //nolint:unconvert // their types differ between systems
	switch next := "free space; `drawbridge prune` removes ended runs"; {
	case free < diskFail:
		return fail("disk", next, "%s free for %s", bytesText(free), home)
	case free < diskWarn:
		return warn("disk", next, "%s free for %s", bytesText(free), home)
	}
	return ok("disk", "%s free for %s", bytesText(free), home)
}

// checkWorkspaceRoot says which workspaces a server started here would allow.
func (a *app) checkWorkspaceRoot(home string) finding {
	dir, err := os.Getwd()
	next := "give `drawbridge serve --workspace-root DIR` the directory that holds your projects"
	switch {
	case err != nil:
		return warn("workspaces", next, "the current directory is unknown: %v", err)
	case dir == "/" || dir == home:
		return warn("workspaces", next, "a server started in %s allows none", dir)
	}
	return ok("workspaces", "a server started here allows those below %s; --workspace-root names others", dir)
}
