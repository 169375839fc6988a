package modeltest

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func start(t *testing.T) (*Service, *http.Client) {
	t.Helper()
	s, err := Start([]Step{
		{Prompt: "write it", Shell: "echo 1 > a", Answer: "It is written."},
		{Prompt: "read it", Answer: "It says 1."},
		{Prompt: "open it", Calls: []Call{{Tool: "Read", Input: map[string]any{"file": "notes.txt"}}}, Answer: "It is open."},
		{Prompt: "go away", Status: http.StatusTooManyRequests},
	})
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := url.Parse(s.ProxyURL())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CA())
	transport := &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		s.Close()
	})
	return s, &http.Client{Transport: transport}
}

// post sends a request with a key, and returns the status and the body.
func post(t *testing.T, client *http.Client, url, header, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set(header, "Bearer key")
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(answer)
}

// apis are requests of each protocol: a prompt, and the same with the result of a tool.
var apis = map[API]struct{ url, header, tool, prompt, result string }{
	Anthropic: {
		"https://api.anthropic.com/v1/messages", "X-Api-Key", "Bash",
		`{"model":"m","stream":true,"system":"be good","tools":[{"name":"Read"},{"name":"Bash"}],"messages":[{"role":"user","content":"PROMPT"}]}`,
		`{"model":"m","stream":true,"system":[{"type":"text","text":"be good"}],"tools":[{"name":"Read"},{"name":"Bash"}],"messages":[{"role":"user","content":[{"type":"text","text":"PROMPT"}]},` +
			`{"role":"assistant","content":[{"type":"tool_use"}]},{"role":"user","content":[{"type":"tool_result","content":"done"}]}]}`,
	},
	OpenAI: {
		"https://api.openai.com/v1/responses", "Authorization", "exec_command",
		`{"model":"m","stream":true,"instructions":"be good","tools":[{"type":"function","name":"Read"},{"type":"namespace","tools":[{"type":"function","name":"exec_command"}]}],"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"PROMPT"}]}]}`,
		`{"model":"m","stream":true,"instructions":"be good","tools":[{"type":"function","name":"Read"},{"type":"function","name":"exec_command"}],"input":[{"type":"message","role":"user","content":"PROMPT"},{"type":"function_call"},{"type":"function_call_output","output":"done"}]}`,
	},
	Gemini: {
		"https://generativelanguage.googleapis.com/v1beta/models/m:streamGenerateContent?alt=sse", "X-Goog-Api-Key", "run_shell_command",
		`{"systemInstruction":{"parts":[{"text":"be good"}]},"tools":[{"functionDeclarations":[{"name":"Read"},{"name":"run_shell_command"}]}],"contents":[{"role":"user","parts":[{"text":"PROMPT"}]}]}`,
		`{"systemInstruction":{"parts":[{"text":"be good"}]},"tools":[{"functionDeclarations":[{"name":"Read"},{"name":"run_shell_command"}]}],"contents":[{"role":"user","parts":[{"text":"PROMPT"}]},{"role":"model","parts":[{"functionCall":{}}]},{"role":"user","parts":[{"functionResponse":{"response":"done"}}]}]}`,
	},
}

