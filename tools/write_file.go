package tools

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// maxContentBytes leaves room for the rest of a message, which is bounded, too.
const maxContentBytes = 3 << 20

func writeFileTool() definition {
	return definition{Tool{
		Name:        "write_file",
		Title:       "Write a file of a run",
		Toolset:     ToolsetFiles,
		Description: "Write a file of a run's sandbox: a new one, over an old one, or at its end. Below /workspace this works in every state, e.g. before start; elsewhere only while the run is running.",
		Annotations: Annotations{Destructive: true},
		Params: []Param{
			runParam,
			{Name: "path", Kind: Text, Required: true, Min: 1, Max: maxPathBytes, Description: "Path in the sandbox; a relative one is below /workspace."},
			{Name: "content", Kind: Text, Required: true, Max: maxContentBytes, Description: "What to write."},
			{Name: "encoding", Kind: Text, Enum: []string{encodingText, encodingBase64}, Description: "How content is to be read. Default text."},
			{Name: "mode", Kind: Text, Min: 3, Max: 4, Description: "Permissions of a new file in octal digits, e.g. \"0755\" for a program. Default \"0644\".", Mend: `write it as a string, e.g. "0644"`, check: checkMode},
			{Name: "append", Kind: Boolean, Description: "Write at the end of what is there. Default false: replace it."},
			{Name: "create_dirs", Kind: Boolean, Description: "Create directories on the way that do not exist. Default false."},
		},
		Fields: []Field{
			rowField,
			{Name: "path", Type: "string", Description: "The file's path in the sandbox."},
			{Name: "size", Type: "integer", Description: "Size of the file now, in bytes."},
		},
	}, handleWriteFile}
}

func handleWriteFile(ctx context.Context, c *call) error {
	data := []byte(c.Text("content"))
	if c.Text("encoding") == encodingBase64 {
		var err error
		if data, err = base64.StdEncoding.DecodeString(c.Text("content")); err != nil {
			return invalid(fmt.Sprintf("write_file: content is not base64: %v", err), "encode it with the standard alphabet and padding, or use encoding text")
		}
	}
	run, err := c.run(ctx)
	if err != nil {
		return err
	}
	info, err := c.runs.WriteFile(ctx, run.ID, c.Text("path"), data, manager.WriteOptions{
		Mode:       fileMode(c.Text("mode")),
		CreateDirs: c.Bool("create_dirs"),
		Append:     c.Bool("append"),
	})
	if err != nil {
		return err
	}
	c.Row("run", run)
	c.String("path", info.Path)
	c.Number("size", info.Size)
	return nil
}

func checkMode(v value) error {
	if mode, err := strconv.ParseUint(v.text, 8, 32); err != nil || mode == 0 || mode > 0o777 {
		return errors.New(`must be three octal digits, with or without a leading 0, such as "0644"`)
	}
	return nil
}

// fileMode returns the mode that checkMode has accepted, zero for none.
func fileMode(octal string) fs.FileMode {
	mode, _ := strconv.ParseUint(octal, 8, 32)
	return fs.FileMode(mode)
}
