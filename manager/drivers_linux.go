package manager

import (
	"path/filepath"

	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/native"
)

// systemOpeners are the drivers that only this system has.
func systemOpeners(opts ManagerOptions) []opener {
	return []opener{{runtime.TypeNative, func(sandbox *bool) (runtime.Runtime, error) {
		return native.New(native.Options{
			StateDir:   filepath.Join(opts.Home, "native"),
			Sandbox:    sandbox,
			ProgramDir: opts.GuestDir,
			Tools:      opts.NativePaths,
			Logger:     opts.Logger,
			Waiting:    opts.WaitingSandboxes,
		})
	}}}
}
