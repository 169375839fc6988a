// Package plan is what the program gateprog is told, and what it says of it: one
// step for each attempt to get out of a sandbox, and one result for each step.
package plan

// Step is one attempt.
type Step struct {
	Name string `json:"name"`
	// Do is what kind of attempt it is:
	//
	//   - "": talk to the gate, or to Address (network:address), and read answers
	//   - "dial": connect to Address
	//   - "query": send a question of the name service to Address, by UDP
	//   - "resolve": look Address up, as programs do
	//   - "scan": connect to all addresses and networks of Address, which commas
	//     separate, at the ports of Numbers, from one to another in pairs, and list
	//     who answers
	//   - "shout": send Send to Address, by UDP and from Device
	//   - "ask": look Address up at the name server Connect, by TCP
	//   - "socket": open a socket of Numbers: family, type, protocol
	//   - "sockets": list the Unix sockets in the file system and in the table of
	//     mounts
	//   - "change": make, replace, remove, link and open files in the directory Address
	//   - "hold": open as many connections as Numbers says, send Send on each, and keep
	//     them until the program ends
	//   - "close": open as many, send Send on each, and close them at once
	Do      string      `json:"do,omitempty"`
	Address string      `json:"address,omitempty"`
	Numbers []int       `json:"numbers,omitempty"`
	Device  string      `json:"device,omitempty"`  // the interface that a "scan" or "shout" binds to
	Connect string      `json:"connect,omitempty"` // the target of a CONNECT before all else
	TLS     *string     `json:"tls,omitempty"`     // speak TLS, with this server name
	Headers [][2]string `json:"headers,omitempty"` // of one request by HTTP/2, as they are
	Send    string      `json:"send,omitempty"`
	Answers int         `json:"answers,omitempty"` // how many to read; zero is one
}

// Result is what came of a step.
type Result struct {
	Name    string   `json:"name"`
	Answers []Answer `json:"answers,omitempty"`
	Found   []string `json:"found,omitempty"`
	Error   string   `json:"error,omitempty"`
}

// Answer is one answer by HTTP.
type Answer struct {
	Status int         `json:"status"`
	Header [][2]string `json:"header,omitempty"` // by HTTP/2 only
	Body   string      `json:"body"`
}
