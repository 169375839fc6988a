package agent_test

import (
	"fmt"
	"time"

	"github.com/drawbridge-mcp/drawbridge/manager/agent"
)

func ExampleAgent_Command() {
	a, err := agent.Lookup("codex")
	if err != nil {
		fmt.Println(err)
		return
	}
	args, err := a.Command(agent.Invocation{Prompt: "fix the tests"})
	fmt.Printf("%q %v\n", args, err)
	// Output: ["codex" "exec" "--json" "--skip-git-repo-check" "--" "fix the tests"] <nil>
}

func ExampleReader() {
	a, err := agent.Lookup("codex")
	if err != nil {
		fmt.Println(err)
		return
	}
	r := a.NewReader()
	r.Feed([]byte(`{"type":"thread.started","thread_id":"t1"}
{"type":"item.started","item":{"id":"1","type":"command_execution","command":"go test ./..."}}
{"type":"item.comp`), time.Now())
	now := r.Report().Activity
	fmt.Println(now.State, now.Tool, "on", now.On)

	// What comes later may be read by another process.
	state, err := r.MarshalJSON()
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err = agent.Restore(state)
	if err != nil {
		fmt.Println(err)
		return
	}
	r.Feed([]byte(`leted","item":{"id":"1","type":"command_execution","aggregated_output":"ok","exit_code":0}}
{"type":"item.completed","item":{"id":"2","type":"agent_message","text":"They pass."}}
{"type":"turn.completed","usage":{"input_tokens":1200,"cached_input_tokens":200,"output_tokens":30}}
`), time.Now())
	r.End()
	report := r.Report()
	fmt.Println(report.Activity.State, report.Answer, report.Tokens.Input)
	for _, e := range r.Take() {
		fmt.Println(e.Role, e.Kind, e.Tool, e.Text)
	}
	// Output:
	// using command on go test ./...
	// done They pass. 1200
	// agent call command go test ./...
	// tool result command ok
	// agent text  They pass.
}
