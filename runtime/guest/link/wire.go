package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// encoder builds a message: numbers are varints, strings carry their length.
type encoder []byte

func (e *encoder) number(v uint64) { *e = binary.AppendUvarint(*e, v) }
func (e *encoder) flag(v bool) {
	if v {
		e.number(1)
	} else {
		e.number(0)
	}
}
func (e *encoder) text(s string) { e.number(uint64(len(s))); *e = append(*e, s...) }
func (e *encoder) list(l []string) {
	e.number(uint64(len(l)))
	for _, s := range l {
		e.text(s)
	}
}

// decoder takes a message apart; the first mismatch sets bad.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) number(limit uint64) uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > limit || d.bad {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) flag() bool { return d.number(1) == 1 }

// length reads the number of bytes or elements that follow. Every element takes
// a byte at least, which bounds what is allocated for them.
func (d *decoder) length() uint64 {
	n := d.number(MaxStart)
	if n > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return 0
	}
	return n
}

func (d *decoder) text() string {
	n := d.length()
	s := string(d.rest[:n])
	d.rest = d.rest[n:]
	return s
}

func (d *decoder) list() []string {
	n := d.length()
	if n == 0 {
		return nil
	}
	l := make([]string, n)
	for i := range l {
		l[i] = d.text()
	}
	return l
}

func (d *decoder) duration() time.Duration { return time.Duration(d.number(1<<63 - 1)) }
func (d *decoder) uint16() uint16          { return uint16(d.number(1<<16 - 1)) }

func (d *decoder) err(what string) error {
	if d.bad || len(d.rest) > 0 {
		return fmt.Errorf("decode %s: %w", what, ErrProtocol)
	}
	return nil
}

func (s Start) encode() []byte {
	var e encoder
	e.list(s.Command)
	e.list(s.Env)
	e.text(s.Dir)
	e.flag(s.TTY)
	e.number(uint64(s.Rows))
	e.number(uint64(s.Cols))
	e.flag(s.Interactive)
	e.flag(s.WaitAttach)
	e.number(uint64(max(s.Timeout, 0)))
	e.number(uint64(max(s.Grace, 0)))
	e.number(uint64(max(s.LogLimit, 0)))
	e.flag(s.Kept)
	e.text(s.Gate)
	e.text(s.GateToken)
	e.text(s.GateRelay)
	e.text(s.GateAgent)
	e.list(s.Secrets)
	e.text(s.Limits)
	return e
}

// decodeStart decodes the payload of KindStart.
func decodeStart(b []byte) (Start, error) {
	d := decoder{rest: b}
	s := Start{
		Command: d.list(), Env: d.list(), Dir: d.text(),
		TTY: d.flag(), Rows: d.uint16(), Cols: d.uint16(),
		Interactive: d.flag(), WaitAttach: d.flag(),
		Timeout: d.duration(), Grace: d.duration(), LogLimit: int64(d.number(1<<63 - 1)),
		Kept: d.flag(), Gate: d.text(), GateToken: d.text(), GateRelay: d.text(), GateAgent: d.text(), Secrets: d.list(), Limits: d.text(),
	}
	return s, d.err("start")
}

func (r ExecRequest) encode() []byte {
	var e encoder
	e.list(r.Command)
	e.list(r.Env)
	e.text(r.Dir)
	e.number(uint64(max(r.Timeout, 0)))
	e.flag(r.TTY)
	e.number(uint64(r.Rows))
	e.number(uint64(r.Cols))
	return e
}

// DecodeExec decodes the payload of KindExec.
func DecodeExec(b []byte) (ExecRequest, error) {
	d := decoder{rest: b}
	r := ExecRequest{
		Command: d.list(), Env: d.list(), Dir: d.text(), Timeout: d.duration(),
		TTY: d.flag(), Rows: d.uint16(), Cols: d.uint16(),
	}
	return r, d.err("exec request")
}

// Encode encodes the payload of KindExit for an exec.
func (r ExecResult) Encode() []byte {
	var e encoder
	e.number(uint64(r.Code))
	e.number(uint64(r.Signal))
	e.flag(r.TimedOut)
	return e
}

