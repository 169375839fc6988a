//go:build linux

package native

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/runtime/native/shim"
)

// maxSubordinateLines bounds how much of /etc/subuid is read.
const maxSubordinateLines = 100_000

// subordinate returns a user and a group that belong to the user of this process,
// and checks that they can be used.
func subordinate() (*shim.Subordinate, error) {
	me, err := user.Current()
	if err != nil {
		return nil, fmt.Errorf("find the name of user %d: %w; newuidmap wants one, in /etc/passwd", os.Geteuid(), err)
	}
	for _, program := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%w; install it (`apt-get install uidmap`)", err)
		}
	}
	mend := fmt.Sprintf("give it one as root (`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s`)", me.Username)
	uid, err := firstSubordinate("/etc/subuid", me)
	if err != nil {
		return nil, fmt.Errorf("find a subordinate user of %s: %w; %s", me.Username, err, mend)
	}
	gid, err := firstSubordinate("/etc/subgid", me)
	if err != nil {
		return nil, fmt.Errorf("find a subordinate group of %s: %w; %s", me.Username, err, mend)
	}
	return &shim.Subordinate{UID: uid, GID: gid}, nil
}

var errNoSubordinate = errors.New("there is none")

// firstSubordinate returns the first ID of the first range that a file gives to a
// user, by name or by number.
func firstSubordinate(path string, owner *user.User) (uint32, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for range maxSubordinateLines {
		if !lines.Scan() {
			break
		}
		fields := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(fields) != 3 || fields[0] != owner.Username && fields[0] != owner.Uid {
			continue
		}
		first, err := strconv.ParseUint(fields[1], 10, 32)
		if err != nil {
			continue
		}
		if count, err := strconv.ParseUint(fields[2], 10, 32); err == nil && first > 0 && count > 0 {
			return uint32(first), nil
		}
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	return 0, fmt.Errorf("read %s: %w", path, errNoSubordinate)
}
