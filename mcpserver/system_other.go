//go:build !unix

package mcpserver

import "io"

// hungUp cannot tell here; the bound of the drain applies.
func hungUp(io.Writer) bool { return false }

// openNonblock has no meaning here.
const openNonblock = 0
