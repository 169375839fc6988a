package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// The forms of texts. Their patterns are in the syntax that Go and ECMAScript share, because
// they are part of the published schema.
var (
	runName = textRule{pattern: `^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`,
		want: "at most 63 letters, digits, '-', '_' and '.', a letter or a digit first", check: notRunID}
	agentName   = textRule{pattern: `^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`, want: "the name of an agent such as claude"}
	oneLine     = textRule{}
	script      = textRule{lines: true}
	envName     = textRule{pattern: `^[^=\s]+$`, want: "no space and no ="}
	envValue    = textRule{lines: true, blank: true, hidden: true}
	commandWord = textRule{lines: true, blank: true}
	entryName   = textRule{pattern: `^[A-Za-z0-9][A-Za-z0-9_.-]*$`, want: "letters, digits, '-', '_' and '.', a letter or a digit first"}
	endpoint    = textRule{pattern: `^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`, want: "at most 63 letters, digits, '-' and '_', a letter or a digit first"}
	volumeName  = textRule{pattern: `^[a-z0-9][a-z0-9_-]{0,62}$`, want: "at most 63 lower-case letters, digits, '-' and '_', a letter or a digit first"}
	imageRef    = textRule{pattern: `^[a-zA-Z0-9][a-zA-Z0-9._/:-]*(@sha256:[0-9a-f]{64})?$`, want: "an image such as debian:bookworm-slim"}
	grantName   = textRule{pattern: `^[a-z0-9][a-z0-9._:@/-]{0,199}$`, want: "a grant such as github or ssh:github.com, in lower case", check: grantProblem}
	headerName  = textRule{pattern: `^[A-Za-z0-9!#$%&'*+.^_|~-]+$`, want: "the name of a header"}
	secretRef   = textRule{hidden: true, pattern: `^(op://[^/\s][^/]*(/[^/]+){2,3}|ssm://([a-z0-9-]+)?/\S+|env://[A-Za-z_][A-Za-z0-9_]*)$`,
		want: "op://VAULT/ITEM/FIELD, ssm:///PATH, ssm://REGION/PATH or env://VARIABLE, and never the secret itself"}
	dependency = textRule{check: dependencyProblem,
		pattern: `^(docker:(host|dind)|(npm|pip|uv|cargo|go):@?[A-Za-z0-9][A-Za-z0-9._/~+-]*((@|==)[A-Za-z0-9][A-Za-z0-9._+-]*)?|[A-Za-z0-9][A-Za-z0-9_.+-]*(@[A-Za-z0-9][A-Za-z0-9._+-]*)?)$`,
		want:    "NAME, NAME@VERSION, docker:host, docker:dind, or npm:, pip:, uv:, cargo: or go: with a package"}
	absolutePath = textRule{pattern: `^/[^:]*$`, want: "an absolute path without a colon", check: pathProblem}
	hostPath     = textRule{pattern: `^[^:]+$`, want: "a path without a colon"}
	mountText    = textRule{pattern: `^[^:]+:/[^:]*(:(ro|rw)?)?$`, want: "SOURCE:TARGET, SOURCE:TARGET:ro or SOURCE:TARGET:rw with an absolute TARGET", check: mountProblem}
	excludePath  = textRule{pattern: `^[A-Za-z0-9._*-][A-Za-z0-9/._*-]*$`, want: "a path below the target, of letters, digits, '/', '.', '-', '_' and '*'", check: excludeProblem}
	hostPattern  = textRule{pattern: `^` + hostForm + `$`, want: "HOST or HOST:PORT, e.g. api.example.com or *.example.com:8443", check: hostProblem}
	requestRule  = textRule{pattern: `^` + requestForm + `$`, want: `"allow METHOD /path" or "deny METHOD /path"`}
	ruleText     = textRule{pattern: `^` + hostForm + `(\s+` + requestForm + `)?$`,
		want: `HOST, HOST:PORT, or "HOST allow|deny METHOD /path"`, check: hostProblem}
	webURL     = textRule{hidden: true, pattern: `^https?://[^\s/?#]+\S*$`, want: "a URL with http or https", check: urlProblem}
	mcpURL     = textRule{hidden: true, pattern: `^(https://[^\s/?#]+|http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?)([/?#]\S*)?$`, want: "a URL with https, or with http for localhost, 127.0.0.1 or [::1]", check: urlProblem}
	ipAddress  = textRule{pattern: `^[0-9A-Fa-f:.]+$`, want: "an IP address", check: addressProblem}
	modelName  = textRule{pattern: `^[a-zA-Z0-9][a-zA-Z0-9._:/@-]*$`, want: "the name of a model"}
	pluginName = textRule{pattern: `^[A-Za-z0-9][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9._-]*$`, want: "PLUGIN@MARKETPLACE"}
	repoName   = textRule{pattern: `^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+$`, want: "OWNER/REPOSITORY"}
	piPackage  = textRule{pattern: `^(npm:|git:|https://|ssh://)[A-Za-z0-9@._~:/+#=-]+$`, want: "a package that is fetched: npm:, git:, https:// or ssh://"}
	policyName = textRule{pattern: `^[A-Za-z0-9._-][A-Za-z0-9._/-]*$`, want: "the name of a policy, or the path of a file in the workspace", check: policyProblem}
)

