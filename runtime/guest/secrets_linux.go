package guest

import (
	"errors"
	"runtime/debug"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/internal/mask"
	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// Secrets
//
// What commands print is masked here, before it is written down or sent to anybody. Output
// is held back as long as it ends with what a secret begins with: how long that may take
// is up to the command, and what is left at its end goes out as it is.

// newMasker returns what finds the values of secrets; nil where there are none. Its memory
// is not that of the rest of the program.
func newMasker(secrets []string) *mask.Masker {
	var forms []string
	for _, entry := range secrets {
		_, value, _ := strings.Cut(entry, "=")
		forms = append(forms, mask.Values(value)...)
	}
	m := mask.New(forms)
	debug.SetMemoryLimit(memoryTarget + int64(2*m.Size()))
	return m
}

// hide takes secrets out of the message of an error for the host.
func hide(secrets *mask.Masker, err error) error {
	if err == nil || secrets.Text(err.Error()) == err.Error() {
		return err
	}
	if command, ok := errors.AsType[*link.CommandError](err); ok {
		return &link.CommandError{Code: command.Code, Message: secrets.Text(command.Message)}
	}
	return errors.New(secrets.Text(err.Error()))
}

// outlet passes on what a command prints, without secrets.
type outlet struct {
	send    func([]byte) error
	secrets *mask.Masker // nil where there are none
	state   int32
	held    []byte // the end of what was written, which may go on as a secret
}

// write passes on what is known to be none of a secret.
func (o *outlet) write(p []byte) error {
	if o.secrets == nil {
		return o.send(p)
	}
	before := len(o.held)
	o.held = append(o.held, p...)
	o.state, _ = o.secrets.Scan(o.held, before, o.state)
	done := len(o.held) - o.secrets.Hold(o.state)
	err := o.sendAll(o.held[:done])
	o.held = o.held[:copy(o.held, o.held[done:])]
	return err
}

// close passes on what was held back.
func (o *outlet) close() error {
	held := o.held
	o.held, o.state = nil, 0
	return o.sendAll(held)
}

// sendAll sends pieces that fit into a message.
func (o *outlet) sendAll(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), link.MaxChunk)
		if err := o.send(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}
