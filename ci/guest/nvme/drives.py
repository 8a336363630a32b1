"""The guest's drives: QEMU's NVMe controllers, each behind a PCIe port that it can be pulled out of.

Each controller has a subsystem of its own, which keeps the namespaces while the controller is away: what comes back
is the same drive with the same contents.
"""

MIB = 1 << 20


class Drive:
    """A controller `ssdN`, and its namespaces: block size and MiB of each."""

    def __init__(self, number, folder, namespaces):
        self.name = f"ssd{number}"
        self.port = f"port{number}"
        self.subsystem = f"subsystem{number}"
        self.serial = f"WEFT{number:04}"
        self.number = number
        self.namespaces = namespaces
        self.files = [folder / f"{self.name}n{nsid + 1}" for nsid in range(len(namespaces))]
        # By namespace: 512-byte sectors that fail to be read, each as often as it is named.
        self.unreadable = {}

    def devices(self):
        """Makes its files, and says what QEMU is told of it."""
        options = [
            f"-device pcie-root-port,id={self.port},chassis={self.number + 1},slot={self.number + 1}",
            f"-device nvme-subsys,id={self.subsystem},nqn=weft{self.number}",
            # The controller first: its namespaces find the subsystem by it.
            "-device " + ",".join(f"{key}={value}" if key != "driver" else value
                                  for key, value in self.controller().items()),
        ]
        for nsid, (file, (block_size, mib)) in enumerate(zip(self.files, self.namespaces), 1):
            with open(file, "wb") as image:
                image.truncate(mib * MIB)
            block = f"{self.name}b{nsid}"
            # What the host's disk does is not under test: nothing waits for it.
            cache = "cache.no-flush=on,discard=unmap"
            failing = self.unreadable.get(nsid, [])
            if failing:
                errors = "".join(
                    f",inject-error.{index}.event=none,inject-error.{index}.iotype=read,inject-error.{index}.errno=5"
                    f",inject-error.{index}.once=on,inject-error.{index}.sector={sector}"
                    for index, sector in enumerate(failing))
                options.append(f"-blockdev driver=blkdebug,node-name={block},image.driver=file,"
                               f"image.filename={file},discard=unmap{errors}")
            else:
                options.append(f"-blockdev driver=file,node-name={block},filename={file},{cache}")
            options.append(f"-device nvme-ns,drive={block},bus={self.name},nsid={nsid},"
                           f"logical_block_size={block_size},physical_block_size={block_size}")
        return options

    def controller(self):
        """The controller as QEMU's device."""
        return {"driver": "nvme", "id": self.name, "serial": self.serial, "subsys": self.subsystem, "bus": self.port}

    def pull(self, guest):
        """Asks for the controller's removal. It is over when `pulled` returns."""
        guest.qmp.command("device_del", id=self.name)

    def pulled(self, guest, patience=60):
        """Waits until the guest has let go of the controller."""
        guest.qmp.wait_event("DEVICE_DELETED", patience, device=self.name)

    def plug(self, guest):
        """Puts the controller back."""
        guest.qmp.command("device_add", **self.controller())
