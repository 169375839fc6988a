//go:build linux

package main

import (
	"errors"
	"os"
)

func owners(f facts) []attack {
	const made = workspace + "/made"
	return []attack{
		{"make files in the workspace", func() (string, error) {
			return done(errors.Join(
				os.MkdirAll(made+"/directory", 0o755),
				os.WriteFile(made+"/file", nil, 0o644),
				os.Link(made+"/file", made+"/hard-link"),
				os.Symlink("file", made+"/link"),
			))
		}},
		{"write its owner's file in the workspace", func() (string, error) {
			return done(os.WriteFile(workspace+"/owner's", []byte("changed"), 0o600))
		}},
		{"read a file of root's in the workspace", func() (string, error) { return readToken(workspace+"/root's", f.Token) }},
	}
}