func decodeExecResult(b []byte) (ExecResult, error) {
	d := decoder{rest: b}
	r := ExecResult{Code: int(d.number(255)), Signal: int(d.number(127)), TimedOut: d.flag()}
	return r, d.err("exec result")
}

func (o AttachOptions) encode() []byte {
	var e encoder
	e.flag(o.Stdin)
	e.flag(o.Output)
	e.number(uint64(o.Rows))
	e.number(uint64(o.Cols))
	return e
}

// DecodeAttach decodes the payload of KindAttach.
func DecodeAttach(b []byte) (AttachOptions, error) {
	d := decoder{rest: b}
	o := AttachOptions{Stdin: d.flag(), Output: d.flag(), Rows: d.uint16(), Cols: d.uint16()}
	return o, d.err("attach options")
}

// Encode encodes the payload of KindResize.
func (s Size) Encode() []byte {
	var e encoder
	e.number(uint64(s.Rows))
	e.number(uint64(s.Cols))
	return e
}

// DecodeSize decodes the payload of KindResize.
func DecodeSize(b []byte) (Size, error) {
	d := decoder{rest: b}
	s := Size{Rows: d.uint16(), Cols: d.uint16()}
	return s, d.err("size")
}

// EncodeNumber encodes the payload of the kinds that carry a number.
func EncodeNumber(v uint64) []byte { return binary.AppendUvarint(nil, v) }

// DecodeNumber is the inverse of EncodeNumber. A number greater than limit is an
// error.
func DecodeNumber(b []byte, limit uint64) (uint64, error) {
	d := decoder{rest: b}
	v := d.number(limit)
	return v, d.err("number")
}

// Encode encodes the payload of KindExit for an attached client.
func (x Exit) Encode() []byte {
	var e encoder
	e.number(uint64(x.Code))
	e.number(uint64(x.Signal))
	e.text(x.Reason)
	e.text(cleanMessage(x.Message))
	e.number(uint64(x.At.UnixNano()))
	return e
}

func decodeExit(b []byte) (Exit, error) {
	d := decoder{rest: b}
	x := Exit{Code: int(d.number(255)), Signal: int(d.number(127)), Reason: d.text(), Message: cleanMessage(d.text()),
		At: time.Unix(0, int64(d.number(1<<63-1)))}
	if !x.valid() {
		d.bad = true
	}
	return x, d.err("exit")
}

// valid tells whether x is something that a guest may say.
func (x Exit) valid() bool {
	reasons := []string{ReasonExited, ReasonDeadline, ReasonSetupFailed, ReasonLost}
	return slices.Contains(reasons, x.Reason) && 0 <= x.Code && x.Code <= 255 && 0 <= x.Signal && x.Signal <= 127
}

// errorCodes are the errors that keep their identity across the connection.
var errorCodes = []error{1: ErrNoStdin, 2: ErrStdinClosed, 3: ErrNoTerminal, 4: ErrEnded, 5: ErrProtocol, 6: ErrPortRefused}

// EncodeError encodes the payload of KindError.
func EncodeError(err error) []byte {
	var e encoder
	if command, ok := errors.AsType[*CommandError](err); ok {
		e.number(uint64(command.Code))
		e.text(cleanMessage(command.Message))
		return e
	}
	code := 0
	for i, known := range errorCodes {
		if known != nil && errors.Is(err, known) {
			code = i
		}
	}
	e.number(uint64(code))
	e.text(cleanMessage(err.Error()))
	return e
}

// decodeError returns the error that a guest reports.
func decodeError(b []byte) error {
	d := decoder{rest: b}
	code, message := int(d.number(255)), cleanMessage(d.text())
	if err := d.err("error"); err != nil {
		return err
	}
	switch {
	case code >= CodeSetup:
		return &CommandError{Code: code, Message: message}
	case code > 0 && code < len(errorCodes):
		return errorCodes[code]
	}
	return errors.New(message)
}

// cleanMessage makes s safe to show: valid, printable, bounded. A guest may be
// compromised, and its messages reach a terminal.
func cleanMessage(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s[:min(len(s), MaxMessage)])
	for len(s) > MaxMessage {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}
