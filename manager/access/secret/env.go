package secret

import (
	"context"
	"os"
)

// fromEnvironment takes a variable of this process.
func fromEnvironment(_ context.Context, ref Reference) (string, error) {
	value, isSet := os.LookupEnv(ref.place)
	if !isSet {
		return "", failure("set it where drawbridge is started: in the shell, or in env of the client that starts `drawbridge serve`",
			"the environment of drawbridge has no variable %s", ref.place)
	}
	return value, nil
}
