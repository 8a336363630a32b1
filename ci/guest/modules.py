"""Which modules of a kernel a guest needs: those asked for, and what they depend on, in loading order.

The package has no modules.dep, and depmod over all its compressed modules takes longer than the whole
test, so the dependencies are read out of just the modules that are wanted.
"""

import lzma
import re

# What modules ask the kernel's crypto interface for at run time, which their own records do not tell.
RUN_TIME = {
    "btrfs": ["crc32c_generic"],
    "ext4": ["crc32c_generic"],
    "nvme_tcp": ["crc32c_generic"],
    "nvmet_tcp": ["crc32c_generic"],
    "rdma_rxe": ["crc32_generic"],
    "siw": ["libcrc32c"],
    "xfs": ["crc32c_generic"],
}


def plain(name):
    """A module's name as the kernel writes it."""
    return re.sub(r"\.ko(\.xz)?$", "", name.split("/")[-1]).replace("-", "_")


class Modules:
    """The modules of one kernel that a guest is given."""

    def __init__(self, kernel):
        self.folder = kernel.modules
        self.paths = {plain(path.name): path for path in (kernel.modules / "kernel").rglob("*.ko*")}
        self.builtin = {plain(line) for line in (kernel.modules / "modules.builtin").read_text().split()}
        # Name to contents; what a module needs stands before it.
        self.chosen = {}

    def add(self, name, optional=False):
        """Adds a module and what it depends on, unless it is built in or there already."""
        name = plain(name)
        if name in self.builtin or name in self.chosen:
            return
        if name not in self.paths:
            if optional:
                return
            raise SystemExit(f"the kernel has no module {name}")
        path = self.paths[name]
        contents = path.read_bytes()
        if path.suffix == ".xz":
            contents = lzma.decompress(contents)
        self.place(name, contents)

    def add_file(self, path):
        """Adds a module from outside the kernel's package; it takes the place of one of the same name."""
        self.place(plain(path.name), path.read_bytes())

    def place(self, name, contents):
        """Puts a module after what it depends on."""
        def records(key):
            found = re.findall(rb"\0" + key + rb"=([^\0]*)\0", contents)
            return " ".join(record.decode() for record in found)

        before = re.sub(r"post:.*", "", records(b"softdep")).replace("pre:", "")
        for needed in RUN_TIME.get(name, []) + before.split():
            self.add(needed, optional=True)
        for needed in records(b"depends").replace(",", " ").split():
            self.add(needed)
        self.chosen[name] = contents
