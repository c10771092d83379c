# The part of a Python kernel that runs in the guest's interpreter. The agent starts it with cells to come on descriptor 3
# and events to go on 4, and is told on 5 how many values have been passed on (see kernelproc.go for all that); 1 and 2 are
# pipes, 0 is empty.
import _thread
import ast
import builtins
import linecache
import os
import signal
import sys
import traceback

DRIVER = "<msb kernel>"
CHUNK = 60000  # bytes of one event
JSON_LIMIT = 1 << 20  # bytes; more is not worth a second form
SOURCES = 1000  # cells whose lines are kept for tracebacks
SOURCES_SIZE = 4 << 20  # characters of them
FUTURES = 0
for _name in __import__("__future__").all_feature_names:
    FUTURES |= getattr(__import__("__future__"), _name).compiler_flag
AWAIT = getattr(ast, "PyCF_ALLOW_TOP_LEVEL_AWAIT", 0)  # from Python 3.8
KERNEL = os.getpid()


def recv(n, fd=3):
    data = b""
    while len(data) < n:
        chunk = os.read(fd, n - len(data))
        if not chunk:  # nobody will ask for more
            os._exit(0)
        data += chunk
    return data


def send(kind, body):
    body = kind + NUMBER + body
    data = len(body).to_bytes(4, "big") + body
    while data:
        try:
            data = data[os.write(4, data):]
        except InterruptedError:
            pass
        except OSError:  # code has closed it: nobody can be told of the cell's end
            os.kill(os.getpid(), signal.SIGKILL)


NUMBER = b"\0\0\0\0"  # of the cell
running = False  # code of a cell
started = ""  # the name of its file


def on_interrupt(signum, frame):
    if running and os.getpid() == KERNEL:
        raise KeyboardInterrupt


def flush():
    for f in (sys.stdout, sys.stderr):
        try:
            f.flush()
        except Exception:
            pass


def emit(bundle):
    """Sends a result: {MIME type: str or bytes}."""
    flush()
    if os.getpid() != KERNEL:  # whom nobody tells anything
        return
    parts = []
    for mime, data in bundle.items():
        if isinstance(data, str):
            data = data.encode("utf-8", "backslashreplace")
        if isinstance(mime, str) and 0 < len(mime) < 128 and isinstance(data, (bytes, bytearray)):
            parts.append((mime.encode("ascii", "replace"), bytes(data)))
    with emitting:
        for i, (mime, data) in enumerate(parts):
            at = 0
            while True:
                chunk = data[at:at + CHUNK]
                at += len(chunk)
                more = i + 1 < len(parts) or at < len(data)
                send(b"M", bytes([more, len(mime)]) + mime + chunk)
                if at >= len(data):
                    break
        if parts:
            wait_shown()


emitting = _thread.allocate_lock()
emitted = 0  # values


def wait_shown():
    """Waits until the last value has been passed on, so that what is written from now on comes after it."""
    global emitted
    emitted += 1
    while True:
        told = recv(4, 5)
        if int.from_bytes(told, "big") >= emitted:  # else it is of one that was not waited for
            return


def to_json(value):
    import json
    size = 0
    parts = []
    for part in json.JSONEncoder(allow_nan=False, check_circular=True).iterencode(value):
        size += len(part)
        if size > JSON_LIMIT:
            return None
        parts.append(part)
    return "".join(parts)


BINARY = {"image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf"}
METHODS = (
    ("text/html", "_repr_html_"),
    ("image/png", "_repr_png_"),
    ("image/jpeg", "_repr_jpeg_"),
    ("image/svg+xml", "_repr_svg_"),
    ("text/markdown", "_repr_markdown_"),
    ("text/latex", "_repr_latex_"),
    ("application/json", "_repr_json_"),
)


def form(mime, data):
    """What a _repr_…_ method returned, as text or bytes; None if it is neither."""
    if isinstance(data, tuple) and len(data) == 2:  # and metadata
        data = data[0]
    if data is None:
        return None
    if mime == "application/json" and not isinstance(data, (str, bytes)):
        return to_json(data)
    if mime in BINARY and isinstance(data, str):
        import base64
        return base64.b64decode(data)
    return data if isinstance(data, (str, bytes)) else None


