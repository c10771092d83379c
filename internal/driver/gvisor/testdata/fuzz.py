# Does random work on a directory tree, the same for the same seed, and says what came of each step and what there is at
# the end: fuzz.py DIR SEED STEPS LINKS. With STEPS 0 it only says what there is.
import hashlib, os, random, stat, sys

top, seed, steps, links = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
counts = steps == 0 or not links  # gVisor counts links wrong after a rename over one, as long as it remembers the file
r = random.Random(seed)
os.umask(0o22)
paths = []
names = ["a", "b", "c", "d", "e", "long" * 20]


def path():
    p = os.path.join(top, *[r.choice(names) for _ in range(r.choice([1, 1, 1, 2, 2, 3]))])
    paths.append(p[len(top):])
    return p


def create():
    p, flags = path(), r.choice([os.O_EXCL, 0, os.O_TRUNC, os.O_APPEND])
    data = r.randbytes(r.choice([0, 1, 100, 5000, 70000]))
    fd = os.open(p, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | flags, r.choice([0o644, 0o600, 0o755, 0o4755, 0o444]))
    os.write(fd, data)
    os.close(fd)


def write_at():
    p, off, data = path(), r.choice([0, 10, 4096, 100000]), r.randbytes(r.choice([1, 4096, 9000]))
    fd = os.open(p, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    os.pwrite(fd, data, off)
    os.close(fd)


def unlinked():
    p = path()
    fd = os.open(p, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640)
    os.write(fd, b"x" * 100)
    os.unlink(p)
    os.ftruncate(fd, 70)
    os.fchmod(fd, 0o600)
    st = os.fstat(fd)
    data = os.pread(fd, 1000, 0)
    os.close(fd)
    return st.st_size, len(data)  # gVisor says 1 link here, whoever serves the files


def read_link():
    return os.readlink(path())


def look():
    p = path()
    st = os.lstat(p)
    return stat.S_IFMT(st.st_mode)


def swap():  # a new file in the place of an old one, as editors do it
    p = path()
    fd = os.open(p + "~", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    os.write(fd, r.randbytes(50))
    os.fsync(fd)
    os.close(fd)
    try:
        os.rename(p + "~", p)
    except OSError:
        os.unlink(p + "~")
        raise


def rename():
    p, q = path(), path()
    if p == q:  # gVisor's tmpfs refuses that for a directory with something in it
        return
    try:
        if os.path.samestat(os.lstat(p), os.lstat(q)):  # Linux keeps both names, we the second
            return
    except OSError:
        pass
    os.rename(p, q)


def listing():
    return sorted((e.name, e.is_dir(follow_symlinks=False), e.is_symlink()) for e in os.scandir(os.path.join(top, *r.sample(names, r.choice([0, 1, 2])))))


ops = [create, create, create, write_at, write_at, unlinked, read_link, look, swap, swap, listing,
       lambda: os.mkdir(path(), r.choice([0o755, 0o700, 0o2775, 0o1777])),
       lambda: os.mkdir(path(), r.choice([0o755, 0o700])),
       lambda: os.symlink(r.choice(["a", "../b", "/etc/passwd", "x" * 200]), path()),
       lambda: os.mknod(path(), stat.S_IFCHR | 0o600, os.makedev(r.choice([1, 5]), r.choice([3, 5, 300]))),
       lambda: os.mknod(path(), stat.S_IFREG | 0o640),
       lambda: os.unlink(path()), lambda: os.unlink(path()), lambda: os.rmdir(path()),
       rename, rename,
       lambda: os.chmod(path(), r.choice([0o644, 0o600, 0o4711, 0o2755, 0o1777, 0o000])),
       lambda: os.chown(path(), r.choice([0, 1000, 65534, 3000000000]), r.choice([0, 50, 1001]), follow_symlinks=False),
       lambda: os.lchown(path(), r.choice([0, 7]), -1),
       lambda: os.truncate(path(), r.choice([0, 3, 5000, 200000])),
       lambda: os.utime(path(), (r.randrange(10**9), r.randrange(10**9)), follow_symlinks=False),
       lambda: os.setxattr(path(), "user.x%d" % r.randrange(3), r.randbytes(20), follow_symlinks=False),
       lambda: os.removexattr(path(), "user.x%d" % r.randrange(3), follow_symlinks=False)]
if links:
    ops += [lambda: os.link(path(), path(), follow_symlinks=False)] * 3


def dump(p, rel):
    st = os.lstat(p)
    mode = stat.S_IFMT(st.st_mode)
    what = [rel, oct(st.st_mode), st.st_uid, st.st_gid, st.st_rdev]
    if not stat.S_ISDIR(mode):
        what += [st.st_size]
    if counts and not stat.S_ISDIR(mode):
        what += [st.st_nlink]
    if stat.S_ISREG(mode):
        with open(p, "rb") as f:
            what.append(hashlib.md5(f.read()).hexdigest())
        what.append(sorted((x, os.getxattr(p, x)) for x in os.listxattr(p) if x.startswith("user.x")))
    if stat.S_ISLNK(mode):
        what.append(os.readlink(p))
    print(*what)
    if stat.S_ISDIR(mode):
        for n in sorted(os.listdir(p)):
            dump(os.path.join(p, n), rel + "/" + n)


for n in range(steps):
    k = r.randrange(len(ops))
    paths.clear()
    try:
        res = ops[k]()
    except OSError as e:
        res = e.strerror
    print(n, k, getattr(ops[k], "__name__", ""), *paths, res)
print("tree")
dump(top, ".")
