package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPublishNamesPorts(t *testing.T) {
	t.Parallel()
	got, err := parsePublish([]string{"web=3000", "8080"})
	if diff := cmp.Diff(map[string]int{"web": 3000, "port-8080": 8080}, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got, err := parsePublish(nil); got != nil || err != nil {
		t.Errorf("nothing becomes %v, %v", got, err)
	}
	for _, list := range [][]string{{""}, {"web"}, {"web="}, {"web=0"}, {"web=65536"}, {"8080:80"}, {"web=80", "web=81"}} {
		if got, err := parsePublish(list); err == nil {
			t.Errorf("%q becomes %v", list, got)
		}
	}
}