def bundle_of(value):
    bundle = {}
    kind = type(value)
    if not isinstance(value, type) and hasattr(kind, "_repr_mimebundle_"):
        try:
            data = value._repr_mimebundle_(include=None, exclude=None)
            if isinstance(data, tuple):
                data = data[0]
            for mime, part in dict(data or {}).items():
                part = form(mime, part)
                if part is not None:
                    bundle[mime] = part
        except Exception:
            pass
    if not isinstance(value, type):
        for mime, name in METHODS:
            if mime in bundle or not hasattr(kind, name):
                continue
            try:
                data = form(mime, getattr(value, name)())
            except Exception:
                continue
            if data is not None:
                bundle[mime] = data
    if "image/png" not in bundle and kind.__name__ == "Figure" and hasattr(kind, "savefig"):
        png = png_of(value)
        if png is not None:
            bundle["image/png"] = png
    if kind in (dict, list, tuple) and "application/json" not in bundle:
        try:
            data = to_json(value)
        except Exception:
            data = None
        if data is not None:
            bundle["application/json"] = data
    if "text/plain" not in bundle:
        bundle = {"text/plain": repr(value), **bundle}
    return bundle


def display(*values, **options):
    """Shows each value as the last expression of a cell is shown; with raw=True they are {MIME type: data}."""
    for value in values:
        if options.get("raw"):
            value = {m: form(m, d) for m, d in value.items()}
            emit({m: d for m, d in value.items() if d is not None})
        else:
            emit(bundle_of(value))


def echo(value):
    if value is not None:
        builtins._ = value
        emit(bundle_of(value))


def png_of(figure):
    import io
    out = io.BytesIO()
    try:
        figure.savefig(out, format="png", bbox_inches="tight")
    except Exception:
        traceback.print_exc()
        return None
    return out.getvalue()


def show_figures(*args, **kwargs):
    """Shows the open figures of matplotlib.pyplot and closes them."""
    plt = sys.modules.get("matplotlib.pyplot")
    if plt is None or not hasattr(plt, "get_fignums"):
        return
    for number in plt.get_fignums():
        figure = plt.figure(number)
        png = png_of(figure)
        if png is not None:
            emit({"text/plain": repr(figure), "image/png": png})
        plt.close(figure)


class Pyplot:
    """Makes pyplot.show() show, once somebody imports it. It says where a module is as if it was not there itself."""

    def find_spec(self, name, path=None, target=None):
        if name != "matplotlib.pyplot":
            return None
        sys.meta_path.remove(self)
        import importlib.util
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            module.show = show_figures

        spec.loader.exec_module = exec_module
        return spec


class Loop:
    """The event loop of top-level await. It lives as long as the kernel, so that tasks do."""

    loop = None

    def run(self, coroutine):
        import asyncio
        if self.loop is None or self.loop.is_closed():
            self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)
        task = self.loop.create_task(coroutine)
        try:
            return self.loop.run_until_complete(task)
        except BaseException:
            if not task.done():
                task.cancel()
                self.loop.run_until_complete(asyncio.wait([task], timeout=1))
            raise


loop = Loop()
flags = 0  # from __future__ import … holds for later cells, too


def execute(code, filename, mode):
    """Runs a whole cell and returns nothing; what it raises is the cell's."""
    global flags
    options = flags | AWAIT
    tree = compile(code, filename, "exec", options | ast.PyCF_ONLY_AST, True)
    steps = []
    for node in tree.body:
        shown = isinstance(node, ast.Expr) and (mode == "a" or mode == "l" and node is tree.body[-1])
        if shown:
            steps.append((True, ast.Expression(node.value)))
        elif steps and not steps[-1][0]:
            steps[-1][1].body.append(node)
        else:
            step = ast.parse("")
            step.body.append(node)
            steps.append((False, step))
    compiled = []
    for shown, step in steps:  # all of it, before any runs
        c = compile(step, filename, "eval" if shown else "exec", options, True)
        options |= c.co_flags & FUTURES
        compiled.append((shown, c))
    flags = options & FUTURES
    if mode == "l" and code.rstrip().endswith(";"):
        mode = "n"
    if any(c.co_flags & COROUTINE for _, c in compiled):
        loop.run(await_steps(compiled, mode))
    else:
        for shown, c in compiled:
            value = eval(c, MAIN.__dict__)
            if shown and mode != "n":
                echo(value)
    show_figures()


