// The part of a Node.js kernel that runs in the guest's interpreter. The agent starts it with cells to come on descriptor
// 3 and events to go on 4, and is told on 5 how many values have been passed on (see kernelproc.go for all that); 1 and 2 are
// pipes, 0 is empty. It is the body of a function of (require, load), where load imports a module as the main program would.
'use strict';
const fs = require('fs');
const net = require('net');
const path = require('path');
const util = require('util');
const vm = require('vm');
const { createRequire, builtinModules } = require('module');

const CHUNK = 60000; // bytes of one event
const JSON_LIMIT = 1 << 20; // bytes; more is not worth a second form
const DISPLAY = Symbol.for('Jupyter.display'); // a method that returns {MIME type: data}

let number = 0; // of the cell
let cell = null; // {exit: code, stop: reject} while one runs

const write = fs.writeSync.bind(fs);
function send(kind, body) {
  const head = Buffer.alloc(9);
  head.writeUInt32BE(body.length + 5, 0);
  head.write(kind, 4, 'latin1');
  head.writeUInt32BE(number, 5);
  let data = Buffer.concat([head, body]);
  while (data.length > 0) {
    try {
      data = data.subarray(write(4, data));
    } catch (e) {
      // Code may have closed it. Then nobody can be told of the cell's end.
      if (e.code !== 'EAGAIN' && e.code !== 'EINTR') process.kill(process.pid, 'SIGKILL');
    }
  }
}

function emit(bundle) {
  const parts = Object.entries(bundle).filter(([mime]) => mime.length > 0 && mime.length < 128);
  parts.forEach(([mime, data], i) => {
    data = Buffer.from(data);
    let at = 0;
    do {
      const chunk = data.subarray(at, at + CHUNK);
      at += chunk.length;
      const more = i + 1 < parts.length || at < data.length;
      const name = Buffer.from(mime, 'latin1');
      send('M', Buffer.concat([Buffer.from([more ? 1 : 0, name.length]), name, chunk]));
    } while (at < data.length);
  });
  if (parts.length > 0) waitShown();
}

// waitShown waits until the last value has been passed on, so that what is written from now on comes after it.
let emitted = 0;
const read = fs.readSync.bind(fs);
function waitShown() {
  emitted++;
  const told = Buffer.alloc(4);
  do {
    for (let at = 0; at < 4;) {
      const got = read(5, told, at, 4 - at);
      if (got === 0) really.call(process, 0); // nobody listens any more
      at += got;
    }
  } while (told.readUInt32BE(0) < emitted); // else it is of one that was not waited for
}

function form(mime, data) {
  if (Buffer.isBuffer(data) || data instanceof Uint8Array) return data;
  if (typeof data === 'string') return /^(image\/(?!svg)|application\/pdf)/.test(mime) ? Buffer.from(data, 'base64') : data;
  if (mime === 'application/json' || mime.endsWith('+json')) return JSON.stringify(data);
  return undefined;
}

function bundleOf(value) {
  const bundle = {};
  const custom = value !== null && typeof value === 'object' && typeof value[DISPLAY] === 'function';
  if (custom) {
    for (const [mime, data] of Object.entries(value[DISPLAY]() || {})) {
      const f = form(mime, data);
      if (f !== undefined) bundle[mime] = f;
    }
  }
  const proto = value !== null && typeof value === 'object' ? Object.getPrototypeOf(value) : undefined;
  if (!custom && (Array.isArray(value) || proto === Object.prototype)) {
    try {
      const json = JSON.stringify(value);
      if (json !== undefined && json.length <= JSON_LIMIT) bundle['application/json'] = json;
    } catch {} // a cycle, a BigInt
  }
  if (!('text/plain' in bundle)) return { 'text/plain': util.inspect(value), ...bundle };
  return bundle;
}

function display(...values) {
  for (const v of values) emit(bundleOf(v));
}

// Exit is what process.exit throws, because nothing else leaves the code that called it. It ends the cell, not the kernel.
class Exit {
  constructor(code) {
    this.code = code;
  }
}

function exit(code = process.exitCode) {
  process.exitCode = undefined;
  const e = new Exit(Number(code ?? 0) & 0xff);
  if (cell) {
    cell.exit = e;
    cell.stop(e);
  }
  throw e;
}

const isError = (e) => e instanceof Error || util.types.isNativeError(e);

// stackOf is an error's stack without the frames of the driver.
function stackOf(e) {
  if (!isError(e)) return 'Uncaught ' + util.inspect(e);
  let text;
  try {
    text = util.inspect(e);
  } catch {
    text = String(e);
  }
  const internal = /^\s+at .*(msb-kernel|node:vm|node:internal|\[eval\])/;
  const lines = text.split('\n').filter((l) => !internal.test(l));
  const first = lines.findIndex((l) => l.startsWith(e.name)); // after the line of code
  lines[Math.max(0, first)] = 'Uncaught ' + lines[Math.max(0, first)];
  return lines.join('\n');
}

// failed is an error that no cell waits for: of a timer, of an event.
function failed(e) {
  if (e instanceof Exit) return; // its cell knows, or there is none any more
  process.stderr.write(stackOf(e) + '\n');
}

process.on('uncaughtException', failed);
process.on('unhandledRejection', failed);
process.on('SIGINT', () => {
  if (cell) cell.stop(interrupted());
});

