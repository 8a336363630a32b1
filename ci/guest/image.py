"""The guest's root: an initramfs with busybox, the modules, the programs under test with their libraries.

Written uncompressed in the kernel's own format ("newc", Documentation/driver-api/early-userspace/buffer-format.rst):
there is nothing to unpack but memory to copy.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

BUSYBOX = ("/bin/busybox", "/usr/bin/busybox")
FOLDERS = "bin dev etc lib lib64 mnt proc root run sbin sys tmp usr/bin usr/lib usr/sbin var/run"
HERE = Path(__file__).resolve().parent


class Image:
    """Files by path in the guest, and the archive of them."""

    def __init__(self, modules):
        self.entries = {}
        for folder in FOLDERS.split():
            self.folder(folder)
        self.entry("dev/console", 0o20600, device=(5, 1))
        self.file(busybox(), "bin/busybox")
        self.entry("bin/sh", 0o120777, b"busybox")
        self.entry("etc/passwd", 0o100644, b"root:x:0:0::/root:/bin/sh\n")
        self.entry("etc/group", 0o100644, b"root:x:0:\n")
        self.entry("etc/hosts", 0o100644, b"127.0.0.1 localhost\n")
        self.entry("etc/nsswitch.conf", 0o100644, b"hosts: files\n")
        # What programs expect of the distribution: mkfs.ext4 its defaults.
        if os.path.exists("/etc/mke2fs.conf"):
            self.file("/etc/mke2fs.conf", "etc/mke2fs.conf")
        self.file(HERE / "init", "init")
        for name, contents in modules.chosen.items():
            self.entry(f"lib/modules/{name}.ko", 0o100644, contents)
        loads = "".join(f"{name}\n" for name in modules.chosen)
        self.entry("etc/modules", 0o100644, loads.encode())

    def entry(self, path, mode, contents=b"", device=(0, 0)):
        """Adds a file of any kind, and the folders above it."""
        path = str(path).strip("/")
        self.folder(os.path.dirname(path))
        self.entries[path] = (mode, contents, device)

    def folder(self, path):
        """Adds a folder, after those above it: the kernel makes them in this order."""
        if path and path not in self.entries:
            self.folder(os.path.dirname(path))
            self.entries[path] = (0o40755, b"", (0, 0))

    def file(self, source, path):
        """Copies a file of this machine, links followed; a folder with all that is in it."""
        source = Path(source)
        if source.is_dir():
            for child in source.iterdir():
                self.file(child, f"{path}/{child.name}")
            return
        self.entry(path, 0o100000 | source.stat().st_mode & 0o777, source.read_bytes())

    def program(self, source, path=None, strip=False):
        """Copies a program and the libraries that it loads; to /usr/bin unless a path is given. `strip` leaves
        its debug information behind, most of a development build's size."""
        found = shutil.which(source, path="/usr/sbin:/usr/bin:/sbin:/bin") if "/" not in str(source) else source
        if not found or not os.path.exists(found):
            raise SystemExit(f"no program {source} to put into the guest")
        path = path or f"usr/bin/{Path(found).name}"
        if strip:
            with tempfile.NamedTemporaryFile() as stripped:
                subprocess.run(["strip", "-o", stripped.name, found], check=True)
                self.entry(path, 0o100755, Path(stripped.name).read_bytes())
        else:
            self.file(found, path)
        # A static program has none, and ldd fails on it.
        listed = subprocess.run(["ldd", found], capture_output=True, text=True).stdout
        for library in re.findall(r"(/\S+) \(0x", listed):
            self.file(library, library)

    def write(self, path):
        """Writes the archive."""
        with open(path, "wb") as archive:
            for number, (name, (mode, contents, device)) in enumerate(self.entries.items(), 1):
                archive.write(record(number, name, mode, contents, device))
            archive.write(record(0, "TRAILER!!!", 0, b"", (0, 0)))


def record(number, name, mode, contents, device):
    """One file of the archive."""
    name = name.encode() + b"\0"
    links = 2 if mode & 0o170000 == 0o40000 else 1
    fields = (number, mode, 0, 0, links, 0, len(contents), 0, 0, *device, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return head + bytes(-len(head) % 4) + contents + bytes(-len(contents) % 4)


def busybox():
    """Where Debian's static busybox is."""
    for path in BUSYBOX:
        if os.path.exists(path):
            return path
    raise SystemExit("the guest needs busybox: apt-get install busybox-static")
