package credential

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/godbus/dbus/v5"
)

// mayHaveKeyring reports whether there is a session bus, on which the Secret
// Service would be. Without this look, the client would start a bus of its own.
func mayHaveKeyring() bool {
	if address := os.Getenv("DBUS_SESSION_BUS_ADDRESS"); address != "" && address != "autolaunch:" {
		return true
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		return false
	}
	for _, name := range []string{"bus", "dbus-session"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

// noService are the bus's answers when nothing on it is a Secret Service.
var noService = []string{
	"org.freedesktop.DBus.Error.ServiceUnknown",
	"org.freedesktop.DBus.Error.NameHasNoOwner",
}

// saysNoKeyring reports whether an error means that there is no keyring, rather
// than one that cannot be used now.
func saysNoKeyring(err error) bool {
	if answer, ok := errors.AsType[dbus.Error](err); ok {
		return slices.Contains(noService, answer.Name)
	}
	if answer, ok := errors.AsType[*dbus.Error](err); ok {
		return slices.Contains(noService, answer.Name)
	}
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
}
