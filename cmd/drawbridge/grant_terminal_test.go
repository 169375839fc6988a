package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager/access/credential"
)

// Keys that a person presses.
const (
	enter     = "\r"
	ctrlC     = "\x03"
	ctrlD     = "\x04"
	ctrlU     = "\x15"
	backspace = "\x7f"
)

func TestASecretThatIsTypedIsNeitherShownNorOnTheCommandLine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, keys string }{
		{"typed", acmeSecret},
		{"with a mistake", "acmf" + backspace + "e" + strings.TrimPrefix(acmeSecret, "acme")},
		{"begun anew", "something else" + ctrlU + acmeSecret},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newGrantCLI(t, newService(t, acmeSecret))
			term := c.atTerminal("grant", "acme")
			term.shown.until(t, "Acme token: ")
			pid := term.cmd.Process.Pid
			commandLine, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if err != nil {
				t.Fatal(err)
			}
			environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
			if err != nil {
				t.Fatal(err)
			}
			term.typed("Acme token: ", tt.keys+enter)
			got := term.end()
			got.expect(t, 0, "GRANT         acme\r\n", "stored        from what was typed", "the service accepts it")
			c.expectStored("acme", acmeSecret, credential.SourcePrompt)
			c.expectSecret(acmeSecret, got.out, string(commandLine), string(environment))
			if strings.Contains(got.out, "tOpSeCrEt") {
				t.Errorf("a part of the secret is shown:\n%s", got.out)
			}
			if !strings.HasSuffix(string(commandLine), "grant\x00acme\x00") {
				t.Errorf("command line %q", commandLine)
			}
		})
	}
}

func TestALineThatIsNoSecretIsShown(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t))
	term := c.atTerminal("grant", "mcp:tickets")
	term.typed("URL of the service: ", "https://mcp.example.com/mcp\n")
	term.typed("Credential of the MCP server (Enter logs in with a browser): ", acmeSecret+enter)
	got := term.end()
	got.expect(t, 0, "URL of the service: https://mcp.example.com/mcp", "mcp.example.com in Authorization, paths /mcp /mcp/**")
	stored := c.expectStored("mcp:tickets", acmeSecret, credential.SourcePrompt)
	if diff := cmp.Diff(map[string]string{"name": "tickets", "url": "https://mcp.example.com/mcp"}, stored.Metadata); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	c.expectSecret(acmeSecret, got.out)
}

func TestALongSecretIsTakenWhole(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t))
	long := strings.Repeat("0123456789", 600) // more than a line of a terminal has
	term := c.atTerminal("grant", "mcp:tickets", "--set", "url=https://mcp.example.com/mcp")
	term.typed("Credential of the MCP server (Enter logs in with a browser): ", long+enter)
	term.end().expect(t, 0, "stored ")
	c.expectStored("mcp:tickets", long, credential.SourcePrompt)

	term = c.atTerminal("grant", "mcp:other", "--set", "url=https://mcp.example.com/mcp")
	term.typed("Credential of the MCP server (Enter logs in with a browser): ", strings.Repeat(long, 2)+enter)
	term.end().expect(t, exitFailed, "token has 12000 bytes, 8192 are allowed")
	c.expectNotStored("mcp:other")
}

func TestAnOptionalSecretIsLeftOutWithEnter(t *testing.T) {
	t.Parallel()
	const key = "0123456789abcdef0123456789abcdef"
	c := newGrantCLI(t, newService(t, key))
	term := c.atTerminal("grant", "datadog")
	term.typed("Datadog API key: ", key+enter)
	term.typed("Datadog application key, for reading (Enter leaves it out): ", enter)
	got := term.end()
	got.expect(t, 0, "Dd-Api-Key", "!Dd-Application-Key")
	c.expectStored("datadog", key, credential.SourcePrompt)
	c.expectSecret(key, got.out)
}

func TestTheTerminalIsAsBeforeAfterAPrompt(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, keys string
		signal     syscall.Signal
		code       int
		want       string
	}{
		{"answered", acmeSecret + enter, 0, 0, "GRANT"},
		{"empty", enter, 0, exitFailed, "token is missing"},
		{"Ctrl-C", "acme_" + ctrlC, 0, exitFailed, "interrupted"},
		{"Ctrl-D", ctrlD, 0, exitFailed, "the terminal has been closed"},
		{"interrupted", "", syscall.SIGINT, exitFailed, "interrupted"},
		{"terminated", "acme_", syscall.SIGTERM, exitFailed, "interrupted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newGrantCLI(t, newService(t, acmeSecret))
			session := c.atTerminal("grant", "acme")
			session.shown.until(t, "Acme token: ")
			during := session.state()
			session.typed("Acme token: ", tt.keys)
			if tt.signal != 0 {
				if err := session.cmd.Process.Signal(tt.signal); err != nil {
					t.Fatal(err)
				}
			}
			session.end().expect(t, tt.code, tt.want, "!tOpSeCrEt")
			if *during == *session.before {
				t.Error("nothing of the terminal has been changed for the prompt")
			}
			if after := session.state(); *after != *session.before {
				t.Errorf("the terminal is not as before\nbefore: %v\nafter:  %v", session.before, after)
			}
			if tt.code != 0 {
				c.expectNotStored("acme")
			}
		})
	}
}

