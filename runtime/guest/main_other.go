//go:build !linux

package guest

import (
	"fmt"
	"os"

	"github.com/drawbridge-mcp/drawbridge/runtime/guest/link"
)

// Main explains that a guest runs in a Linux sandbox, and returns an exit code.
func Main([]string) int {
	fmt.Fprintln(os.Stderr, "drawbridge-guest: runs inside a Linux sandbox only; build it with GOOS=linux")
	return link.CodeSetup
}
