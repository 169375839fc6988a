package guest

import (
	"os"
	"strconv"
	"strings"
)

// memoryFiles say how many processes of the sandbox the kernel has killed for want
// of memory, in either version of control groups.
var memoryFiles = []string{"/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"}

// memoryKills tells whether there was such a kill. An engine may hear of it too
// late: the control group goes with the sandbox, a moment after the command.
func memoryKills() bool {
	for _, path := range memoryFiles {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the other version, or a sandbox that does not see it
		}
		for line := range strings.Lines(string(text)) {
			if count, ok := strings.CutPrefix(line, "oom_kill "); ok {
				kills, err := strconv.Atoi(strings.TrimSpace(count))
				return err == nil && kills > 0
			}
		}
	}
	return false
}
