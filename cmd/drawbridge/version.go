package main

import (
	"fmt"
	goruntime "runtime"
	"runtime/debug"
	"sync"

	"github.com/spf13/cobra"
)

// versionView is what this program was built from.
type versionView struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Date     string `json:"date,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// buildVersion returns what the build said of itself, and where it said nothing
// (go install, go build) what the Go toolchain knows, which takes a moment to read.
var buildVersion = sync.OnceValue(func() versionView {
	v := versionView{Version: version, Commit: commit, Date: date, Go: goruntime.Version(), Platform: goruntime.GOOS + "/" + goruntime.GOARCH}
	if v.Version != "" && v.Commit != "" && v.Date != "" {
		return v
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		if v.Version == "" && info.Main.Version != "" && info.Main.Version != "(devel)" {
			v.Version = info.Main.Version
		}
		for _, setting := range info.Settings {
			switch {
			case setting.Key == "vcs.revision" && v.Commit == "":
				v.Commit = setting.Value
			case setting.Key == "vcs.time" && v.Date == "":
				v.Date = setting.Value
			}
		}
	}
	if v.Version == "" {
		v.Version = "development"
	}
	return v
})

func (a *app) versionCommand() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show which build this is",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			v := buildVersion()
			if output == formatJSON {
				return a.printJSON(v)
			}
			text := "drawbridge " + v.Version
			if v.Commit != "" {
				text += " (" + v.Commit
				if v.Date != "" {
					text += ", " + v.Date
				}
				text += ")"
			}
			_, err := fmt.Fprintf(a.out, "%s %s %s\n", text, v.Go, v.Platform)
			return err
		},
	}
	outputFlag(cmd, &output)
	return cmd
}
