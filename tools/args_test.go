package tools

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-mcp/drawbridge/manager"
)

// parse checks arguments, given as JSON, for a tool.
func parse(t testing.TB, toolName, arguments string) (args, error) {
	t.Helper()
	var raw any
	if err := json.Unmarshal([]byte(arguments), &raw); err != nil {
		t.Fatal(err)
	}
	return newParamSet(toolName, tool(t, Deps{}, toolName).Params).parse(raw)
}

func TestGoodArgumentsAreConverted(t *testing.T) {
	t.Parallel()
	got, err := parse(t, "create_run", `{
		"command": ["sh", "-c", "true"], "env": {"B": "2", "A": "1"}, "timeout_seconds": "90", "cpus": "0.5",
		"memory_mb": 256, "start": "true", "keep": false, "interactive": "False", "network": "none", "name": null,
		"ports": {"web": 3000, "api": "80"}}`)
	if err != nil {
		t.Fatal(err)
	}
	want := args{
		"command":         {list: []string{"sh", "-c", "true"}},
		"env":             {pairs: map[string]string{"A": "1", "B": "2"}},
		"timeout_seconds": {number: 90},
		"cpus":            {number: 0.5},
		"memory_mb":       {number: 256},
		"start":           {flag: true},
		"keep":            {},
		"interactive":     {},
		"network":         {text: "none"},
		"ports":           {counts: map[string]int{"web": 3000, "api": 80}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(value{})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"A=1", "B=2"}, got.Env()); diff != "" {
		t.Error(diff)
	}
}

func TestMissingArgumentsHaveDefaults(t *testing.T) {
	t.Parallel()
	var none args
	if none.Has("x") || none.Text("x") != "" || none.Bool("x") || none.Texts("x") != nil || none.Env() != nil || none.Float("x") != 0 {
		t.Error("an argument that was not given has a value")
	}
	if none.Int("x", 7) != 7 || !none.BoolOr("x", true) || none.MaxBytes() != defaultOutputBytes {
		t.Error("a default is not returned")
	}
}

func TestBadArgumentsAreRefusedWithTheirMend(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 200)
	for name, test := range map[string]struct {
		tool, arguments string
		want            []string
	}{
		"misspelt":               {"create_run", `{"comand": ["ls"]}`, []string{`unknown argument "comand", did you mean "command"?`}},
		"another spelling":       {"create_run", `{"timeoutSeconds": 5}`, []string{`unknown argument "timeoutSeconds", did you mean "timeout_seconds"?`}},
		"name of other tools":    {"exec", `{"run": "a", "cmd": ["ls"], "command": ["ls"]}`, []string{`unknown argument "cmd", did you mean "command"?`}},
		"swapped letters":        {"logs", `{"rnu": "a", "run": "a"}`, []string{`did you mean "run"?`}},
		"no such feature":        {"create_run", `{"snapshot": "x"}`, []string{`unknown argument "snapshot" (create_run takes command, agent,`}},
		"no such agent":          {"create_run", `{"agent": "none"}`, []string{`argument "agent" must be one of claude, codex, gemini, pi, not "none"`}},
		"no such network":        {"create_run", `{"network": "open"}`, []string{`argument "network" must be one of none, strict, permissive, not "open"`}},
		"no such runtime":        {"create_run", `{"runtime": "lxc"}`, []string{`argument "runtime" must be one of docker, native, not "lxc"`}},
		"command as a string":    {"create_run", `{"command": "ls -l"}`, []string{`argument "command" must be an array of strings, not a string: write it as an array, e.g. ["sh", "-c", "make test"]`}},
		"empty command":          {"create_run", `{"command": []}`, []string{`argument "command" must not be empty`}},
		"empty program":          {"create_run", `{"command": ["", "x"]}`, []string{`argument "command" begins with an empty string`}},
		"port as a number":       {"create_run", `{"ports": 3000}`, []string{`argument "ports" must be an object of integers, not a number: write it as an object, e.g. {"web": 3000}`}},
		"port that is none":      {"create_run", `{"ports": {"web": 65536}}`, []string{`argument "ports" is an object of integers, and "web" must be 1 to 65535, not 65536`}},
		"port as text":           {"create_run", `{"ports": {"web": "http"}}`, []string{`argument "ports" is an object of integers, and "web" must be an integer, not the string "http"`}},
		"number in command":      {"create_run", `{"command": ["sleep", 5]}`, []string{`argument "command" must be an array of strings, and entry 1 is a number`}},
		"long command":           {"create_run", `{"command": ["` + strings.Repeat("x", maxCommandArg+1) + `"]}`, []string{`argument "command" has 131073 bytes in all, more than the 131072 allowed`}},
		"NUL in command":         {"create_run", `{"command": ["a\u0000b"]}`, []string{`argument "command" entry 0 must not contain a NUL byte`}},
		"NUL in env":             {"create_run", `{"env": {"A": "s3cret\u0000"}}`, []string{`argument "env" has a NUL byte`}},
		"env as a list":          {"create_run", `{"env": ["A=1"]}`, []string{`argument "env" must be an object of strings, not an array: write it as an object of strings`}},
		"env name with =":        {"create_run", `{"env": {"A=B": "1"}}`, []string{`argument "env" has the name "A=B"`}},
		"env of numbers":         {"create_run", `{"env": {"A": 1}}`, []string{`argument "env" must be an object of strings, and "A" is a number`}},
		"zero is not unlimited":  {"create_run", `{"timeout_seconds": 0}`, []string{`argument "timeout_seconds" must be 1 to 2592000, not 0`}},
		"too far in the future":  {"create_run", `{"timeout_seconds": 1e6, "memory_mb": 1e300}`, []string{`argument "memory_mb" must be 16 to 1073741824, not 1e+300`}},
		"negative":               {"logs", `{"run": "a", "tail": -1}`, []string{`argument "tail" must be 1 to 10000, not -1`}},
		"fraction":               {"logs", `{"run": "a", "tail": 1.5}`, []string{`argument "tail" must be an integer, not 1.5`}},
		"word for a number":      {"logs", `{"run": "a", "tail": "all"}`, []string{`argument "tail" must be an integer, not the string "all"`}},
		"not a number":           {"logs", `{"run": "a", "tail": "NaN"}`, []string{`argument "tail" must be`}},
		"boolean for a number":   {"logs", `{"run": "a", "tail": true}`, []string{`argument "tail" must be an integer, not a boolean`}},
		"number for a boolean":   {"create_run", `{"start": 1}`, []string{`argument "start" must be true or false, not a number`}},
		"word for a boolean":     {"create_run", `{"start": "yes"}`, []string{`argument "start" must be true or false, not the string "yes"`}},
		"missing":                {"resolve", `{}`, []string{`argument "run" is missing`}},
		"null for required":      {"resolve", `{"run": null}`, []string{`argument "run" is missing`}},
		"empty":                  {"resolve", `{"run": ""}`, []string{`argument "run" must not be empty`}},
		"too long":               {"resolve", `{"run": "` + long + `"}`, []string{`argument "run" must have 1 to 128 bytes, not 200`}},
		"not an object":          {"resolve", `["run_1"]`, []string{`the arguments must be an object, not an array`}},
		"all problems at once":   {"create_run", `{"comand": ["ls"], "start": 1, "timeout_seconds": -2}`, []string{`"comand"`, `"start"`, `"timeout_seconds"`}},
		"destroy unconfirmed":    {"destroy", `{"run": "a"}`, []string{`argument "confirm" is missing: destroy removes the run`}},
		"destroy not confirmed":  {"destroy", `{"run": "a", "confirm": "false"}`, []string{`argument "confirm" must be true: destroy removes the run`}},
		"mode as a number":       {"write_file", `{"run": "a", "path": "b", "content": "", "mode": 644}`, []string{`argument "mode" must be a string, not a number: write it as a string`}},
		"mode with set-uid":      {"write_file", `{"run": "a", "path": "b", "content": "", "mode": "4755"}`, []string{`argument "mode" must be three octal digits`}},
		"mode that is not octal": {"write_file", `{"run": "a", "path": "b", "content": "", "mode": "0689"}`, []string{`argument "mode" must be three octal digits`}},
		"long unknown name":      {"resolve", `{"run": "a", "` + long + `": 1}`, []string{`unknown argument "` + long[:maxEchoBytes] + `"...`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parse(t, test.tool, test.arguments)
			var e *manager.Error
			if !errors.As(err, &e) || e.Code != manager.CodeInvalidArgument || e.Next == "" {
				t.Fatalf("got %#v, want an invalid argument with its mend", err)
			}
			for _, want := range test.want {
				if !strings.Contains(e.Message, want) {
					t.Errorf("got %q, want it to contain %q", e.Message, want)
				}
			}
			if strings.Contains(err.Error(), "s3cret") {
				t.Error("the error repeats the value of an environment variable")
			}
		})
	}
}

