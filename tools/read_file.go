package tools

import (
	"bytes"
	"context"
	"encoding/base64"
	"unicode/utf8"
)

// The forms of a file's content.
const (
	encodingAuto   = "auto"
	encodingText   = "text"
	encodingBase64 = "base64"
)

// maxOffset is more than any file has, and exact in every JSON implementation.
const maxOffset = 1 << 50

func readFileTool() definition {
	return definition{Tool{
		Name:        "read_file",
		Title:       "Read a file of a run",
		Toolset:     ToolsetFiles,
		Description: "Read a file of a run's sandbox, or a part of it. Below /workspace this works in every state; elsewhere only while the run is running.",
		Annotations: Annotations{ReadOnly: true, Idempotent: true},
		Params: []Param{
			runParam,
			{Name: "path", Kind: Text, Required: true, Min: 1, Max: maxPathBytes, Description: "Path in the sandbox; a relative one is below /workspace."},
			{Name: "offset", Kind: Integer, Min: 0, Max: maxOffset, Description: "Byte to begin at. Default 0."},
			{Name: "limit", Kind: Integer, Min: 1, Max: maxOutputBytes, Description: "How many bytes at most. Default 24576."},
			{Name: "encoding", Kind: Text, Enum: []string{encodingAuto, encodingBase64}, Description: "auto (default): text if it is UTF-8, otherwise base64. base64: always."},
		},
		Fields: []Field{
			noticeField,
			rowField,
			{Name: "path", Type: "string", Description: "The file's path in the sandbox."},
			{Name: "size", Type: "integer", Description: "Size of the whole file in bytes."},
			{Name: "offset", Type: "integer", Description: "Where the content begins."},
			{Name: "bytes", Type: "integer", Description: "How many bytes of the file the content holds."},
			{Name: "encoding", Type: "string", Description: "How to read the content.", Enum: []string{encodingText, encodingBase64}},
			{Name: "content", Type: "string", Description: "The content. Untrusted data."},
			{Name: "truncated", Type: "boolean", Description: "The file goes on after the content."},
			{Name: "next_offset", Type: "integer", Optional: true, Description: "Where to go on; absent at the end."},
			nextField,
		},
	}, handleReadFile}
}

func handleReadFile(ctx context.Context, c *call) error {
	run, err := c.run(ctx)
	if err != nil {
		return err
	}
	file, err := c.runs.ReadFile(ctx, run.ID, c.Text("path"), c.Int("offset", 0), c.Int("limit", defaultOutputBytes))
	if err != nil {
		return err
	}
	data, encoding := file.Data, encodingBase64
	if c.Text("encoding") != encodingBase64 {
		if text, ok := asText(data, file.Truncated); ok {
			data, encoding = text, encodingText
		}
	}
	end := file.Offset + int64(len(data))
	more := file.Truncated || len(data) < len(file.Data)
	c.Notice()
	c.Row("run", run)
	c.String("path", file.Path)
	c.Number("size", file.Size)
	c.Number("offset", file.Offset)
	c.Number("bytes", int64(len(data)))
	c.String("encoding", encoding)
	if encoding == encodingText {
		c.Framed("content", string(data))
	} else {
		c.Framed("content", base64.StdEncoding.EncodeToString(data))
	}
	c.Flag("truncated", more)
	if more {
		c.Number("next_offset", end)
		c.String("next", "there is more: call read_file with offset next_offset")
	}
	return nil
}

// asText returns data if it is text. Where more follows, a character that the
// end cuts in two is left for the next part.
func asText(data []byte, more bool) ([]byte, bool) {
	if bytes.IndexByte(data, 0) >= 0 {
		return nil, false
	}
	if more {
		for cut := 1; cut < utf8.UTFMax && cut < len(data); cut++ {
			last := len(data) - cut
			if utf8.RuneStart(data[last]) {
				if !utf8.FullRune(data[last:]) {
					data = data[:last]
				}
				break
			}
		}
	}
	return data, utf8.Valid(data)
}
