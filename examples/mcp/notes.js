// An MCP server on standard input and output, with one tool: it adds a line to the
// file that $NOTES names.
const { appendFileSync } = require("node:fs");

const tool = {
  name: "take_note",
  description: "Adds a line to the notes",
  inputSchema: { type: "object", properties: { text: { type: "string" } }, required: ["text"] },
};

const methods = {
  initialize: ({ protocolVersion }) => ({ protocolVersion, capabilities: { tools: {} }, serverInfo: { name: "notes", version: "1" } }),
  "tools/list": () => ({ tools: [tool] }),
  "tools/call": (params) => {
    appendFileSync(process.env.NOTES, params.arguments.text + "\n");
    return { content: [{ type: "text", text: "noted" }] };
  },
  ping: () => ({}),
};

require("node:readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const { id, method, params } = JSON.parse(line);
  if (id === undefined) return; // a notification
  const answer = methods[method]
    ? { result: methods[method](params) }
    : { error: { code: -32601, message: `there is no method ${method}` } };
  console.log(JSON.stringify({ jsonrpc: "2.0", id, ...answer }));
});