func TestProtocols(t *testing.T) {
	t.Parallel()
	for api, a := range apis {
		t.Run(string(api), func(t *testing.T) {
			t.Parallel()
			s, client := start(t)
			ask := func(body, prompt string) string {
				status, answer := post(t, client, a.url, a.header, strings.Replace(body, "PROMPT", prompt, 1))
				if status != http.StatusOK {
					t.Fatalf("the status is %d: %s", status, answer)
				}
				return answer
			}
			if answer := ask(a.prompt, "please write it"); !strings.Contains(answer, a.tool) || !strings.Contains(answer, `echo 1`) {
				t.Errorf("the model does not call %s: %s", a.tool, answer)
			}
			if answer := ask(a.result, "please write it"); !strings.Contains(answer, "It is written.") {
				t.Errorf("the model does not go on after the tool: %s", answer)
			}
			if answer := ask(a.prompt, "please read it"); !strings.Contains(answer, "It says 1.") || strings.Contains(answer, a.tool) {
				t.Errorf("the model does not just answer: %s", answer)
			}
			if answer := ask(a.prompt, "please open it"); !strings.Contains(answer, "Read") || !strings.Contains(answer, "notes.txt") {
				t.Errorf("the model does not call the tool that the script names: %s", answer)
			}
			if answer := ask(a.prompt, "what now?"); !strings.Contains(answer, "no answer to this") {
				t.Errorf("the model answers what the script does not have: %s", answer)
			}
			if status, answer := post(t, client, a.url, a.header, strings.Replace(a.prompt, "PROMPT", "go away", 1)); status != http.StatusTooManyRequests {
				t.Errorf("the status of a refusal is %d: %s", status, answer)
			}
			if status, _ := post(t, client, a.url, a.header, "{"); status != http.StatusBadRequest {
				t.Errorf("the status of a malformed request is %d", status)
			}
			requests := s.Requests()
			if len(requests) != 6 {
				t.Fatalf("%d requests are recorded, want 6", len(requests))
			}
			want := Request{
				API: api, Host: requests[0].Host, Path: requests[0].Path, Model: "m", Credential: "key", System: "be good",
				Prompts: []string{"please write it"}, Tools: []string{"Read", a.tool},
			}
			if diff := cmp.Diff(want, requests[0]); diff != "" {
				t.Error(diff)
			}
			if got := requests[1].Results; len(got) != 1 || !strings.Contains(got[0], "done") {
				t.Errorf("the results of tools are %q", got)
			}
		})
	}
}

// TestAskedDirectly sees that a program that is told another address gets an answer.
func TestAskedDirectly(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	a := apis[Anthropic]
	status, answer := post(t, http.DefaultClient, s.ProxyURL()+"/v1/messages", a.header, strings.Replace(a.prompt, "PROMPT", "please read it", 1))
	if status != http.StatusOK || !strings.Contains(answer, "It says 1.") {
		t.Errorf("the answer is %d: %s", status, answer)
	}
	if got := s.Requests(); len(got) != 1 || "http://"+got[0].Host != s.ProxyURL() {
		t.Errorf("recorded are %+v", got)
	}
}

func TestRefusesOthers(t *testing.T) {
	t.Parallel()
	s, client := start(t)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if response, err := client.Do(request); err == nil {
		response.Body.Close()
		t.Error("a host that is no model's is reached")
	}
	if status, _ := post(t, client, "https://api.anthropic.com/v1/files", "X-Api-Key", "{}"); status != http.StatusNotFound {
		t.Errorf("the status of an unknown path is %d", status)
	}
	want := []string{"example.com:443", "POST api.anthropic.com/v1/files"}
	if got := s.Refused(); !slices.Equal(got, want) {
		t.Errorf("refused are %q, want %q", got, want)
	}
}

// TestWhole sees that an answer that is not asked for as a stream is one document.
func TestWhole(t *testing.T) {
	t.Parallel()
	_, client := start(t)
	for api, a := range apis {
		target := strings.Replace(a.url, "streamGenerateContent?alt=sse", "generateContent", 1)
		body := strings.Replace(strings.Replace(a.prompt, "PROMPT", "read it", 1), `"stream":true`, `"stream":false`, 1)
		if status, answer := post(t, client, target, a.header, body); status != http.StatusOK || !json.Valid([]byte(answer)) || !strings.Contains(answer, "It says 1.") {
			t.Errorf("%s: the status is %d, the answer %s", api, status, answer)
		}
	}
}

// TestStreams sees that answers are events, each of which is whole.
func TestStreams(t *testing.T) {
	t.Parallel()
	_, client := start(t)
	for api, a := range apis {
		_, answer := post(t, client, a.url, a.header, strings.Replace(a.prompt, "PROMPT", "write it", 1))
		count := 0
		for line := range bytes.Lines([]byte(answer)) {
			if data, isData := bytes.CutPrefix(line, []byte("data: ")); isData {
				count++
				if !json.Valid(data) {
					t.Errorf("%s: %s is no JSON", api, data)
				}
			}
		}
		if count == 0 {
			t.Errorf("%s: there are no events: %s", api, answer)
		}
	}
}