function interrupted() {
  const e = new Error('Script execution was interrupted by `SIGINT`');
  e.code = 'ERR_SCRIPT_EXECUTION_INTERRUPTED';
  e.stack = e.message;
  return e;
}

// The rewriting of top-level await is the REPL's own: what it declares is still there in the next cell.
let rewrite = () => null;
try {
  rewrite = require('internal/repl/await').processTopLevelAwait;
} catch {}

const warn = process.emitWarning;
process.emitWarning = function (warning, ...rest) {
  if (!/vm\.USE_MAIN_CONTEXT_DEFAULT_LOADER|VM Modules|importModuleDynamically/.test(String(warning))) warn.call(process, warning, ...rest);
};
const loader = vm.constants?.USE_MAIN_CONTEXT_DEFAULT_LOADER ?? ((specifier) => load(specifier));

function compile(code, filename) {
  return new vm.Script(code, { filename, displayErrors: true, importModuleDynamically: loader });
}

// evaluate runs a cell and returns a promise of its last expression's value.
async function evaluate(code, filename) {
  let source = code;
  if (/^\s*\{/.test(code) && !/;\s*$/.test(code)) { // as in every console, this is an object and not a block
    try {
      new vm.Script(`(${code.trim()}\n)`, { filename });
      source = `(${code.trim()}\n)`;
    } catch {}
  }
  let awaiting = false;
  if (/\bawait\b/.test(source)) {
    let rewritten = null;
    try {
      rewritten = rewrite(source);
    } catch {} // compile says what is wrong with it
    if (rewritten !== null) {
      source = rewritten;
      awaiting = true;
    }
  }
  const script = compile(source, filename);
  const value = script.runInThisContext({ breakOnSigint: true, displayErrors: true });
  if (!awaiting) return { value };
  const result = await value; // {value}, for node 18 and later
  return { value: result && typeof result === 'object' && 'value' in result ? result.value : undefined };
}

async function run(mode, code) {
  let stop;
  const stopped = new Promise((resolve, reject) => { stop = reject; });
  stopped.catch(() => {});
  cell = { exit: null, stop };
  const mine = cell;
  send('S', Buffer.alloc(0));
  try {
    const { value } = await Promise.race([evaluate(code, `cell${number}.js`), stopped]);
    if (mode !== 'n' && value !== undefined) {
      globalThis._ = value;
      display(value);
    }
    if (mine.exit) return ['x', mine.exit.code, '', ''];
    return ['o', 0, '', ''];
  } catch (e) {
    if (mine.exit) return ['x', mine.exit.code, '', ''];
    let name = 'Error';
    let words = '';
    try {
      name = isError(e) ? String(e.name) : 'Uncaught';
      words = isError(e) ? String(e.message) : util.inspect(e);
      process.stderr.write(stackOf(e) + '\n');
    } catch {}
    const status = e && e.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED' ? 'i' : 'e';
    return [status, 1, name, words];
  } finally {
    cell = null;
  }
}

// flushed waits until what was written is in the pipes. They are made blocking below, which is not in the documentation.
const flushed = () => Promise.all([process.stdout, process.stderr].map((stream) => new Promise((resolve) => {
  if (!stream.writable || stream.destroyed) resolve();
  else stream.write('', resolve);
})));

async function serve() {
  const input = new net.Socket({ fd: 3, readable: true, writable: false });
  let have = Buffer.alloc(0);
  for await (const chunk of input) {
    have = have.length ? Buffer.concat([have, chunk]) : chunk;
    while (have.length >= 4 && have.length >= 4 + have.readUInt32BE(0)) {
      const size = have.readUInt32BE(0);
      const body = have.subarray(4, 4 + size);
      have = have.subarray(4 + size);
      number = body.readUInt32BE(0);
      const [status, code, name, words] = await run(String.fromCharCode(body[4]), body.toString('utf8', 5));
      await flushed();
      const end = Buffer.alloc(5);
      end.write(status, 0, 'latin1');
      end.writeInt32BE(code, 1);
      send('D', Buffer.concat([end, Buffer.from(name.slice(0, 200) + '\0' + words.slice(0, 4000))]));
    }
  }
  really.call(process, 0);
}

for (const stream of [process.stdout, process.stderr]) stream._handle?.setBlocking?.(true);
const really = process.reallyExit;
process.exit = exit;
process.execArgv = [];
process.argv = [process.argv[0]];
// What a REPL has: the modules by their names, require from the working directory, display and _.
const here = path.join(process.cwd(), '[cell]');
globalThis.require = createRequire(here);
globalThis.module = { exports: {}, filename: here, paths: globalThis.require.resolve.paths('x') };
globalThis.exports = globalThis.module.exports;
globalThis.display = display;
for (const name of builtinModules) {
  if (name.startsWith('_') || name.includes('/') || name in globalThis) continue;
  Object.defineProperty(globalThis, name, {
    configurable: true,
    get: () => {
      const lib = require(name);
      globalThis[name] = lib;
      return lib;
    },
    set: (value) => {
      Object.defineProperty(globalThis, name, { configurable: true, enumerable: true, writable: true, value });
    },
  });
}
send('R', Buffer.alloc(0));
serve();
