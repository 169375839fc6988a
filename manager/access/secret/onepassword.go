package secret

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"time"
)

const (
	opWait     = time.Second // for the output of what a killed op has left behind
	maxMessage = 300         // bytes of what op says
)

// fromOnePassword has the CLI of 1Password read a secret. It signs in as it is set up to:
// with its app, or the token of a service account in this process's environment.
func fromOnePassword(ctx context.Context, ref Reference) (string, error) {
	path, err := exec.LookPath("op")
	if err != nil {
		return "", failure("install the CLI of 1Password, and have it in the PATH of drawbridge", "there is no program op")
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	out, said := &bounded{limit: MaxBytes, full: stop}, &bounded{limit: 4 << 10, full: stop}
	cmd := exec.CommandContext(running, path, "read", "--no-newline", ref.String())
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = out, said, opWait
	err = cmd.Run()
	switch {
	case out.isFull:
		return "", failure("put it into a file", "it has more than %d bytes", MaxBytes)
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		return "", failure("try `op read` with it in a terminal", "1Password does not give it: %s", saying(said, err))
	}
	return out.text.String(), nil
}

// saying returns the first line that op wrote about its failure.
func saying(said *bounded, err error) string {
	line, _, _ := strings.Cut(strings.TrimSpace(said.text.String()), "\n")
	if line == "" {
		line = err.Error()
	}
	line = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, line)
	return line[:min(len(line), maxMessage)]
}

// bounded keeps a bounded number of bytes, and on more calls full, and fails.
type bounded struct {
	text   strings.Builder // not embedded: nobody is to get past Write
	limit  int
	full   func()
	isFull bool
}

var errFull = errors.New("there is more than is taken")

func (b *bounded) Write(p []byte) (int, error) {
	if b.text.Len()+len(p) > b.limit {
		b.isFull = true
		b.full()
		return 0, errFull
	}
	return b.text.Write(p)
}
