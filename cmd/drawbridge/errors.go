package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/drawbridge-mcp/drawbridge/internal/spelling"
	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
	"github.com/drawbridge-mcp/drawbridge/manager"
)

// Exit codes of the command itself.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	// exitTimeout is what timeout(1) uses: drawbridge wait --timeout passed and
	// the run goes on.
	exitTimeout = 124
)

// exitCode is an error that only sets the exit code: what there was to say has
// been said.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usageError says that the command line is wrong.
type usageError struct{ message, next string }

func (e *usageError) Error() string { return e.message + "; " + e.next }

func usagef(next, format string, args ...any) error {
	return &usageError{message: fmt.Sprintf(format, args...), next: next}
}

// report shows err to the person, one line and the next step, and returns the exit
// code.
func (a *app) report(err error) int {
	var code exitCode
	var usage *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage):
		a.complain(usage.message, usage.next)
		return exitUsage
	case errors.Is(err, context.Canceled):
		a.complain("interrupted", "")
		return exitFailed
	}
	known := manager.AsError(err)
	message := known.Message
	if known.Err != nil {
		message += ": " + known.Err.Error()
	}
	a.complain(message, known.Next)
	return exitFailed
}

func (a *app) complain(message, next string) {
	fmt.Fprintln(a.err, "drawbridge: "+oneLine(message))
	if next != "" {
		fmt.Fprintln(a.err, "  next: "+oneLine(next))
	}
}

// oneLine keeps a message on its line, whatever it quotes.
func oneLine(s string) string {
	return terminal.Line(strings.Join(strings.Fields(s), " "))
}

// unknownCommand refuses arguments of a command that has subcommands: they are
// misspelled ones.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	next := "`" + cmd.CommandPath() + " --help` lists the commands"
	if near := nearest(args[0], names); near != "" {
		next = "did you mean `" + cmd.CommandPath() + " " + near + "`?"
	}
	return usagef(next, "unknown command %q", args[0])
}

// flagError makes a usage error of what is wrong with a flag, with the nearest
// flag that exists.
func flagError(cmd *cobra.Command, err error) error {
	next := "see `" + cmd.CommandPath() + " --help`"
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near := nearest(unknown.GetSpecifiedName(), names); near != "" {
			next = "did you mean --" + near + "?"
		}
		return usagef(next, "unknown flag %s for %s", dashed(unknown), cmd.CommandPath())
	}
	return usagef(next, "%s: %v", cmd.CommandPath(), err)
}

func dashed(unknown *pflag.NotExistError) string {
	if short := unknown.GetSpecifiedShortnames(); short != "" {
		return fmt.Sprintf("-%s in -%s", unknown.GetSpecifiedName(), short)
	}
	return "--" + unknown.GetSpecifiedName()
}

// nearest returns the name that word most probably stands for, or nothing.
func nearest(word string, names []string) string {
	best, distance := "", max(1, len(word)/3)+1
	for _, name := range names {
		d := spelling.Distance(word, name)
		if len(word) >= 3 && strings.HasPrefix(name, word) {
			d = 0
		}
		if d < distance {
			best, distance = name, d
		}
	}
	return best
}
