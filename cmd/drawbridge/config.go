package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
)

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check and explain moat.yaml",
		Long: `Check and explain what a project wants for its runs, which stands in the file moat.yaml
of its workspace, and what you want for all runs, which stands in config.yaml of the
home.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usagef("see `drawbridge config --help`", "unknown command %q of config", args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.configCheckCommand(), a.configExplainCommand(), a.configSchemaCommand())
	return cmd
}

func (a *app) configCheckCommand() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "check [DIR|FILE]",
		Short: "Say what is wrong in moat.yaml",
		Long: `Say what is wrong in moat.yaml of a directory, by default the current one, or in a file:
each mistake on a line, as FILE:LINE:COLUMN with the mend. For a directory, config.yaml
of the home is checked too. The exit code is 1 if there is a mistake.`,
		Example: `  drawbridge config check
  drawbridge config check ../project --output json`,
		Args: atMostOne("DIR|FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			checked, err := a.checkConfigs(cmd.Context(), firstOr(args, "."))
			if err != nil {
				return err
			}
			return a.printChecks(checked, output)
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func firstOr(args []string, otherwise string) string {
	if len(args) > 0 {
		return args[0]
	}
	return otherwise
}

// checkedFile is one file with what is wrong in it.
type checkedFile struct {
	File     string           `json:"file"`
	OK       bool             `json:"ok"`
	Mistakes []config.Mistake `json:"mistakes"`
	Omitted  int              `json:"omitted,omitempty"`
}

// checkConfigs checks a file, or that of a directory and the person's.
func (a *app) checkConfigs(ctx context.Context, path string) ([]checkedFile, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, usagef("name a directory or a file", "check %s: %v", path, errors.Unwrap(err))
	}
	if !info.IsDir() {
		f, err := checked(config.LoadFile(ctx, path))
		return []checkedFile{f}, err
	}
	home, err := a.homeDir()
	if err != nil {
		return nil, err
	}
	project, err := checked(config.Load(ctx, path))
	if errors.Is(err, config.ErrNone) {
		return nil, usagef("name a directory with a "+config.ProjectFile+", or a file", "there is no %s in %s", config.ProjectFile, path)
	}
	if err != nil {
		return nil, err
	}
	person, err := checked(config.LoadHome(ctx, home))
	if errors.Is(err, config.ErrNone) {
		return []checkedFile{project}, nil
	}
	return []checkedFile{project, person}, err
}

// checked makes a finding of what loading a file came to, unless it could not be
// read.
func checked(c *config.Config, err error) (checkedFile, error) {
	if wrong, ok := errors.AsType[*config.Error](err); ok {
		return checkedFile{File: wrong.Mistakes[0].File, Mistakes: wrong.Mistakes, Omitted: wrong.Omitted}, nil
	}
	if err != nil {
		return checkedFile{}, err
	}
	return checkedFile{File: c.File(), OK: true, Mistakes: []config.Mistake{}}, nil
}

func (a *app) printChecks(files []checkedFile, output format) error {
	sound := !slices.ContainsFunc(files, func(f checkedFile) bool { return !f.OK })
	if output == formatJSON {
		if err := a.printJSON(struct {
			OK    bool          `json:"ok"`
			Files []checkedFile `json:"files"`
		}{sound, files}); err != nil {
			return err
		}
	}
	for _, f := range files {
		if output == formatJSON {
			break
		}
		if f.OK {
			fmt.Fprintln(a.out, oneLine(f.File)+": nothing is wrong")
		}
		for _, m := range f.Mistakes {
			fmt.Fprintln(a.out, oneLine(m.String()))
		}
		if f.Omitted > 0 {
			fmt.Fprintf(a.out, "%s: and %d more\n", oneLine(f.File), f.Omitted)
		}
	}
	if !sound {
		return exitCode(exitFailed)
	}
	return nil
}

func (a *app) configSchemaCommand() *cobra.Command {
	var home bool
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of moat.yaml",
		Long: `Print the JSON Schema (2020-12) of moat.yaml, for editors that check YAML by one, or
that of config.yaml in the home. It does not say what concerns several keys;
"drawbridge config check" knows that too.`,
		Example: `  drawbridge config schema > moat.schema.json`,
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			schema := config.Schema()
			if home {
				schema = config.HomeSchema()
			}
			_, err := fmt.Fprintln(a.out, string(schema))
			return err
		},
	}
	cmd.Flags().BoolVar(&home, "for-home", false, "that of config.yaml in the home")
	return cmd
}

// atMostOne accepts one argument or none.
func atMostOne(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usagef("see `"+cmd.CommandPath()+" --help`", "%s takes one %s, and got %d arguments: %s", cmd.Name(), what, len(args), strings.Join(args, " "))
		}
		return nil
	}
}
