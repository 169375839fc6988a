package docker

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/docker/docker/pkg/jsonmessage"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
)

// field encodes a field of a protobuf message.
func field(number protowire.Number, value string) string {
	return string(protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), value))
}

func trace(parts ...string) []byte { return []byte(strings.Join(parts, "")) }

func TestTraceOfBuildKitIsRead(t *testing.T) {
	t.Parallel()
	var said []string
	o := newBuildOutput(func(line string) { said = append(said, line) })
	cached := string(protowire.AppendVarint(protowire.AppendTag(nil, 4, protowire.VarintType), 1))
	for _, message := range [][]byte{
		trace(field(1, field(1, "a")+field(3, "[1/2] RUN one")), field(1, field(1, "b")+field(3, "[2/2] RUN two")+cached)),
		trace(field(1, field(1, "a")+field(3, "[1/2] RUN one")+field(5, "time"))),
		trace(field(3, field(1, "a")+field(4, "half a li")), field(3, field(1, "b")+field(4, "from two\n"))),
		trace(field(3, field(1, "a")+field(4, "ne\x1b[31m\nend\a"))),
		trace(field(1, field(1, "b")+field(3, "[2/2] RUN two")+field(7, "rpc: context canceled"))),
		trace(field(1, field(1, "a")+field(3, "[1/2] RUN one")+field(7, "exit code: 1"))),
	} {
		if err := o.readTrace(message); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"[1/2] RUN one", "from two", "half a line", "end"}, said); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"half a line", "end"}, o.lines); diff != "" || o.failed != "RUN one" {
		t.Errorf("the failed step is %q: %s", o.failed, diff)
	}
}

func FuzzBuildOutput(f *testing.F) {
	f.Add(trace(field(1, field(1, "a")+field(3, "[1/2] RUN one")+field(5, "")+field(7, "exit code: 1")), field(3, field(1, "a")+field(4, "x\n"))))
	f.Add([]byte{0x0a, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		o := newBuildOutput(func(line string) {
			if len(line) > longestLine+3 || strings.ContainsAny(line, "\x1b\n\r\x00") {
				t.Errorf("said %q", line)
			}
		})
		_ = o.readTrace(data) // an error is an answer too
		aux, err := json.Marshal(data)
		if err != nil {
			t.Fatal(err)
		}
		raw := json.RawMessage(aux)
		_ = o.read(&jsonmessage.JSONMessage{ID: "moby.buildkit.trace", Aux: &raw}) // the same
		if len(o.lines) > lastLines || len(o.vertices) > mostVertices+1 {
			t.Errorf("kept %d lines, %d steps", len(o.lines), len(o.vertices))
		}
	})
}
