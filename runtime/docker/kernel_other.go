//go:build !linux

package docker

// kernelRelease returns nothing: no container runs on this machine's kernel.
func kernelRelease() string { return "" }

// checksSources is never asked: no network is made where containers run elsewhere.
func checksSources() bool { return false }
