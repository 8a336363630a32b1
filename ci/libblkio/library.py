"""libblkio, Debian's, by its C interface (blkio.h of version 1): a virtio-blk driver that shares no code with ours.

The library of Debian 13 needs no newer C library than Debian 12 has. Its package is found in the suite's index, which apt
checks the signature of, and is unpacked into the cache of the checks, never installed.
"""

import ctypes
import fcntl
import subprocess
import tempfile
from pathlib import Path

from kernel import cache

SOURCE = """\
Types: deb
URIs: http://deb.debian.org/debian
Suites: trixie
Components: main
Architectures: amd64
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
PACKAGE = "libblkio1"
SUITE = "trixie"

NO_UNMAP = 1 << 1


def library():
    """The path of the library, fetched if it is not in the cache."""
    folder = cache() / f"{PACKAGE}-{SUITE}"
    with open(cache() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            fetch(folder)
    [found] = folder.rglob("libblkio.so.1")
    return found


def fetch(folder):
    """Downloads and unpacks the package; the folder appears when it is whole."""
    print(f"fetching {PACKAGE} of {SUITE}", flush=True)
    with tempfile.TemporaryDirectory(dir=cache()) as work:
        # apt gives up root for the download where it can.
        work = Path(work)
        work.chmod(0o755)
        (work / "sources").mkdir()
        (work / "sources/debian.sources").write_text(SOURCE)
        for state in ("lists/partial", "archives/partial"):
            (work / state).mkdir(parents=True)
        # Lists and sources of its own: those of the machine stay as they are.
        options = [f"Dir::Etc::sourcelist={work}/none", f"Dir::Etc::sourceparts={work}/sources", f"Dir::State={work}",
                   f"Dir::State::lists={work}/lists", f"Dir::Cache={work}", "Acquire::Languages=none",
                   "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false", "Dir::State::status=/dev/null"]
        apt = ["apt-get", "-q"] + [word for option in options for word in ("-o", option)]
        for words in (["update"], ["download", PACKAGE]):
            done = subprocess.run(apt + words, cwd=work, capture_output=True, text=True)
            if done.returncode != 0:
                raise SystemExit(f"{' '.join(apt + words)}: {done.stderr.strip()}")
        [package] = work.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", package, work / "unpacked"], check=True)
        (work / "unpacked").rename(folder)


class Region(ctypes.Structure):
    """struct blkio_mem_region"""

    _fields_ = [("address", ctypes.c_void_p), ("length", ctypes.c_size_t), ("iova", ctypes.c_uint64),
                ("fd_offset", ctypes.c_int64), ("fd", ctypes.c_int), ("flags", ctypes.c_uint32)]


class Completion(ctypes.Structure):
    """struct blkio_completion"""

    _fields_ = [("user_data", ctypes.c_void_p), ("error_message", ctypes.c_char_p), ("result", ctypes.c_int),
                ("reserved", ctypes.c_uint8 * 12)]


class Vector(ctypes.Structure):
    """struct iovec"""

    _fields_ = [("address", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class Timeout(ctypes.Structure):
    """struct timespec"""

    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


# Of the functions whose arguments would not arrive whole without: 64-bit numbers and pointers.
SIGNATURES = {
    "blkio_get_queue": "pi",
    "blkio_alloc_mem_region": "ppz",
    "blkio_map_mem_region": "pp",
    "blkio_connect": "p", "blkio_start": "p", "blkio_destroy": "p",
    "blkio_create": "sp",
    "blkio_set_int": "psi", "blkio_set_str": "pss", "blkio_set_bool": "psb",
    "blkio_get_int": "psp", "blkio_get_uint64": "psp", "blkio_get_bool": "psp",
    "blkioq_read": "pqpzpu", "blkioq_write": "pqpzpu",
    "blkioq_readv": "pqpipu", "blkioq_writev": "pqpipu",
    "blkioq_write_zeroes": "pqqpu", "blkioq_discard": "pqqpu",
    "blkioq_flush": "ppu",
    "blkioq_do_io": "ppiip",
}
TYPES = {"p": ctypes.c_void_p, "q": ctypes.c_uint64, "z": ctypes.c_size_t, "i": ctypes.c_int, "u": ctypes.c_uint32,
         "s": ctypes.c_char_p, "b": ctypes.c_bool}


class BlkioError(Exception):
    """The library refused something."""


class Blkio:
    """A device."""

    def __init__(self, path, read_only=False, **properties):
        self.library = ctypes.CDLL(str(library()))
        for name, arguments in SIGNATURES.items():
            function = getattr(self.library, name)
            function.argtypes = [TYPES[letter] for letter in arguments]
        self.library.blkio_get_queue.restype = ctypes.c_void_p
        self.library.blkio_get_error_msg.restype = ctypes.c_char_p
        for function in ("read", "write", "readv", "writev", "write_zeroes", "discard", "flush"):
            getattr(self.library, f"blkioq_{function}").restype = None
        self.handle = ctypes.c_void_p()
        self.check("create", self.library.blkio_create(b"virtio-blk-vhost-user", ctypes.byref(self.handle)))
        self.check("path", self.library.blkio_set_str(self.handle, b"path", str(path).encode()))
        self.check("read-only", self.library.blkio_set_bool(self.handle, b"read-only", read_only))
        self.check("connect", self.library.blkio_connect(self.handle))
        for name, value in properties.items():
            name = name.replace("_", "-")
            self.check(name, self.library.blkio_set_int(self.handle, name.encode(), value))
        self.check("start", self.library.blkio_start(self.handle))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.library.blkio_destroy(ctypes.byref(self.handle))

    def check(self, what, result):
        """Raises unless a call went well."""
        if result < 0:
            raise BlkioError(f"{what}: {self.library.blkio_get_error_msg().decode()} ({result})")
        return result

    def number(self, name, kind=ctypes.c_int):
        """A property."""
        value = kind()
        get = {ctypes.c_int: "int", ctypes.c_uint64: "uint64", ctypes.c_bool: "bool"}[kind]
        function = getattr(self.library, f"blkio_get_{get}")
        self.check(name, function(self.handle, name.encode(), ctypes.byref(value)))
        return value.value

    def memory(self, length):
        """The address of memory that requests may name."""
        region = Region()
        self.check("memory", self.library.blkio_alloc_mem_region(self.handle, ctypes.byref(region), length))
        self.check("memory", self.library.blkio_map_mem_region(self.handle, ctypes.byref(region)))
        return region.address

    def queue(self, index):
        """A queue."""
        return Queue(self, self.library.blkio_get_queue(self.handle, index))


class Queue:
    """A queue: requests are named by a number that is not 0."""

    def __init__(self, device, handle):
        self.device = device
        self.library = device.library
        self.handle = handle
        self.completions = (Completion * 256)()

    def read(self, number, offset, address, length):
        self.library.blkioq_read(self.handle, offset, address, length, number, 0)

    def write(self, number, offset, address, length):
        self.library.blkioq_write(self.handle, offset, address, length, number, 0)

    def readv(self, number, offset, vectors):
        self.library.blkioq_readv(self.handle, offset, vectors, len(vectors), number, 0)

    def writev(self, number, offset, vectors):
        self.library.blkioq_writev(self.handle, offset, vectors, len(vectors), number, 0)

    def write_zeroes(self, number, offset, length, flags=0):
        self.library.blkioq_write_zeroes(self.handle, offset, length, number, flags)

    def discard(self, number, offset, length):
        self.library.blkioq_discard(self.handle, offset, length, number, 0)

    def flush(self, number):
        self.library.blkioq_flush(self.handle, number, 0)

    def complete(self, least, seconds=30):
        """Submits what is queued and waits for so many completions; pairs of number and result (0, or an errno
        negated) of all that there are."""
        timeout = Timeout(seconds, 0)
        found = self.device.check("completions", self.library.blkioq_do_io(
            self.handle, self.completions, least, len(self.completions), ctypes.byref(timeout)))
        return [(it.user_data, it.result) for it in self.completions[:found]]
