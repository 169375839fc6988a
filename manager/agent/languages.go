package agent

import (
	"fmt"
	"slices"
	"strings"
)

// LanguageServer is a program that tells an agent about code of one language, by the
// Language Server Protocol on its standard input and output.
type LanguageServer struct {
	Language string // as it is asked for
	Title    string // of the program, for people
	// Dependencies install the server and what it cannot do without, as package deps
	// reads them.
	Dependencies []string
	Command      []string
	// Files are the endings of the files that it knows, with what the protocol calls
	// their language.
	Files map[string]string
}

// LanguageServers returns those that there are, by their languages.
func LanguageServers() []LanguageServer {
	return []LanguageServer{
		{
			Language: "go", Title: "gopls", Dependencies: []string{"go", "gopls"}, Command: []string{"gopls", "serve"},
			Files: map[string]string{".go": "go"},
		},
		{
			Language: "python", Title: "Pyright", Dependencies: []string{"pyright"}, Command: []string{"pyright-langserver", "--stdio"},
			Files: map[string]string{".py": "python", ".pyi": "python"},
		},
		{
			// The server of earlier versions is a part of editors, and programs that
			// make it one of the protocol do not work with this version.
			Language: "typescript", Title: "TypeScript's own", Dependencies: []string{"typescript@7"}, Command: []string{"tsc", "--lsp", "--stdio"},
			Files: map[string]string{
				".ts": "typescript", ".mts": "typescript", ".cts": "typescript", ".tsx": "typescriptreact",
				".js": "javascript", ".mjs": "javascript", ".cjs": "javascript", ".jsx": "javascriptreact",
			},
		},
	}
}

// LookupLanguageServer returns the server of a language. The error matches ErrUnknown.
func LookupLanguageServer(language string) (LanguageServer, error) {
	var languages []string
	for _, s := range LanguageServers() {
		if s.Language == language {
			return s, nil
		}
		languages = append(languages, s.Language)
	}
	return LanguageServer{}, fmt.Errorf("%w: no language server is for %.80q; use %s", ErrUnknown, language, strings.Join(languages, ", "))
}

// languagePlugin is the directory, below the home, of the plugin that tells Claude Code
// of language servers. It is not installed, which takes a marketplace, but named in a
// variable.
const languagePlugin = ".claude/language-servers"

// languageFiles are those of the plugin; none without servers.
func languageFiles(languages []string) ([]File, error) {
	servers := object{}
	for _, language := range languages {
		s, err := LookupLanguageServer(language)
		if err != nil {
			return nil, err
		}
		servers[language] = object{"command": s.Command[0], "args": slices.Clone(s.Command[1:]), "extensionToLanguage": s.Files}
	}
	if len(servers) == 0 {
		return nil, nil
	}
	manifest, err := jsonFile(languagePlugin+"/.claude-plugin/plugin.json", object{
		"name": "language-servers", "version": "1.0.0", "description": "The language servers of this sandbox", "lspServers": servers,
	})
	return []File{manifest}, err
}
