package manager

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// A run ID is runIDPrefix and runIDDigits lower-case hexadecimal digits.
const (
	runIDPrefix = "run_"
	runIDDigits = 12
)

// maxNameLen keeps a name usable as a DNS label and as part of a file's name.
const maxNameLen = 63

// newRunID returns an ID that no run has had: 48 random bits.
func newRunID() string { return runIDPrefix + randomHex(runIDDigits) }

// randomHex returns an even number of random hexadecimal digits.
func randomHex(digits int) string {
	b := make([]byte, digits/2)
	_, _ = rand.Read(b) // never fails: the program ends where there is no randomness
	return hex.EncodeToString(b)
}

// ValidRunID reports whether s is a full run ID: "run_" and twelve lower-case
// hexadecimal digits.
func ValidRunID(s string) bool {
	digits, ok := strings.CutPrefix(s, runIDPrefix)
	if !ok || len(digits) != runIDDigits {
		return false
	}
	for _, c := range []byte(digits) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// validateName checks a name that a caller has chosen for a run: 1 to 63
// lower-case letters, digits, '-', '_' and '.', the first one a letter or a
// digit. A name that begins with "run_" would be taken for an ID.
func validateName(name string) error {
	switch {
	case name == "":
		return errors.New("it is empty; choose 1 to 63 characters")
	case len(name) > maxNameLen:
		return fmt.Errorf("it has %d bytes; choose at most %d", len(name), maxNameLen)
	case strings.HasPrefix(name, runIDPrefix):
		return fmt.Errorf("it begins with %q like a run ID; choose another beginning", runIDPrefix)
	}
	for i, c := range name {
		if isLetterOrDigit(c) {
			continue
		}
		if c != '-' && c != '_' && c != '.' {
			return fmt.Errorf("it contains %q; use lower-case letters, digits, '-', '_' and '.'", c)
		}
		if i == 0 {
			return fmt.Errorf("it begins with %q; begin with a letter or a digit", c)
		}
	}
	return nil
}

func isLetterOrDigit(c rune) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

// generateName returns a random name of an adjective and an animal. There are
// 4,096, so it may be taken.
func generateName() string {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails, see randomHex
	return adjectives[int(b[0])%len(adjectives)] + "-" + animals[int(b[1])%len(animals)]
}

// withSuffix makes a generated name that is taken a free one, in all likelihood.
func withSuffix(name string) string {
	const digits = 4
	if most := maxNameLen - digits - 1; len(name) > most {
		name = name[:most]
	}
	return name + "-" + randomHex(digits)
}

// The words of generated names: short, friendly, easy to say and to type. There
// are 64 of each, so that every byte chooses one fairly.
var adjectives = [64]string{
	"able", "amber", "autumn", "azure", "bold", "brave", "breezy", "bright",
	"brisk", "calm", "candid", "cheery", "civil", "clever", "copper", "cosy",
	"crisp", "curious", "dapper", "daring", "deft", "eager", "early", "earnest",
	"easy", "fair", "fond", "frank", "fresh", "gentle", "glad", "golden",
	"hardy", "honest", "humble", "jolly", "keen", "kind", "lively", "loyal",
	"lucky", "mellow", "merry", "mild", "modest", "neat", "nimble", "noble",
	"patient", "plucky", "polite", "proud", "quick", "quiet", "rapid", "ready",
	"serene", "silver", "steady", "sunny", "tidy", "tranquil", "upbeat", "witty",
}

var animals = [64]string{
	"alpaca", "badger", "beaver", "bison", "bobcat", "camel", "caribou", "cheetah",
	"cormorant", "crane", "curlew", "dolphin", "dormouse", "eagle", "egret", "ermine",
	"falcon", "ferret", "finch", "fox", "gazelle", "gecko", "gibbon", "goldfinch",
	"hare", "hedgehog", "heron", "ibex", "ibis", "impala", "jackdaw", "kestrel",
	"kingfisher", "koala", "lapwing", "lark", "lemur", "linnet", "lynx", "magpie",
	"marmot", "marten", "moose", "narwhal", "newt", "ocelot", "orca", "osprey",
	"otter", "owl", "panda", "pelican", "penguin", "puffin", "quail", "raven",
	"robin", "seal", "sparrow", "stork", "swift", "tapir", "walrus", "wombat",
}
