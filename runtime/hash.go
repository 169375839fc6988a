package runtime

import (
	"crypto/sha256"
	"encoding/hex"
)

// HomeHash returns the value of LabelHome for a home directory: a short hash of
// its absolute path, so that two homes on one engine never touch each other's
// objects and no path is shown to whoever can list them.
func HomeHash(home string) string {
	sum := sha256.Sum256([]byte(home))
	return hex.EncodeToString(sum[:8])
}