func TestErrorsAboutManyArgumentsAreBounded(t *testing.T) {
	t.Parallel()
	many := map[string]any{}
	for i := range 10000 {
		many[strings.Repeat("x", i%300)+"y"] = strings.Repeat("z", 1000)
	}
	_, err := newParamSet("resolve", tool(t, Deps{}, "resolve").Params).parse(many)
	if err == nil || len(err.Error()) > 2000 || !strings.Contains(err.Error(), "more") {
		t.Errorf("got %.3000v", err)
	}
}

func TestNearestNameIsSuggested(t *testing.T) {
	t.Parallel()
	names := []string{"command", "workspace", "timeout_seconds", "run", "env", "image"}
	for given, want := range map[string]string{
		"comand": "command", "Command": "command", "work-space": "workspace", "worksapce": "workspace",
		"timeout": "timeout_seconds", "id": "run", "environment": "env", "imgae": "image",
		"": "", "xyzzy": "", "grants": "", "agent": "", strings.Repeat("command", 100): "",
	} {
		if got := nearest(given, names); got != want {
			t.Errorf("nearest(%q) = %q, want %q", given, got, want)
		}
	}
}

func FuzzArguments(f *testing.F) {
	f.Add(`{"command":["sh","-c","x"],"env":{"A":"1"},"timeout_seconds":"5","start":"true"}`)
	f.Add(`{"run":"run_0123456789ab","confirm":true,"tail":1e400}`)
	f.Add(`{"run":null,"runs":[],"match":"(","mode":"0644"}`)
	f.Add(`[1,2,{"a":null}]`)
	inventory := Inventory(Deps{})
	f.Fuzz(func(t *testing.T, arguments string) {
		var raw any
		if json.Unmarshal([]byte(arguments), &raw) != nil {
			return
		}
		for _, tool := range inventory {
			got, err := newParamSet(tool.Name, tool.Params).parse(raw)
			if err == nil {
				for name := range got {
					if _, ok := raw.(map[string]any)[name]; !ok {
						t.Errorf("%s: argument %q comes from nowhere", tool.Name, name)
					}
				}
				continue
			}
			var e *manager.Error
			if !errors.As(err, &e) || e.Code != manager.CodeInvalidArgument {
				t.Errorf("%s: %v", tool.Name, err)
			}
			if len(err.Error()) > 4000 {
				t.Errorf("%s: the error has %d bytes", tool.Name, len(err.Error()))
			}
		}
	})
}
