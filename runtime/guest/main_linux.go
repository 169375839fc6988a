package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// Version is set when a release is built.
var Version = "dev"

// Settings of the Go runtime for a program that shares the sandbox's limits with
// the command.
const (
	threads      = 2        // one copies output, one does the rest
	memoryTarget = 10 << 20 // bytes; the collector works harder above it
	gcPercent    = 50
)

const usage = `usage: drawbridge-guest run --socket PATH [--stage DIR --places NAME:TARGET,...]
       drawbridge-guest run --frames --start START
       drawbridge-guest exec [--timeout DURATION] [--limits LIMITS] --id ID -- COMMAND...
       drawbridge-guest limit --limits LIMITS -- PROGRAM COMMAND...
       drawbridge-guest kill --id ID
       drawbridge-guest read --offset N --limit N -- FILE
       drawbridge-guest write --mode MODE [--parents] [--append] -- FILE
       drawbridge-guest connect HOST PORT
       drawbridge-guest relay --listen ADDRESS:PORT --socket PATH
       drawbridge-guest step --socket PATH -- COMMAND...
       drawbridge-guest nest --listen ADDRESS:PORT --socket PATH [--gate PATH] -- ENGINE...
       drawbridge-guest nested [--gate PATH] -- ENGINE...
       drawbridge-guest ping --socket PATH | --port PORT
       drawbridge-guest version`

// Main runs the program with the arguments after its name and returns its exit
// code.
func Main(args []string) int {
	runtime.GOMAXPROCS(threads)
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryTarget)
	if len(args) == 0 {
		return complain(errors.New(usage))
	}
	if args[0] == "connect" {
		return connectMain(args[1:])
	}
	options, command, err := parseOptions(args[1:])
	if err != nil {
		return complain(err)
	}
	switch args[0] {
	case "run":
		return runMain(options)
	case "exec":
		return execMain(options, command)
	case "limit":
		return limitMain(options["limits"], command)
	case "relay":
		return relayMain(options)
	case "step":
		return stepMain(options["socket"], command)
	case "nest":
		return nestMain(options, command)
	case "nested":
		return nestedMain(options, command)
	case "ping":
		return pingMain(options)
	case "kill":
		return killMain(options["id"])
	case "read":
		return fileMain(readMain, options, command)
	case "write":
		return fileMain(writeMain, options, command)
	case "version":
		fmt.Println(Version)
		return 0
	}
	return complain(errors.New(usage))
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, "drawbridge-guest:", err)
	return link.CodeSetup
}

// The options of all commands: switches, and those that have a value.
const (
	switches = " frames parents append "
	valued   = " port socket stage places listen gate start timeout limits id offset limit mode "
)

// parseOptions splits "--name value" pairs from the command after "--".
func parseOptions(args []string) (options map[string]string, command []string, err error) {
	options = map[string]string{}
	for len(args) > 0 {
		name, isOption := strings.CutPrefix(args[0], "--")
		args = args[1:]
		switch {
		case isOption && name == "":
			return options, args, nil
		case isOption && strings.Contains(switches, " "+name+" "):
			options[name] = "true"
			continue
		case !isOption || len(args) == 0 || !strings.Contains(valued, " "+name+" "):
			return nil, nil, errors.New(usage)
		}
		options[name] = args[0]
		args = args[1:]
	}
	return options, nil, nil
}

// runMain is PID 1.
func runMain(options map[string]string) int {
	if os.Getpid() != 1 {
		// It would signal every process of its user on this machine.
		return complain(errors.New("run: is not PID 1 of a sandbox"))
	}
	if err := harden(); err != nil {
		return complain(err)
	}
	procs := newProcesses()
	if options["frames"] != "" {
		return runFrames(procs, options["start"])
	}
	if options["stage"] != "" {
		return runStaged(procs, options)
	}
	ctx, cancel := context.WithTimeout(context.Background(), link.HandOverWait)
	defer cancel()
	meeting, start, files, err := link.Meet(ctx, options["socket"])
	if err != nil {
		return complain(fmt.Errorf("run: no orders within %v: %w", link.HandOverWait, err))
	}
	return runDirect(procs, meeting, start, files)
}

// harden protects the guest from the command, which has the same user.
func harden() error {
	// Without this the command could open /proc/1/fd/* and write the log.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("become non-dumpable: %w", err)
	}
	// Children inherit it: a core file would be written into the workspace.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("limit core files: %w", err)
	}
	closeOnExec()
	return nil
}

// closeOnExec keeps descriptors that the engine left open from the command.
func closeOnExec() {
	if unix.CloseRange(3, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	// Linux before 5.11, or a seccomp filter that does not know the call.
	for fd := 3; fd < 1024; fd++ {
		unix.CloseOnExec(fd)
	}
}

// waitTimeout waits for done and reports whether it came in time.
func waitTimeout(done <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}
