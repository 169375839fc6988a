package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/pkg/jsonmessage"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/drawbridge-mcp/drawbridge/internal/lazyregexp"
	"github.com/drawbridge-mcp/drawbridge/runtime"
)

// Bounds on what is kept of a build's output.
const (
	lastLines    = 20       // of a step: what a person reads
	longestLine  = 1000     // bytes
	mostVertices = 1 << 10  // steps and what the builder does beside them
	mostOutput   = 64 << 20 // bytes that the engine may answer to one build
)

// buildOutput is what a build has said so far.
type buildOutput struct {
	say      func(string)
	step     string   // that printed last
	lines    []string // its last lines
	failed   string   // the step that failed, where the builder tells
	vertices map[string]*vertex
}

// vertex is what BuildKit calls a step.
type vertex struct {
	name  string
	begun bool
	rest  string // what was printed after the last end of a line
	lines []string
}

func newBuildOutput(say func(string)) *buildOutput {
	return &buildOutput{say: say, vertices: make(map[string]*vertex)}
}

// followBuild starts a build and reads what it says to its end. The request has a
// context of its own; ctx is the one whose end the caller gets to know.
func (d *Driver) followBuild(request, ctx context.Context, spec runtime.BuildSpec, options build.ImageBuildOptions, files []byte, output *buildOutput) error {
	answer, err := d.cli.ImageBuild(request, bytes.NewReader(files), options)
	if err != nil {
		return d.fail(ctx, err, "build the image %s", spec.Tag)
	}
	defer answer.Body.Close()
	limited := &io.LimitedReader{R: answer.Body, N: mostOutput}
	decoder := json.NewDecoder(limited)
	for {
		var message jsonmessage.JSONMessage
		if err := decoder.Decode(&message); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil && limited.N == 0 {
			return fmt.Errorf("build the image %s: the builder said more than %d bytes; have its steps print less", spec.Tag, mostOutput)
		} else if err != nil {
			return d.fail(ctx, err, "build the image %s: read what the builder says", spec.Tag)
		}
		if message.Error != nil {
			return output.failure(spec.Tag, message.Error.Message)
		}
		if err := output.read(&message); err != nil {
			return fmt.Errorf("build the image %s: %w", spec.Tag, err)
		}
	}
}

// read takes one message of a builder.
func (o *buildOutput) read(message *jsonmessage.JSONMessage) error {
	if message.ID == "moby.buildkit.trace" && message.Aux != nil {
		var trace []byte
		if err := json.Unmarshal(*message.Aux, &trace); err != nil {
			return fmt.Errorf("read a trace of the builder: %w", err)
		}
		return o.readTrace(trace)
	}
	return nil
}

// failure makes the error of a build that the builder has given up.
func (o *buildOutput) failure(tag, why string) error {
	step := o.failed
	if step == "" {
		step = o.step
	}
	return &runtime.BuildError{Tag: tag, Step: step, Lines: o.lines, Why: clean(why)}
}

// readTrace takes a status message of BuildKit: protobuf, of which only the names,
// the errors and the output of the steps count here.
// See api/services/control/control.proto in github.com/moby/buildkit.
func (o *buildOutput) readTrace(trace []byte) error {
	return eachField(trace, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			return o.readVertex(value)
		case 3:
			return o.readVertexLog(value)
		}
		return nil
	})
}

func (o *buildOutput) readVertex(data []byte) error {
	var digest, name, failed string
	var begun bool
	err := eachField(data, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			digest = string(value)
		case 3:
			name = string(value)
		case 5:
			begun = true
		case 7:
			failed = string(value)
		}
		return nil
	})
	if err != nil {
		return err
	}
	v := o.vertex(digest)
	if name != "" {
		v.name = clean(name)
	}
	if begun && !v.begun && v.name != "" {
		v.begun = true
		o.step, o.lines = stepOf(v.name), v.lines
		o.say(v.name)
	}
	if failed != "" && !strings.Contains(failed, context.Canceled.Error()) {
		v.flush(o)
		o.failed, o.lines = stepOf(v.name), v.lines
	}
	return nil
}

func (o *buildOutput) readVertexLog(data []byte) error {
	var digest string
	var text []byte
	err := eachField(data, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			digest = string(value)
		case 4:
			text = value
		}
		return nil
	})
	if err != nil {
		return err
	}
	v := o.vertex(digest)
	for line := range strings.Lines(v.rest + string(text)) {
		v.rest = line
		if strings.HasSuffix(line, "\n") || len(line) > longestLine {
			v.flush(o)
		}
	}
	return nil
}

// flush takes what a step has printed as a line.
func (v *vertex) flush(o *buildOutput) {
	line := clean(v.rest)
	v.rest = ""
	if line == "" {
		return
	}
	v.lines = keepLast(v.lines, line)
	o.step, o.lines = stepOf(v.name), v.lines
	o.say(line)
}

// vertex returns the vertex of a digest. A build has far fewer than are kept; more
// than that share one.
func (o *buildOutput) vertex(digest string) *vertex {
	if len(o.vertices) >= mostVertices {
		digest = ""
	}
	v := o.vertices[digest]
	if v == nil {
		v = &vertex{}
		o.vertices[digest] = v
	}
	return v
}

// stepOf takes the count away from a name such as "[2/3] RUN true", and what every
// step of ours begins with.
func stepOf(name string) string {
	name = strings.Replace(name, stepFlags+" ", "", 1)
	if _, step, found := strings.Cut(name, "] "); found && strings.HasPrefix(name, "[") {
		return step
	}
	return name
}

func keepLast(lines []string, line string) []string {
	lines = append(lines, line)
	return lines[max(0, len(lines)-lastLines):]
}

// styling is what programs print to move a cursor or change a colour.
var styling = lazyregexp.New("\x1b\\[[0-9;?]*[a-zA-Z]")

// clean makes one line for a person out of what a builder or a step printed, which
// may hold anything.
func clean(text string) string {
	text = styling.ReplaceAllString(strings.ToValidUTF8(text, "?"), "")
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\t', r == '\n', r == '\r':
			return ' '
		case unicode.IsControl(r):
			return -1
		}
		return r
	}, text)
	text = strings.TrimRight(text, " ")
	if len(text) > longestLine {
		text = strings.ToValidUTF8(text[:longestLine], "") + "..."
	}
	return text
}

// eachField calls f with each field of a protobuf message that has a length: text,
// bytes or a message.
func eachField(data []byte, f func(number protowire.Number, value []byte) error) error {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return fmt.Errorf("read a trace of the builder: %w", protowire.ParseError(n))
		}
		data = data[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, data); n < 0 {
				return fmt.Errorf("read a trace of the builder: %w", protowire.ParseError(n))
			}
			data = data[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(data)
		if n < 0 {
			return fmt.Errorf("read a trace of the builder: %w", protowire.ParseError(n))
		}
		data = data[n:]
		if err := f(number, value); err != nil {
			return err
		}
	}
	return nil
}