COROUTINE = 0x80  # of co_flags


async def await_steps(compiled, mode):
    for shown, c in compiled:
        value = eval(c, MAIN.__dict__)
        if c.co_flags & COROUTINE:
            value = await value
        if shown and mode != "n":
            echo(value)


def report(error):
    """Prints a traceback without the driver's own frames."""
    tb = error.__traceback__
    while tb is not None and not tb.tb_frame.f_code.co_filename.startswith("<cell "):
        tb = tb.tb_next
    told = traceback.TracebackException(type(error), error, tb)
    forget(told, 100)
    text = "".join(told.format())
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except Exception:
        os.write(2, text.encode("utf-8", "backslashreplace"))


def forget(told, depth):
    """Removes frames of the driver that are in between, and in the errors that came before."""
    if told is None or depth == 0:
        return
    told.stack[:] = [f for f in told.stack if f.filename != DRIVER]
    forget(told.__cause__, depth - 1)
    forget(told.__context__, depth - 1)


def exit_code(error):
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    try:
        print(error.code, file=sys.stderr)
    except Exception:
        pass
    return 1


def run(code, filename, mode):
    """Runs a cell. It returns its status, its exit code, and the error's name and words."""
    global running
    try:
        running = True
        send(b"S", b"")
        execute(code, filename, mode)
        running = False
        return b"o", 0, "", ""
    except SystemExit as e:
        running = False
        if sys.stdin.closed:  # exit() does that
            sys.stdin = open(0, closefd=False)
        return b"x", exit_code(e), "", ""
    except BaseException as e:
        running = False
        name = type(e).__name__
        try:
            words = str(e)
        except BaseException:
            words = ""
        try:
            report(e)
        except BaseException:
            os.write(2, name.encode("utf-8", "backslashreplace") + b"\n")
        return (b"i" if isinstance(e, KeyboardInterrupt) else b"e"), 1, name, words


def serve():
    global NUMBER, started, running
    cells = []  # names and sizes
    size = 0
    while True:
        head = recv(4)
        body = recv(int.from_bytes(head, "big"))
        NUMBER = body[:4]
        mode = chr(body[4])
        code = body[5:].decode("utf-8", "replace")
        started = "<cell %d>" % int.from_bytes(NUMBER, "big")
        linecache.cache[started] = (len(code), None, (code + "\n").splitlines(True), started)
        cells.append((started, len(code)))
        size += len(code)
        while len(cells) > SOURCES or size > SOURCES_SIZE and len(cells) > 1:
            name, n = cells.pop(0)
            size -= n
            linecache.cache.pop(name, None)
        try:
            status, exit, name, words = run(code, started, mode)
        except KeyboardInterrupt:  # it came late
            running = False
            status, exit, name, words = b"i", 1, "KeyboardInterrupt", ""
        flush()
        if os.getpid() != KERNEL:  # a fork came back
            os._exit(exit)
        text = name[:200] + "\0" + words[:4000]
        send(b"D", status + exit.to_bytes(4, "big") + text.encode("utf-8", "backslashreplace"))


MAIN = sys.modules["__main__"]
for _name in list(MAIN.__dict__):
    if not _name.startswith("__"):
        del MAIN.__dict__[_name]
MAIN.__dict__.pop("__annotations__", None)
sys.argv = [""]
for _stream in (sys.stdout, sys.stderr):
    _stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
for _fd in (3, 4, 5):
    os.set_inheritable(_fd, False)
os.environ.setdefault("MPLBACKEND", "Agg")
builtins.display = display
sys.meta_path.insert(0, Pyplot())
signal.signal(signal.SIGINT, on_interrupt)
send(b"R", b"")
serve()
