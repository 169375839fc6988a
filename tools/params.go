package tools

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager"
	"github.com/drawbridge-mcp/drawbridge/tools/progress"
)

// Bounds of arguments. Those of commands and environments are the manager's and
// the kernel's; they are checked here so that an agent reads about its argument.
const (
	maxRefBytes     = 128
	maxNameArgBytes = 63
	maxPathBytes    = 4096
	maxCursorBytes  = 256
	maxKeyBytes     = 256
	maxWords        = 4096
	maxCommandArg   = 128 << 10
	maxEnvEntries   = 256
	maxEnvArg       = 128 << 10
	maxInputArg     = 1 << 20
	maxPatternBytes = 1024
)

// Bounds of waiting: an answer has to come before clients lose patience. Many
// give up after 60 s, some move a call to the background after 120 s.
const (
	defaultWaitSeconds = 45
	maxWaitSeconds     = 100
)

// heartbeat is how often a client that waits for a command sees progress.
const heartbeat = 5 * time.Second

var (
	runParam = Param{Name: "run", Kind: Text, Required: true, Min: 1, Max: maxRefBytes,
		Description: "The run: its ID, a prefix of its ID (run_...), or its name."}
	keyParam = Param{Name: "idempotency_key", Kind: Text, Min: 1, Max: maxKeyBytes,
		Description: "Any string of your choice. Repeating the call with the same key does not do it twice."}
	cursorParam = Param{Name: "cursor", Kind: Text, Min: 1, Max: maxCursorBytes,
		Description: "The next_cursor of an earlier answer about this run."}
)

// commandParam is a command as an array.
func commandParam(description string, required bool) Param {
	return Param{Name: "command", Kind: TextList, Required: required, Min: 1, Max: maxCommandArg, MaxItems: maxWords,
		Description: description,
		Mend:        `write it as an array, e.g. ["sh", "-c", "make test"]`,
		check: func(v value) error {
			if v.list[0] == "" {
				return errors.New("begins with an empty string, where the program's name belongs")
			}
			return nil
		}}
}

// envParam is an environment as an object.
func envParam(description string) Param {
	return Param{Name: "env", Kind: TextMap, Max: maxEnvArg, MaxItems: maxEnvEntries,
		Description: description,
		Mend:        `write it as an object of strings, e.g. {"LANG": "C"}`,
		check: func(v value) error {
			for _, name := range sortedKeys(v.pairs) {
				if name == "" || strings.ContainsAny(name, "= \t\r\n") {
					return fmt.Errorf("has the name %s, which must not be empty or contain = or white space", echo(name))
				}
			}
			return nil
		}}
}

// maxBytesParam bounds the output in an answer.
func maxBytesParam() Param {
	return Param{Name: "max_bytes", Kind: Integer, Min: 1 << 10, Max: maxOutputBytes,
		Description: "Bound of the output in the answer, in bytes. Default 24576."}
}

// Env returns the environment argument as KEY=VALUE in a fixed order, so that a
// repeated call is recognised as the same.
func (a args) Env() []string {
	pairs := a.Pairs("env")
	var env []string
	for _, name := range sortedKeys(pairs) {
		env = append(env, name+"="+pairs[name])
	}
	return env
}

// MaxBytes returns the bound of the output.
func (a args) MaxBytes() int { return int(a.Int("max_bytes", defaultOutputBytes)) }

// run returns the run that the argument "run" names.
func (c *call) run(ctx context.Context) (*manager.Run, error) {
	return c.runs.ResolveOne(ctx, c.Text("run"))
}

// fresh returns a run as it is now.
func (c *call) fresh(ctx context.Context, id string) (*manager.Run, error) {
	return c.runs.ResolveOne(ctx, id)
}

// endOfLog returns the cursor of what a run prints from now on.
func (c *call) endOfLog(ctx context.Context, id string) (string, error) {
	page, err := c.runs.Logs(ctx, id, manager.LogQuery{Tail: 1, MaxBytes: minPageBytes})
	return page.NextCursor, err
}

// reporter returns what tells the client how far the call has come; it does
// nothing if the client does not want to know.
func (c *call) reporter(ctx context.Context) func(message string) {
	reporter, started := progress.New(ctx, *c.request), time.Now()
	return func(message string) { reporter.Report(time.Since(started).Seconds(), 0, message) }
}

// beat calls report from time to time until stop is called. Stop returns when
// the last call has.
func beat(report func(message string), message string) (stop func()) {
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(heartbeat)
		defer ticker.Stop()
		for {
			select {
			case <-ended:
				return
			case <-ticker.C:
				report(message)
			}
		}
	}()
	return func() {
		close(ended)
		<-done
	}
}
