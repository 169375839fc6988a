package guest

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// A process takes its limits from the one that starts it, and cannot raise those
// that it has given itself. The guest needs its own: so what it starts is this
// program again, which takes the limits and becomes the command.

// resources are the limits that the guest sets. That of data is the last to be set,
// because this program may need memory until then.
var resources = []struct {
	name string
	what int
}{
	{"core", unix.RLIMIT_CORE}, {"cpu", unix.RLIMIT_CPU}, {"fsize", unix.RLIMIT_FSIZE}, {"nofile", unix.RLIMIT_NOFILE},
	{"nproc", unix.RLIMIT_NPROC}, {"stack", unix.RLIMIT_STACK}, {"data", unix.RLIMIT_DATA},
}

// limited returns a program that takes limits and becomes prog.
func (prog program) limited(limits string) program {
	if limits == "" {
		return prog
	}
	self := os.Args[0] // absolute, as every driver starts it
	prog.argv = append([]string{self, "limit", "--limits", limits, "--", prog.path}, prog.argv...)
	prog.path = self
	return prog
}

// limitMain takes limits and becomes a command: its path, and its arguments from
// the name on.
func limitMain(limits string, command []string) int {
	if len(command) < 2 {
		return complain(errors.New(usage))
	}
	if err := setLimits(limits); err != nil {
		return complain(err)
	}
	if err := startError(command[1], syscall.Exec(command[0], command[1:], os.Environ())); err != nil {
		complain(err)
		if known, ok := errors.AsType[*link.CommandError](err); ok {
			return known.Code
		}
	}
	return link.CodeSetup
}

// setLimits sets the limits of this process.
func setLimits(text string) error {
	values := make(map[string]string)
	for entry := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(entry, "=")
		values[name] = value
	}
	for _, r := range resources {
		value, ok := values[r.name]
		if !ok {
			continue
		}
		delete(values, r.name)
		soft, hard, _ := strings.Cut(value, ":")
		s, err1 := strconv.ParseInt(soft, 10, 64)
		h, err2 := strconv.ParseInt(hard, 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return fmt.Errorf("read the limit %s: %w", r.name, err)
		}
		// -1 is the greatest number of all, which stands for none.
		if err := syscall.Setrlimit(r.what, &syscall.Rlimit{Cur: uint64(s), Max: uint64(h)}); err != nil {
			return fmt.Errorf("set the limit %s to %s: %w; the sandbox may have less than that", r.name, value, err)
		}
	}
	for name := range values {
		return fmt.Errorf("there is no limit %q here", name)
	}
	return nil
}
