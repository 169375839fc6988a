package guest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// stepProxy is where the commands of a build's step find the gate.
var stepProxy = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), forwardPort)

// stepMain runs one step of a build: a command, which has a way out to the gate
// behind a socket. It is PID 1 of the step, and ends with its command.
func stepMain(socket string, command []string) int {
	if socket == "" || len(command) == 0 {
		return complain(errors.New(usage))
	}
	closeOnExec()
	f, err := newForwarder(stepProxy, hop{socket: socket}, "")
	if err != nil {
		return complain(fmt.Errorf("step: %w", err))
	}
	go f.serve()
	code, err := runStep(command, slices.Concat(os.Environ(), stepEnv()))
	if err != nil {
		return complain(fmt.Errorf("step: %w", err))
	}
	return code
}

// stepEnv points programs at the gate. Nothing of it gets into the image.
func stepEnv() []string {
	var env []string
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		value := "http://" + stepProxy.String()
		env = append(env, name+"="+value, strings.ToLower(name)+"="+value)
	}
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		env = append(env, name+"=localhost,127.0.0.1,::1")
	}
	return append(env, "NODE_USE_ENV_PROXY=1", "GIT_TERMINAL_PROMPT=0")
}

// runStep runs a command to its end, reaps what becomes an orphan on the way, and
// returns what a shell would have as its exit code.
func runStep(command, env []string) (int, error) {
	process, err := startFound(command, env)
	if err != nil {
		return 0, err
	}
	return reapUntil(process.Pid)
}

// startFound starts a command, which is looked up in PATH, with the descriptors of this
// program.
func startFound(command, env []string) (*os.Process, error) {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return nil, err
	}
	return os.StartProcess(path, command, &os.ProcAttr{Env: env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
}

// reapUntil reaps children until one has ended, and returns what a shell would have as
// the exit code of that.
func reapUntil(child int) (int, error) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR), err == nil && pid != child:
		case err != nil:
			return 0, fmt.Errorf("wait for the command: %w", err)
		case status.Signaled():
			return 128 + int(status.Signal()), nil
		default:
			return status.ExitStatus(), nil
		}
	}
}
