package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
)

func TestPermissionsOfServe(t *testing.T) {
	t.Parallel()
	got, err := permissions(serveFlags{allow: []string{"build", "ports"}, docker: []string{"dind", "host"}})
	want := []config.Permission{config.AllowBuild, config.AllowPorts, config.AllowDockerDind, config.AllowDockerHost}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	for says, flags := range map[string]serveFlags{
		"--allow-docker host or --allow-docker dind": {allow: []string{"docker"}},
		"--allow-secret REFERENCE":                   {allow: []string{"secrets"}},
		"use host or dind":                           {docker: []string{"socket"}},
		"use mounts, ":                               {allow: []string{"grants"}},
		"build, permissive":                          {allow: []string{"everything"}},
	} {
		if _, err := permissions(flags); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v; want %q", flags, err, says)
		}
	}
	if _, err := permissions(serveFlags{allow: []string{"docker:host"}}); err == nil {
		t.Error("--allow takes docker:host")
	}
}