const (
	hostForm    = `(\*|(\*\.)?[^\s/@%:*?#\[\]\\]+|\[[0-9A-Fa-f:.]+\])(:(\*|[0-9]{1,5}))?`
	requestForm = `(allow|deny)\s+(\*|[A-Za-z]+)\s+/[^\s?#]*`
)

func notRunID(s string) string {
	if strings.HasPrefix(s, "run_") {
		return "it begins like the ID of a run; choose another beginning"
	}
	return ""
}

func grantProblem(s string) string {
	provider, instance, has := strings.Cut(s, ":")
	if instance == "" && (has || provider == "ssh" || provider == "mcp" || provider == "oauth") {
		return fmt.Sprintf("say which one, e.g. %s:NAME", provider)
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || part == "." || part == ".." {
			return "leave out empty parts, `.` and `..` between slashes"
		}
	}
	return ""
}

func dependencyProblem(s string) string {
	switch {
	case s == "docker" || strings.HasPrefix(s, "docker@"):
		return "say how: docker:host uses the engine of this machine, docker:dind starts one in the sandbox"
	case strings.Contains(s, ".."):
		return "leave out `..`"
	}
	return ""
}

// pathProblem is about absolute paths in the sandbox.
func pathProblem(s string) string {
	if !strings.HasPrefix(s, "/") {
		return "want an absolute path"
	}
	return dotsProblem(s)
}

func dotsProblem(s string) string {
	for part := range strings.SplitSeq(s, "/") {
		if part == ".." {
			return "leave out `..`"
		}
	}
	if path.Clean(s) == "/" {
		return "this is the root of the sandbox"
	}
	return ""
}

func mountProblem(s string) string {
	parts := strings.Split(s, ":")
	if len(parts) < 2 || !strings.HasPrefix(parts[1], "/") {
		return "" // the pattern says what is wrong
	}
	return dotsProblem(parts[1])
}

func excludeProblem(s string) string {
	if strings.HasPrefix(s, "/") || path.Clean(s) == "." {
		return "want a path below the target"
	}
	return dotsProblem(s)
}

// hostProblem is about the host of a network rule, which is the first of its fields.
func hostProblem(s string) string {
	fields := strings.Fields(s)
	if len(fields) == 0 {
		return "it is empty"
	}
	host := fields[0]
	if strings.Contains(host, "://") {
		return "write only the host, without https:// and without a path"
	}
	if stars := strings.Count(strings.TrimPrefix(host, "*."), "*"); stars > 0 && host != "*" && !strings.HasPrefix(host, "*:") && strings.Contains(strings.TrimSuffix(strings.TrimPrefix(host, "*."), ":*"), "*") {
		return "a wildcard is only at the beginning, and *.example.com covers any depth"
	}
	if colon := strings.LastIndexByte(host, ':'); colon >= 0 && !strings.HasSuffix(host, "]") {
		if port, err := strconv.Atoi(host[colon+1:]); err == nil && (port < 1 || port > 65535) {
			return "ports are 1 to 65535"
		}
	}
	return ""
}

func urlProblem(s string) string {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "":
		return "it is no URL"
	case u.User != nil:
		return "leave the user and the password out; a grant belongs there"
	}
	return ""
}

func addressProblem(s string) string {
	if addr, err := netip.ParseAddr(s); err != nil || addr.Zone() != "" {
		return "want an IP address"
	}
	return ""
}

func policyProblem(s string) string {
	if isPolicyFile(s) && (strings.HasPrefix(s, "/") || dotsProblem(s) != "") {
		return "want a file in the workspace"
	}
	return ""
}

// isPolicyFile tells the path of a policy from the name of one.
func isPolicyFile(s string) bool {
	return strings.Contains(s, "/") || strings.HasSuffix(s, ".yaml") || strings.HasSuffix(s, ".yml")
}
