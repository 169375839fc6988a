package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// errTerminalGone says that the person can no longer answer.
var errTerminalGone = errors.New("ask for the credential: the terminal has been closed")

// Keys that edit what is typed without being shown.
const (
	keyInterrupt = 0x03 // Ctrl-C
	keyEnd       = 0x04 // Ctrl-D
	keyBackspace = 0x08
	keyClear     = 0x15 // Ctrl-U
	keyDelete    = 0x7f
)

func isYes(answer string) bool {
	answer = strings.ToLower(answer)
	return answer == "y" || answer == "yes"
}

// input returns standard input in a form that can be given up, which it is when
// ctx ends. The caller calls the function at its end.
func (a *app) input(ctx context.Context) (io.Reader, func(), error) {
	in, err := terminal.NewInput(a.in)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { in.Close() })
	return in, func() { stop(); in.Close() }, nil
}

// askLine asks for a line on the terminal, which shows it.
func (a *app) askLine(ctx context.Context, question string) (string, error) {
	in, closeInput, err := a.input(ctx)
	if err != nil {
		return "", err
	}
	defer closeInput()
	fmt.Fprint(a.err, question)
	line, err := bufio.NewReader(in).ReadString('\n')
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		return "", errTerminalGone
	}
	return strings.TrimSpace(line), nil
}

// askSecret asks for a line on the terminal, which does not show it. The terminal
// is in raw mode meanwhile: its own lines end at 4,095 bytes or less, and what is
// pasted would be cut without a word.
func (a *app) askSecret(ctx context.Context, question string) (_ string, err error) {
	in, closeInput, err := a.input(ctx)
	if err != nil {
		return "", err
	}
	defer closeInput()
	raw, err := terminal.MakeRaw(a.in)
	if err != nil {
		return "", err
	}
	defer func() {
		if restoring := raw.Restore(); restoring != nil && err == nil {
			err = restoring
		}
		fmt.Fprintln(a.err)
	}()
	fmt.Fprint(a.err, question)
	value, err := readHidden(in)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	return strings.TrimSpace(value), err
}

// readHidden reads what is typed up to the end of the line.
func readHidden(in io.Reader) (string, error) {
	var line, chunk []byte
	chunk = make([]byte, 4096)
	for {
		n, err := in.Read(chunk)
		for _, c := range chunk[:n] {
			switch c {
			case '\r', '\n':
				return string(line), nil
			case keyInterrupt:
				return "", context.Canceled
			case keyEnd:
				if len(line) == 0 {
					return "", errTerminalGone
				}
			case keyBackspace, keyDelete:
				line = line[:max(0, len(line)-1)]
			case keyClear:
				line = line[:0]
			default:
				line = append(line, c)
			}
		}
		if err != nil {
			return "", errTerminalGone
		}
		if len(line) > credential.MaxPlaintext {
			return "", tooLong("what was typed")
		}
	}
}

// readInput reads all of standard input, without the white space around it.
func (a *app) readInput(ctx context.Context) (string, error) {
	in, closeInput, err := a.input(ctx)
	if err != nil {
		return "", err
	}
	defer closeInput()
	data, err := io.ReadAll(io.LimitReader(in, credential.MaxPlaintext+1))
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		return "", fmt.Errorf("read the credential: %w", err)
	case len(data) > credential.MaxPlaintext:
		return "", tooLong("standard input")
	}
	text := strings.TrimSpace(string(data))
	if text == "" {
		return "", mended("pipe the credential in, use --from env or login, or run it in a terminal to be asked", errors.New("read the credential: standard input is empty"))
	}
	return text, nil
}

func tooLong(what string) error {
	return mended("give the credential alone", fmt.Errorf("read the credential: %s has more than %d bytes", what, credential.MaxPlaintext))
}