func TestALoginIsOfferedAtATerminal(t *testing.T) {
	t.Parallel()
	const typed = "sk-typed-tOpSeCrEt-0123456789"
	for _, tt := range []struct {
		name, answer string
		env          string
		secret       string
		source       credential.Source
	}{
		{"taken", "y\n", "", openaiSecret, credential.SourceLogin},
		{"taken with Enter", "\n", "OPENAI_API_KEY=" + typed, openaiSecret, credential.SourceLogin},
		{"refused, with a variable", "n\n", "OPENAI_API_KEY=" + typed, typed, credential.SourceEnv},
		{"refused, without one", "no\n", "", typed, credential.SourcePrompt},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newGrantCLI(t, newService(t, openaiSecret, typed))
			c.logIn()
			c.env = append(c.env, tt.env)
			term := c.atTerminal("grant", "openai")
			term.typed("auth.json? [Y/n] ", tt.answer)
			if tt.source == credential.SourcePrompt {
				term.typed("OpenAI API key: ", typed+enter)
			}
			got := term.end()
			got.expect(t, 0, "the service accepts it")
			c.expectStored("openai", tt.secret, tt.source)
			c.expectSecret(tt.secret, got.out)
		})
	}
}

func TestAVariableIsTakenAtATerminalWithoutALogin(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t, acmeSecret))
	c.env = append(c.env, "ACME_TOKEN="+acmeSecret)
	c.atTerminal("grant", "acme").end().expect(t, 0, "from $ACME_TOKEN", "!Acme token:")
	c.expectStored("acme", acmeSecret, credential.SourceEnv)
	// What is asked for goes before what is there.
	term := c.atTerminal("grant", "acme", "--from", "prompt")
	term.typed("Acme token: ", acmeSecret+enter)
	term.end().expect(t, 0, "in place of the earlier one")
	c.expectStored("acme", acmeSecret, credential.SourcePrompt)
}

func TestWhatIsForTheServiceItselfIsNotTakenForAnotherHostUnasked(t *testing.T) {
	t.Parallel()
	const secret, other = "npm_tOpSeCrEt0123456789", "another-tOpSeCrEt"
	s := newService(t, secret, other)
	c := newGrantCLI(t, s)
	c.env = append(c.env, "NPM_TOKEN="+secret)
	write(t, filepath.Join(filepath.Dir(c.home), "user", ".npmrc"), "//registry.npmjs.org/:_authToken="+secret+"\n")
	term := c.atTerminal("grant", "npm:npm.example.com")
	term.typed("npm token: ", other+enter)
	term.end().expect(t, 0, "!Use the login")
	c.expectStored("npm:npm.example.com", other, credential.SourcePrompt)
	if diff := cmp.Diff([]string{"npm.example.com/-/whoami"}, s.requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestStandardInputOfATerminalIsRefused(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t))
	c.atTerminal("grant", "acme", "--from", "stdin").end().
		expect(t, exitUsage, "--from stdin shows what is typed", "next: pipe the credential in, or use --from prompt")
}

func TestRevokeAsksAtATerminal(t *testing.T) {
	t.Parallel()
	c := newGrantCLI(t, newService(t, acmeSecret))
	c.runInput(acmeSecret, "grant", "acme").expect(t, 0)
	for _, answer := range []string{"\n", "n\n", "maybe\n"} {
		term := c.atTerminal("revoke", "acme")
		term.typed("Remove acme? [y/N] ", answer)
		term.end().expect(t, 0, "nothing removed")
		c.expectStored("acme", acmeSecret, credential.SourceStdin)
	}
	term := c.atTerminal("revoke", "acme")
	term.typed("Remove acme? [y/N] ", ctrlC)
	term.end().expect(t, exitFailed, "interrupted")
	c.expectStored("acme", acmeSecret, credential.SourceStdin)
	term = c.atTerminal("revoke", "acmecorp")
	term.typed("Remove acme? [y/N] ", "y\n")
	term.end().expect(t, 0, "until it is revoked there")
	c.expectNotStored("acme")
	c.atTerminal("revoke", "acme").end().expect(t, exitFailed, "there is no such grant", "next: run `drawbridge grant list`")
}
