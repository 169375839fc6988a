package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/net/http/httpproxy"

	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
	"github.com/drawbridge-mcp/drawbridge/manager/access/daemon"
)

// extraCAVariable names a file of further authorities that servers' certificates
// are checked against: those of a company's own services.
const extraCAVariable = "DRAWBRIDGE_EXTRA_CA"

// gateCommand returns what starts the daemon of the home.
func (a *app) gateCommand() ([]string, error) {
	home, err := a.homeDir()
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	return []string{program, "daemon", "--home", home, "--log-level", "info"}, nil
}

func (a *app) daemonCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "daemon",
		Short: "Serve the gate for the runs of a home",
		Long: `Serve the gate for the runs of a home, and look after runs whose server has ended.
Whoever needs it starts it; it ends by itself, five minutes after the last run that
needed it. What it has to say is in daemon/daemon.log of the home.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			home, err := a.homeDir()
			if err != nil {
				return err
			}
			logger, err := a.logger()
			if err != nil {
				return err
			}
			var roots []byte
			if file := os.Getenv(extraCAVariable); file != "" {
				if roots, err = os.ReadFile(file); err != nil {
					return fmt.Errorf("read the authorities that %s names: %w", extraCAVariable, err)
				}
			}
			keyring, err := credential.ParseBackend(os.Getenv("DRAWBRIDGE_KEYRING"))
			if err != nil {
				return err
			}
			raiseOpenFiles()
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			err = daemon.Serve(ctx, daemon.Options{Home: home, Commit: buildVersion().Commit, Keyring: keyring, Roots: roots, Upstream: httpproxy.FromEnvironment().ProxyFunc(), Log: logger, Begin: a.superviseOrphans,
				RoutingPort: func(ctx context.Context) (int, error) { return manager.RoutingPort(ctx, home) }})
			if errors.Is(err, daemon.ErrRunning) {
				return nil // another one was faster
			}
			return err
		},
	}
}

// superviseOrphans has the daemon look after the runs whose server is gone, as long
// as no other one does.
func (a *app) superviseOrphans() (daemon.Companion, error) {
	m, err := a.open()
	if err != nil {
		return nil, err
	}
	return caretaker{m}, nil
}

// caretaker is a Manager as a companion of the daemon. A Manager supervises all runs
// that nobody else does.
type caretaker struct{ *manager.Manager }

// IsNeeded tells whether there are runs to look after, or ports that have to be
// listened on as soon as the server of their runs ends.
func (c caretaker) IsNeeded() bool { return c.Supervised() > 0 || c.Publishes() }

// raiseOpenFiles allows as many open files as this user may have: each connection
// takes two.
func raiseOpenFiles() {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil && limit.Cur < limit.Max {
		limit.Cur = limit.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) // with fewer it works too
	}
}
