package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

func (a *app) openCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "open RUN [ENDPOINT]",
		Short: "Print the URL of a published port",
		Long: `Print the URL of a published port of a run that is up, for a browser on this machine.
The name of the endpoint may be left out where there is only one.`,
		Example: `  drawbridge open my-run web
  xdg-open "$(drawbridge open my-run)"`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeRun,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			m, err := a.open()
			if err != nil {
				return err
			}
			defer closeManager(m, &err)
			r, err := m.ResolveOne(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			endpoint := ""
			if len(args) > 1 {
				endpoint = args[1]
			}
			url, err := urlOf(r, endpoint)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.out, url)
			return err
		},
	}
}

// urlOf returns the URL of an endpoint of a run; of the only one where none is named.
func urlOf(r *manager.Run, endpoint string) (string, error) {
	names := slices.Sorted(maps.Keys(r.Ports))
	switch {
	case len(names) == 0:
		return "", mended("create it with --publish NAME=PORT", fmt.Errorf("%s publishes no port", r.Name))
	case endpoint == "" && len(names) > 1:
		return "", usagef("name one of them: "+strings.Join(names, ", "), "%s has several endpoints", r.Name)
	case endpoint == "":
		endpoint = names[0]
	case !slices.Contains(names, endpoint):
		return "", usagef("name one of them: "+strings.Join(names, ", "), "%s has no endpoint %q", r.Name, endpoint)
	}
	direct := fmt.Sprintf("use http://127.0.0.1:%d", r.HostPorts[endpoint])
	switch {
	case r.GetState() == manager.StateCreated:
		return "", mended("run `drawbridge start "+r.Name+"`", fmt.Errorf("%s has not been started", r.Name))
	case !r.GetState().Active():
		return "", mended("create another run", fmt.Errorf("%s is %s", r.Name, r.GetState()))
	case r.URLs[endpoint] != "":
		return r.URLs[endpoint], nil
	case r.URLsNote != "":
		return "", mended(direct, fmt.Errorf("%s has no URL: %s", endpoint, r.URLsNote))
	}
	return "", mended(direct+", or try again in a moment", fmt.Errorf("%s has no URL: the daemon of this home does not listen", endpoint))
}
