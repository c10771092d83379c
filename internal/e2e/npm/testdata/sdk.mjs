// What the official SDK is to do with a server of ours (contract msb-0.6 §3.7). It ends with the line "done", and fails at the first
// thing that is not as it should be.
import assert from 'node:assert/strict';
import { Sandbox, Volume, SandboxNotFoundError, SandboxAlreadyExistsError } from 'microsandbox';

const step = async (name, f) => { await f(); console.log('ok', name); };
const bytes = (s) => new TextEncoder().encode(s);
const text = (b) => new TextDecoder().decode(b);
let box;

await step('create', async () => {
  box = await Sandbox.builder('sdk').image('host').cpus(1).memory(256).env('GREETING', 'hello').workdir('/usr').label('team', 'red').create();
  assert.equal(box.name, 'sdk');
  assert.equal(box.backendKind, 'cloud');
  assert.match(box.id, /^cloud:[0-9a-f-]{36}$/);
  await assert.rejects(Sandbox.builder('sdk').image('host').create(), SandboxAlreadyExistsError);
  await assert.rejects(Sandbox.get('nobody'), SandboxNotFoundError);
});
await step('connectOrCreate', async () => {
  const again = await Sandbox.builder('sdk').image('host').connectOrCreate();
  assert.equal(again.id, box.id);
  const fresh = await Sandbox.builder('sdk-fresh').image('host').memory(256).connectOrCreate();
  assert.notEqual(fresh.id, box.id);
  await fresh.destroy();
});
await step('exec', async () => {
  const out = await box.exec('sh', ['-c', 'echo $GREETING; pwd; echo oops >&2; exit 3']);
  assert.deepEqual([out.stdout(), out.stderr(), out.code], ['hello\n/usr\n', 'oops\n', 3]);
  const given = await box.execWith('cat', (b) => b.stdinBytes(bytes('given\n')));
  assert.equal(given.stdout(), 'given\n');
  const slow = box.execWith('sleep', (b) => b.arg('60').timeout(1000));
  await assert.rejects(slow, /timed out/);
});
await step('shell', async () => {
  const out = await box.shell('echo one | tr a-z A-Z');
  assert.deepEqual([out.stdout(), out.code], ['ONE\n', 0]);
});
await step('execStream', async () => {
  const h = await box.execStreamWith('sh', (b) => b.args(['-c', 'read a; echo got $a; echo e >&2; exit 4']).stdinPipe());
  const stdin = await h.takeStdin();
  await stdin.write('line\n');
  await stdin.close();
  let out = '', err = '', code = -1, started = false;
  for await (const e of h) {
    if (e.kind === 'started') started = true;
    if (e.kind === 'stdout') out += text(e.data);
    if (e.kind === 'stderr') err += text(e.data);
    if (e.kind === 'exited') code = e.code;
  }
  assert.deepEqual([started, out, err, code], [true, 'got line\n', 'e\n', 4]);
  const killed = await box.execStream('sleep', ['60']);
  await killed.kill();
  assert.notEqual((await killed.wait()).code, 0);
});
await step('fs', async () => {
  const fs = box.fs();
  await fs.mkdir('/work/deep');
  await fs.write('/work/a.txt', 'alpha');
  assert.equal(await fs.readToString('/work/a.txt'), 'alpha');
  await fs.copy('/work/a.txt', '/work/deep/b.txt');
  await fs.rename('/work/a.txt', '/work/c.txt');
  assert.equal(await fs.exists('/work/a.txt'), false);
  assert.deepEqual((await fs.list('/work')).map((e) => [e.path, e.kind]).sort(), [['/work/c.txt', 'file'], ['/work/deep', 'directory']]);
  assert.equal((await fs.stat('/work/c.txt')).size, 5);
  const big = new Uint8Array(5 << 20).fill(7);
  await fs.write('/work/big', big);
  let n = 0;
  for await (const part of await fs.readStream('/work/big')) n += part.length;
  assert.equal(n, big.length);
  await fs.remove('/work/c.txt');
  await fs.removeDir('/work');
  assert.equal(await fs.exists('/work'), false);
  await assert.rejects(fs.read('/none'));
});
await step('logStream', async () => {
  const seen = [];
  let cursor;
  const first = await box.logStream({ follow: true });
  for await (const e of first) {
    seen.push(e.text());
    cursor = e.cursor;
    if (seen.join('').includes('ONE')) break;
  }
  assert.ok(seen.join('').startsWith('hello\n/usr\n') || seen.join('').startsWith('oops\n'), seen.join(''));
  await box.shell('echo after the cursor');
  const rest = await box.logStream({ follow: true, fromCursor: cursor });
  const later = [];
  for await (const e of rest) {
    later.push(e.text());
    if (later.join('').includes('after the cursor')) break;
  }
  assert.ok(!later.join('').includes('ONE'));
});
await step('list', async () => {
  const others = [];
  for (let i = 0; i < 3; i++) others.push(await Sandbox.builder('sdk-' + i).image('host').memory(256).label('team', 'blue').create());
  const names = (p) => p.sandboxes.map((s) => s.name);
  assert.deepEqual(names(await Sandbox.listWith((l) => l.label('team', 'blue'))), ['sdk-2', 'sdk-1', 'sdk-0']);
  const one = await Sandbox.listWith((l) => l.label('team', 'blue').limit(2));
  assert.deepEqual(names(one), ['sdk-2', 'sdk-1']);
  const two = await Sandbox.listWith((l) => l.label('team', 'blue').limit(2).cursor(one.nextCursor));
  assert.deepEqual([names(two), two.nextCursor ?? null], [['sdk-0'], null]);
  assert.ok(names(await Sandbox.list()).includes('sdk'));
  for (const o of others) await o.destroy();
});
await step('stop and restart', async () => {
  await box.shell('echo kept > /kept; sync');
  await box.stop();
  const handle = await Sandbox.get('sdk');
  assert.equal(handle.status, 'stopped');
  const started = await handle.connectOrStart();
  assert.equal((await started.shell('cat /kept')).stdout(), 'kept\n');
  const restarted = await started.restart();
  assert.equal(restarted.id, box.id);
  assert.equal((await restarted.shell('cat /kept')).stdout(), 'kept\n');
  await restarted.destroy();
  await assert.rejects(Sandbox.get('sdk'), SandboxNotFoundError);
});
await step('volumes', async () => {
  const v = await Volume.builder('sdk-vol').create();
  await assert.rejects(Volume.builder('sdk-vol').create());
  const fs = v.fs();
  await fs.write('dir/a.txt', 'from outside');
  const user = await Sandbox.builder('sdk-user').image('host').memory(256).volume('/data', (m) => m.named('sdk-vol')).create();
  const out = await user.shell('cat /data/dir/a.txt; stat -c " %u:%g %a" /data/dir/a.txt; echo from inside > /data/b.txt; chmod 640 /data/b.txt; chown 7:8 /data/b.txt; ln -s /etc/passwd /data/link; sync');
  assert.equal(out.stdout(), 'from outside 0:0 644\n');
  assert.equal(await fs.readToString('b.txt'), 'from inside\n');
  assert.equal((await fs.stat('/b.txt')).mode & 0o7777, 0o640);
  await assert.rejects(fs.read('link'));
  await assert.rejects(fs.read('../../etc/passwd'));
  assert.deepEqual((await fs.list('/')).map((e) => e.path), ['/b.txt', '/dir', '/link']);
  await fs.write('b.txt', 'anew');
  assert.equal((await user.shell('cat /data/b.txt; stat -c " %u:%g %a" /data/b.txt')).stdout(), 'anew 7:8 640\n');
  await fs.mkdir('d2');
  await fs.copy('b.txt', 'd2/c.txt');
  await fs.rename('d2/c.txt', 'd2/d.txt');
  assert.deepEqual([await fs.exists('d2/c.txt'), await fs.exists('d2/d.txt')], [false, true]);
  const sink = await fs.writeStream('big');
  for (let i = 0; i < 8; i++) await sink.write(new Uint8Array(1 << 20).fill(i));
  await sink.close();
  assert.equal((await fs.stat('big')).size, 8 << 20);
  assert.equal((await (await fs.readStream('big')).collect()).length, 8 << 20);
  await fs.remove('b.txt');
  await fs.removeDir('d2');
  assert.ok((await Volume.list()).some((h) => h.name === 'sdk-vol'));
  await assert.rejects(Volume.remove('sdk-vol'));
  await user.destroy();
  await Volume.remove('sdk-vol');
  await assert.rejects(Volume.get('sdk-vol'));
});
await step('default volume', async () => {
  await assert.rejects(Volume.getDefault());
  await Volume.builder('default').create();
  const v = await Volume.getDefault();
  assert.equal(v.isDefault, true); // it has no name to the SDK
  await v.fs().write('a', 'of all');
  assert.equal(await v.fs().readToString('a'), 'of all');
  await Volume.remove('default');
});
await step('secrets', async () => {
  const s = await Sandbox.builder('sdk-secret').image('host').memory(256).secret((x) => x.env('TOKEN').value('hush-value').allowHost('api.example.com')).create();
  assert.equal((await s.shell('echo $TOKEN')).stdout(), '$MSB_TOKEN\n');
  await s.stop();
  const again = await (await Sandbox.get('sdk-secret')).connectOrStart(); // its value was kept
  assert.equal((await again.shell('echo $TOKEN')).stdout(), '$MSB_TOKEN\n');
  await again.destroy();
});
console.log('done');
process.exit(0);
