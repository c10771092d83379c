// Drives msb mcp with the official TypeScript client over standard input and output.
import { createRequire } from "node:module";

const require = createRequire(process.env.NPM_DIR + "/any.js");
const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
const { StdioClientTransport } = require("@modelcontextprotocol/sdk/client/stdio.js");

const client = new Client({ name: "test", version: "1" });
await client.connect(new StdioClientTransport({ command: process.env.MSB, args: ["mcp"], env: { MSB_HOME: process.env.MSB_HOME, HOME: process.env.HOME, PATH: process.env.PATH } }));
console.log("server:", client.getServerVersion().name);
console.log("tools:", (await client.listTools()).tools.map((t) => t.name).sort().join(" "));
console.log("prompts:", (await client.listPrompts()).prompts.map((p) => p.name).join(" "));
const where = { sandbox: "ts", namespace: "default" };
async function call(name, args) {
  const r = await client.callTool({ name, arguments: { ...where, ...args } });
  return `${r.isError ? "error " : ""}${r.content[0].text}`;
}
console.log("start:", await call("sandbox_start", { config: { image: "host", memory: 256 } }));
console.log("command:", JSON.parse(await call("sandbox_run_command", { command: "echo", args: ["from the sandbox"] })).output[0].text);
console.log("missing:", (await call("sandbox_run_command", { command: "no-such-command" })).split(":")[0]);
await call("sandbox_write_file", { path: "/tmp/x", content: "kept" });
console.log("file:", JSON.parse(await call("sandbox_read_file", { path: "/tmp/x" })).content);
console.log("stop:", await call("sandbox_stop", {}));
await client.ping();
await client.close();
