package config_test

import (
	"fmt"

	"github.com/drawbridge-mcp/drawbridge/manager/spec/config"
)

func ExampleParse() {
	_, err := config.Parse("moat.yaml", []byte(`
netwrk: {policy: strict}
container: {memory: 64}
`))
	fmt.Println(err)
	// Output:
	// moat.yaml:2:1: unknown key "netwrk"; did you mean network?
	// moat.yaml:3:21: container.memory: "64": want a whole number, 0 or 128 to 16777216 MiB
}

func ExampleResolve() {
	project, err := config.Parse("moat.yaml", []byte("container: {memory: 1024}\ngrants: [github]\n"))
	if err != nil {
		panic(err)
	}
	flags := config.Layer{
		Source: config.SourceCaller,
		Config: &config.Config{Grants: []string{"npm"}},
		Names:  map[string]string{"grants": "--grant"},
	}
	for _, v := range config.Resolve(config.Defaults(), config.Layer{Source: config.SourceProject, Config: project}, flags).Values {
		fmt.Println(v.Path, "=", config.Text(v.Value), "from", v.Origin)
	}
	// Output:
	// grants[0] = github from moat.yaml:2:10
	// grants[1] = npm from --grant
	// network.policy = strict from default
	// container.memory = 1024 from moat.yaml:1:21
	// container.cpus = 2 from default
}

func ExampleAsks() {
	project, err := config.Parse("moat.yaml", []byte("mounts: [../other:/other:ro]\nnetwork: {host: [5432]}\n"))
	if err != nil {
		panic(err)
	}
	for _, ask := range config.Asks(project) {
		fmt.Printf("%s: %s needs the permission %s\n", ask.Origin, ask.What, ask.Permission)
	}
	// Output:
	// moat.yaml:1:10: read ../other needs the permission mounts
	// moat.yaml:2:18: reach port 5432 of this machine needs the permission host
}
