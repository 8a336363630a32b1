"""The guests' kernel: Debian's, unpacked from its package into a cache, never installed.

The newest 6.12 kernel of bookworm is fetched with apt, once, into a folder outside the tree (WEFT_CI_CACHE, or
~/.cache/weft-ci). QEMU boots the uncompressed kernel inside the package's image through its PVH entry,
which saves the emulated processor the work of decompressing it.
"""

import fcntl
import lzma
import os
import re
import shutil
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

PACKAGES = r"^linux-image-6\.12\.[0-9.]+\+deb12-amd64$"


def cache():
    """The folder for what is fetched and can be fetched again."""
    folder = os.environ.get("WEFT_CI_CACHE") or Path.home() / ".cache/weft-ci"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Kernel:
    """An unpacked kernel package."""

    def __init__(self, folder):
        self.folder = folder
        self.image = folder / "vmlinux"
        [self.modules] = (path for parent in ("lib/modules", "usr/lib/modules")
                          for path in (folder / parent).glob("*"))
        self.release = self.modules.name


def newest():
    """The name of the newest package that apt knows, None when it knows none."""
    listed = subprocess.run(["apt-cache", "search", "--names-only", PACKAGES],
                            capture_output=True, text=True, check=True).stdout
    names = [line.split()[0] for line in listed.splitlines()]
    return max(names, key=lambda name: [int(part) for part in re.findall(r"\d+", name)], default=None)


def kernel():
    """The kernel, fetched and unpacked if it is not in the cache."""
    name = newest()
    if name is None:
        subprocess.run(["apt-get", "update", "-q"], stdout=subprocess.DEVNULL, check=True)
        name = newest()
    if name is None:
        raise SystemExit(f"apt knows no kernel {PACKAGES}: is the suite bookworm-security enabled?")
    folder = cache() / name
    with open(cache() / "lock", "w") as lock:
        # Two checks at a time fetch it once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            fetch(name, folder)
    return Kernel(folder)


def fetch(name, folder):
    """Downloads and unpacks the package; the folder appears when it is whole."""
    print(f"fetching {name}", flush=True)
    with tempfile.TemporaryDirectory(dir=cache()) as work:
        # apt gives up root for the download where it can, and says so when the folder is only root's.
        os.chmod(work, 0o755)
        done = subprocess.run(["apt-get", "download", "-q", name], cwd=work, capture_output=True, text=True)
        [package] = list(Path(work).glob("*.deb")) or [None]
        if package is None:
            raise SystemExit(f"cannot download {name}: {done.stderr.strip()}")
        unpacked = Path(work) / "unpacked"
        subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True)
        [image] = (unpacked / "boot").glob("vmlinuz-*")
        (unpacked / "vmlinux").write_bytes(payload(image.read_bytes()))
        shutil.rmtree(unpacked / "usr/share/doc", ignore_errors=True)
        unpacked.rename(folder)


def payload(image):
    """The ELF kernel inside a bzImage (Linux, Documentation/arch/x86/boot.rst: payload_offset, payload_length)."""
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    packed = image[start:start + length]
    # The last four bytes are the unpacked size, of all formats but gzip, which has it at its own end.
    if packed.startswith(b"\xfd7zXZ\0"):
        kernel = lzma.LZMADecompressor().decompress(packed)
    elif packed.startswith(b"\x1f\x8b"):
        kernel = zlib.decompressobj(wbits=31).decompress(packed)
    elif packed.startswith(b"\x28\xb5\x2f\xfd"):
        if not shutil.which("zstd"):
            raise SystemExit("this kernel is compressed with zstd: apt-get install zstd")
        kernel = subprocess.run(["zstd", "-dcq"], input=packed[:-4], capture_output=True, check=True).stdout
    else:
        raise SystemExit(f"the kernel's compression is unknown: {packed[:6].hex()}")
    if not kernel.startswith(b"\x7fELF"):
        raise SystemExit("what is inside the kernel's image is no ELF file")
    return kernel
