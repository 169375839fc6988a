package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// completionTimeout bounds what a person waits for after pressing Tab.
const completionTimeout = 2 * time.Second

func (a *app) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print a script that completes commands in a shell",
		Example: `  source <(drawbridge completion bash)
  drawbridge completion zsh > "${fpath[1]}/_drawbridge"
  drawbridge completion fish > ~/.config/fish/completions/drawbridge.fish`,
		ValidArgs: shells,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("name one: bash, zsh, fish or powershell", "completion needs the shell that it is for")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.out, true)
			case "zsh":
				return root.GenZshCompletion(a.out)
			case "fish":
				return root.GenFishCompletion(a.out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.out)
			}
			next := "name one: bash, zsh, fish or powershell"
			if near := nearest(args[0], shells); near != "" {
				next = "did you mean `drawbridge completion " + near + "`?"
			}
			return usagef(next, "no completion for the shell %q", args[0])
		},
	}
}

// completeRun completes a command's first argument with names of runs,
// completeRuns every argument.
func (a *app) completeRun(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeRuns(cmd, args, typed)
}

func (a *app) completeRuns(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	none := cobra.ShellCompDirectiveNoFileComp
	m, err := a.open()
	if err != nil {
		return nil, none
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	page, err := m.ListPage(ctx, manager.ListQuery{Name: typed, Limit: defaultListLimit})
	if err != nil {
		return nil, none
	}
	var names []string
	for _, r := range page.Runs {
		names = append(names, cobra.CompletionWithDesc(r.Name, stateText(r)))
	}
	return names, none
}
