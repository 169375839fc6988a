//go:build !linux

package credential

// mayHaveKeyring reports whether it makes sense to ask for the keyring.
func mayHaveKeyring() bool { return true }

// saysNoKeyring reports whether an error means that there is no keyring.
func saysNoKeyring(error) bool { return false }
