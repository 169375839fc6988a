package docker

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

func TestMessagesOfASessionAreBounded(t *testing.T) {
	t.Parallel()
	var wire, got bytes.Buffer
	for _, text := range []string{"one", "", "two"} {
		if err := writeMessage(&wire, protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), text)); err != nil {
			t.Fatal(err)
		}
	}
	whole := wire.String()
	if err := sendMessages(&got, strings.NewReader(whole)); err != nil || got.String() != "onetwo" {
		t.Errorf("sent %q, %v", got.String(), err)
	}
	for name, text := range map[string]string{
		"half a message":  whole[:len(whole)-1],
		"half a head":     whole + "\x00\x00",
		"compressed":      "\x01\x00\x00\x00\x00",
		"too long":        "\x00\xff\xff\xff\xff",
		"no message":      "\x00\x00\x00\x00\x01\xff",
		"a field of none": "\x00\x00\x00\x00\x02\x0a\x05",
	} {
		if err := sendMessages(&got, strings.NewReader(text)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}
