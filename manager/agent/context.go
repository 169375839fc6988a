package agent

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Context is what an agent is told about its sandbox. It is made of what was decided
// in the end and not of what was asked for: an agent that is told less than it may do
// refuses work, and one that is told more wastes its time.
type Context struct {
	Run       string // its name
	Workspace string
	Isolation string // what stands between the sandbox and the host
	// Network says what may be reached.
	Network Network
	// Hosts are those that a strict network lets through, each as its rule says it.
	Hosts []string
	// Denied are operations that are refused where the network lets them through.
	Denied []string
	Grants []Granted
	// Secrets are variables of the environment, of which nobody is to print the values.
	Secrets []string

	Services []Service
	Ports    []Port

	MemoryBytes int64
	CPUs        float64
	Processes   int64
	Deadline    time.Time // zero if there is none
}

// Network is how a sandbox reaches others.
type Network string

// The networks.
const (
	NetworkNone       Network = "none"       // nothing is reached
	NetworkStrict     Network = "strict"     // the listed hosts and those of grants
	NetworkPermissive Network = "permissive" // every public host
)

// Granted is a grant of the run.
type Granted struct {
	Name  string
	Hosts []string
}

// Service is something beside the sandbox that it can use.
type Service struct {
	Name      string
	Address   string
	Variables string // which of the environment say how to log in; empty if none
}

// Port is one of the sandbox's that is published.
type Port struct {
	Name   string
	Number int
	URL    string // by which people reach it, in their browser; empty if none is known
}

// Limits of the document: what it lists may come from a configuration that nobody
// has read.
const (
	maxListed = 100 // lines of one list
	maxPhrase = 300 // bytes of one value
)

// Document returns the context as Markdown, which is the same for all agents.
func (c Context) Document() string {
	var b strings.Builder
	b.WriteString("# Where you work\n\nYou run inside a sandbox that Drawbridge made for you. ")
	b.WriteString("It is the boundary: inside it you need no permission, and what it refuses stays refused.\n\n")
	if c.Run != "" {
		fmt.Fprintf(&b, "- Run: %s\n", phrase(c.Run))
	}
	if c.Isolation != "" {
		fmt.Fprintf(&b, "- Isolation: %s\n", phrase(c.Isolation))
	}
	fmt.Fprintf(&b, "- Workspace: %s. It is a directory of the host: what you write there stays. Everything else goes with the sandbox.\n", phrase(c.Workspace))
	c.writeNetwork(&b)
	c.writeGrants(&b)
	c.writeSecrets(&b)
	c.writeNeighbours(&b)
	c.writeLimits(&b)
	return b.String()
}

func (c Context) writeNetwork(b *strings.Builder) {
	b.WriteString("\n## Network\n\n")
	switch c.Network {
	case NetworkNone:
		b.WriteString("There is none. Do not try to download anything.\n")
		return
	case NetworkPermissive:
		b.WriteString("Every public host can be reached by HTTP and HTTPS")
	default:
		b.WriteString("Only these hosts, and those of the grants below, can be reached by HTTP and HTTPS")
	}
	b.WriteString(", through the proxy that the environment names. All requests are recorded.\n")
	if c.Network != NetworkPermissive {
		b.WriteString("\n")
		list(b, c.Hosts, phrase)
	}
	if len(c.Denied) > 0 {
		b.WriteString("\nThese requests, and tools of MCP servers, are denied where the hosts are reached:\n\n")
		list(b, c.Denied, phrase)
	}
	b.WriteString("\nA request that is refused gets status 403 and a JSON body that says which rule refused it. ")
	b.WriteString("Trying again does not help: tell whoever gave you the task which host you need, and for what.\n")
}

func (c Context) writeGrants(b *strings.Builder) {
	if len(c.Grants) == 0 {
		return
	}
	b.WriteString("\n## Grants\n\nYou may use these services. Their credentials are put into your requests on the way out; ")
	b.WriteString("what you see of them in variables and files are placeholders, which is right and works.\n\n")
	list(b, c.Grants, func(g Granted) string {
		if len(g.Hosts) == 0 {
			return phrase(g.Name)
		}
		hosts := make([]string, 0, min(len(g.Hosts), maxListed))
		for _, host := range g.Hosts[:min(len(g.Hosts), maxListed)] {
			hosts = append(hosts, phrase(host))
		}
		return phrase(g.Name) + ": " + strings.Join(hosts, ", ")
	})
}

func (c Context) writeSecrets(b *strings.Builder) {
	if len(c.Secrets) == 0 {
		return
	}
	b.WriteString("\n## Secrets\n\nThese variables of your environment are secrets. Programs can use them; ")
	b.WriteString("do not write their values into files or requests that are not about them. In output they are replaced by asterisks.\n\n")
	list(b, c.Secrets, phrase)
}

func (c Context) writeNeighbours(b *strings.Builder) {
	if len(c.Services) > 0 {
		b.WriteString("\n## Services\n\nThese are yours alone, without the proxy, and go with the sandbox.\n\n")
		list(b, c.Services, func(s Service) string {
			text := phrase(s.Name) + " at " + phrase(s.Address)
			if s.Variables != "" {
				text += ", see the variables " + phrase(s.Variables)
			}
			return text
		})
	}
	if len(c.Ports) > 0 {
		b.WriteString("\n## Ports\n\nWhat listens on these is published on the host.\n\n")
		list(b, c.Ports, func(p Port) string {
			text := fmt.Sprintf("%d, as %s", p.Number, phrase(p.Name))
			if p.URL != "" {
				text += ": people reach it at " + phrase(p.URL) + ", and you on 127.0.0.1"
			}
			return text
		})
	}
}

func (c Context) writeLimits(b *strings.Builder) {
	var limits []string
	if c.MemoryBytes > 0 {
		limits = append(limits, fmt.Sprintf("Memory: %d MiB. What needs more is killed.", c.MemoryBytes>>20))
	}
	if c.CPUs > 0 {
		limits = append(limits, fmt.Sprintf("CPUs: %g.", c.CPUs))
	}
	if c.Processes > 0 {
		limits = append(limits, fmt.Sprintf("Processes: %d.", c.Processes))
	}
	if !c.Deadline.IsZero() {
		limits = append(limits, fmt.Sprintf("The sandbox ends at %s.", c.Deadline.UTC().Format(time.RFC3339)))
	}
	if len(limits) > 0 {
		b.WriteString("\n## Limits\n\n")
		list(b, limits, func(line string) string { return line })
	}
}

// list writes a bounded list.
func list[T any](b *strings.Builder, all []T, line func(T) string) {
	if len(all) == 0 {
		b.WriteString("- (none)\n")
	}
	for _, one := range all[:min(len(all), maxListed)] {
		fmt.Fprintf(b, "- %s\n", line(one))
	}
	if left := len(all) - maxListed; left > 0 {
		fmt.Fprintf(b, "- and %d more\n", left)
	}
}

// phrase makes a value one short line of code in Markdown, whatever it holds: a value
// must not be able to write further instructions.
func phrase(value string) string {
	value = strings.Map(func(r rune) rune {
		if r == '`' || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, value)
	return "`" + strings.TrimSpace(clip(value, maxPhrase)) + "`"
}
