//go:build !linux

package manager

// systemOpeners are the drivers that only this system has.
func systemOpeners(ManagerOptions) []opener { return nil }
