package main

import (
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/manager/agent/modeltest"
)

// Claude Code asks its model at the server that the project names: one of the Internet,
// or one of this machine. The credential of the grant goes there, and no longer to the
// model's maker.
func TestAgentAsksAnotherModelServer(t *testing.T) {
	t.Parallel()
	a := installedAgents["claude"]
	for _, where := range []string{"https", "this machine"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			service := startService(t, modeltest.Step{
				Prompt: "greet", Answer: "Good morning.",
				Shell: "curl -s -m 60 -o /dev/null -w 'status of anthropic: %{http_code}\n' -H \"x-api-key: $ANTHROPIC_API_KEY\" -d '{}' https://api.anthropic.com/v1/messages",
			})
			host := modeltest.OtherHost
			url := "https://" + host
			if where == "this machine" {
				url = strings.Replace(service.ProxyURL(), "127.0.0.1", "localhost", 1)
				host = strings.Replace(service.ProxyURL(), "http://127.0.0.1", "host.drawbridge.internal", 1)
			}
			c, tools, modules := newAgentCLI(t, service)
			c.grant(a.grant, a.key)
			c.put("moat.yaml", "agent: claude\nclaude: {base_url: "+url+"}\nnetwork: {rules: [api.anthropic.com]}\n")
			got := c.run("run", "--rm", "-w", c.workspace, "--native-path", tools, "--native-path", modules, "--prompt", "greet")
			if got.code != 0 || !strings.Contains(got.out, "Good morning.") {
				t.Fatalf("it ended as %+v; refused are %q", got, service.Refused())
			}
			asked := service.Requests()
			for i, request := range asked {
				wantHost, wantKey := host, a.key
				if request.Host == "api.anthropic.com" { // of the command, with the placeholder
					wantHost, wantKey = request.Host, request.Credential
					if strings.Contains(request.Credential, a.key) || !strings.Contains(request.Credential, "placeholder") {
						t.Errorf("the model's maker gets the credential %q", request.Credential)
					}
				}
				if request.Host != wantHost || request.Credential != wantKey {
					t.Errorf("request %d is for %s with %q", i, request.Host, request.Credential)
				}
			}
			if len(asked) < 3 {
				t.Errorf("asked were %+v", asked)
			}
			c.expectNowhere(a.key)

			c.must("grant", "allow", a.grant)
			server := c.stdioAgent("--image", "", "--native-path", tools, "--native-path", modules)
			wish := map[string]any{"agent": "claude", "prompt": "greet", "workspace": c.workspace}
			if refused, err := server.try("create_run", wish); err != nil || refused.Error == nil || refused.Error.Code != "policy_denied" || !strings.Contains(refused.Error.Next, "--allow model-server") {
				t.Errorf("agents, without permission: %+v, %v", refused, err)
			}
		})
	}
}
