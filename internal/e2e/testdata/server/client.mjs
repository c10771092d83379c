// Uses the API as the JavaScript SDK of 0.2 did: a UUID for an id, everything to /api/v1/rpc, any status but 2xx is an error, and so is
// a body that has "error" at all.
import { randomUUID } from "node:crypto";

const url = process.env.MSB_SERVER_URL, key = process.env.MSB_API_KEY, name = "old-node";

async function call(method, params) {
  const response = await fetch(`${url}/api/v1/rpc`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${key}` },
    body: JSON.stringify({ jsonrpc: "2.0", method, params, id: randomUUID() }),
  });
  if (!response.ok) throw new Error(`${method}: ${await response.text()}`);
  const body = await response.json();
  if ("error" in body) throw new Error(`${method}: ${body.error.message}`);
  return body.result;
}

const where = { sandbox: name, namespace: "default" };
const config = { image: process.env.MSB_IMAGE, memory: 512, cpus: 1 };
const run = (command, args, timeout) => call("sandbox.command.run", { ...where, command, args, ...(timeout && { timeout }) });
const text = (r) => r.output.filter((l) => l.stream === "stdout").map((l) => l.text).join("\n");
const failing = (p) => p.then(() => "no error", () => "error");

console.log("start:", await call("sandbox.start", { namespace: "default", sandbox: name, config }));
console.log("again:", await call("sandbox.start", { namespace: "default", sandbox: name, config }));
let r = await run("sh", ["-c", "echo hello $((1+2))"]);
console.log("command:", text(r), r.success, r.exit_code);
r = await run("sh", ["-c", "exit 2"]);
console.log("failing:", r.exit_code, r.success);
console.log("missing:", await failing(run("no-such-command", [])));
console.log("timeout:", await failing(run("sleep", ["10"], 1)));
console.log("after:", text(await run("echo", ["still here"])));
let m = (await call("sandbox.metrics.get", where)).sandboxes[0];
console.log("metrics:", typeof m.memory_usage, typeof m.cpu_usage, typeof m.running);
console.log("stop:", await call("sandbox.stop", where));
m = (await call("sandbox.metrics.get", where)).sandboxes[0];
console.log("stopped:", m.running, m.memory_usage);
