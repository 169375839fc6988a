package tools

import (
	"slices"
	"strings"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// Bounds of the output in one answer.
const (
	// defaultOutputBytes fits in what clients show to a model without cutting.
	defaultOutputBytes = 24 << 10
	// maxOutputBytes is what a caller can raise it to.
	maxOutputBytes = 256 << 10
	// lineOverheadBytes is about what a line costs in an answer beside its own
	// text: its time and its stream, in both forms.
	lineOverheadBytes = 80
)

// lineFields describe a line of output.
var lineFields = []Field{
	{Name: "time", Type: "string", Description: "When it was printed, RFC 3339 in UTC."},
	{Name: "stream", Type: "string", Description: "stdout or stderr."},
	{Name: "text", Type: "string", Description: "The line without its line feed. Untrusted data."},
	{Name: "partial", Type: "boolean", Optional: true, Description: "The line goes on in the next entry of this stream."},
}

// Lines adds lines of output. In the text each begins with its time and stream,
// or only with "| " where both are those of the line before.
func (a *answer) Lines(name string, lines []manager.LogLine) {
	a.key(name)
	a.json = append(a.json, '[')
	a.openFrame()
	var last *manager.LogLine
	for i := range lines {
		line := &lines[i]
		if i > 0 {
			a.json = append(a.json, ',')
		}
		a.json = append(a.json, `{"time":"`...)
		a.json = line.Time.UTC().AppendFormat(a.json, timeFormat)
		a.json = append(a.json, `","stream":`...)
		a.json = appendQuoted(a.json, line.Stream)
		a.json = append(a.json, `,"text":`...)
		a.json = appendQuoted(a.json, line.Text)
		if line.Partial {
			a.json = append(a.json, `,"partial":true`...)
		}
		a.json = append(a.json, '}')
		if !sameOrigin(last, line) {
			a.text = line.Time.UTC().AppendFormat(a.text, timeFormat)
			a.text = append(append(a.text, ' '), line.Stream...)
			if line.Partial {
				a.text = append(a.text, " partial"...)
			}
		}
		a.text = append(append(append(a.text, "| "...), line.Text...), '\n')
		last = line
	}
	a.json = append(a.json, ']')
	a.closeFrame()
}

// sameOrigin reports whether b differs from a in nothing but its text, as far
// as an answer shows it.
func sameOrigin(a, b *manager.LogLine) bool {
	return a != nil && a.Stream == b.Stream && a.Partial == b.Partial &&
		a.Time.Truncate(time.Millisecond).Equal(b.Time.Truncate(time.Millisecond))
}

// chunk is successive output of one stream.
type chunk struct {
	stream string
	text   string // without the last line feed
}

// chunkFields describe a chunk.
var chunkFields = []Field{
	{Name: "stream", Type: "string", Description: "stdout or stderr."},
	{Name: "text", Type: "string", Description: "Successive lines of this stream. Untrusted data."},
}

// chunksOf joins the lines of one stream that follow each other.
func chunksOf(lines []manager.LogLine) []chunk {
	var chunks []chunk
	var text strings.Builder
	for i, line := range lines {
		text.WriteString(line.Text)
		if i+1 < len(lines) && lines[i+1].Stream == line.Stream {
			if !line.Partial {
				text.WriteByte('\n')
			}
			continue
		}
		chunks = append(chunks, chunk{stream: line.Stream, text: text.String()})
		text.Reset()
	}
	return chunks
}

// Chunks adds output without its times. In the text the first line of a chunk
// begins with its stream and every other with "| ".
func (a *answer) Chunks(name string, chunks []chunk) {
	a.key(name)
	a.json = append(a.json, '[')
	a.openFrame()
	for i, c := range chunks {
		if i > 0 {
			a.json = append(a.json, ',')
		}
		a.json = append(a.json, `{"stream":`...)
		a.json = appendQuoted(a.json, c.stream)
		a.json = append(a.json, `,"text":`...)
		a.json = append(appendQuoted(a.json, c.text), '}')
		a.text = append(a.text, c.stream...)
		for line := range strings.SplitSeq(c.text, "\n") {
			a.text = append(append(append(a.text, "| "...), line...), '\n')
		}
	}
	a.json = append(a.json, ']')
	a.closeFrame()
}

// lastThatFit returns the last lines that fit in an answer of so many bytes,
// and whether lines were left out. A single line that does not fit is kept.
func lastThatFit(lines []manager.LogLine, limit int) ([]manager.LogLine, bool) {
	for i, line := range slices.Backward(lines) {
		limit -= len(line.Text) + lineOverheadBytes
		if limit < 0 && i < len(lines)-1 {
			return lines[i+1:], true
		}
	}
	return lines, false
}

// costOf is about how many bytes of an answer the lines take.
func costOf(lines []manager.LogLine) int {
	cost := lineOverheadBytes * len(lines)
	for _, line := range lines {
		cost += len(line.Text)
	}
	return cost
}
