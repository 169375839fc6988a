package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/drawbridge-mcp/drawbridge/internal/logring"
	"github.com/drawbridge-mcp/drawbridge/internal/terminal"
)

// maxLineText bounds the text of one line where output is shown line by line;
// longer lines come in pieces.
const maxLineText = 1 << 20

// logSink writes records of a log where they belong: the run's standard output to
// ours, its standard error to ours.
type logSink struct {
	app      *app
	view     logView
	out, err io.Writer
	lines    *logring.Lines // set where lines are shown rather than bytes
	inLine   [3]bool        // by stream: the line last written has not ended
}

func (a *app) newLogSink(view logView) *logSink {
	s := &logSink{app: a, view: view, out: a.out, err: a.err}
	if view.json {
		// One stream of JSON, whatever stream a line came from.
		s.err = a.out
	} else if !view.raw {
		s.out, s.err = forPerson(a.out), forPerson(a.err)
	}
	if view.json || view.timestamps {
		s.lines = logring.NewLines(maxLineText)
	}
	return s
}

// forPerson filters what goes to a terminal.
func forPerson(w io.Writer) io.Writer {
	if f, ok := w.(*os.File); ok && terminal.Is(f) {
		return terminal.NewFilter(f)
	}
	return w
}

func (s *logSink) of(stream logring.Stream) io.Writer {
	if stream == logring.Stderr {
		return s.err
	}
	return s.out
}

func (s *logSink) write(recs []logring.Record) error {
	for _, rec := range recs {
		if s.view.only != 0 && rec.Stream != s.view.only {
			continue
		}
		if s.lines != nil {
			if err := s.writeLines(s.lines.Add(rec)); err != nil {
				return err
			}
			continue
		}
		if _, err := s.of(rec.Stream).Write(rec.Data); err != nil {
			return fmt.Errorf("write the log: %w", err)
		}
	}
	return nil
}

// finish writes the line that was not finished when the log ended.
func (s *logSink) finish() error {
	if s.lines == nil {
		return nil
	}
	return s.writeLines(s.lines.Flush())
}

func (s *logSink) writeLines(lines []logring.Line) error {
	for _, l := range lines {
		var text []byte
		if s.view.json {
			var err error
			if text, err = encodeLine(l); err != nil {
				return fmt.Errorf("encode a line of the log: %w", err)
			}
		} else {
			if !s.inLine[l.Stream%3] {
				text = append(l.Time.Local().AppendFormat(nil, time.RFC3339Nano), ' ')
			}
			text = append(text, l.Text...)
			if !l.Partial {
				text = append(text, '\n')
			}
			s.inLine[l.Stream%3] = l.Partial
		}
		if _, err := s.of(l.Stream).Write(text); err != nil {
			return fmt.Errorf("write the log: %w", err)
		}
	}
	return nil
}

// lost tells that part of the log is gone.
func (s *logSink) lost(n int64) {
	s.app.say("drawbridge: %s of older output are gone: the log of a run is bounded", bytesText(n))
}
