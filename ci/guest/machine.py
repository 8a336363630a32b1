"""A throw-away virtual machine, emulated by QEMU without any help of the processor, for tests that need
a kernel or devices that the host has not got.

    with Guest("nvme", image, kernel, devices=[...]) as guest:
        guest.run("lspci | grep NVMe")          # raises Failed unless it succeeds
        guest.qmp.command("device_del", id="ssd1")

`main` turns what can go wrong into exit codes: 1 a command or a check failed, 124 something took too long, 125
the guest is gone (its kernel panicked, or QEMU ended). The end of the guest's console goes with each.
"""

import base64
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

from qmp import Qmp, QmpError

ROOT = Path(__file__).resolve().parents[2]

# Half of the time that the kernel takes to start under emulation is probing, self-tests and mitigations that no
# test here is about. An oops ends the guest: nothing after it could be trusted.
KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr tsc=reliable no_timer_check "
    "random.trust_cpu=on i8042.noaux=1 i8042.nokbd=1 8250.nr_uarts=2 cryptomgr.notests=1 rcupdate.rcu_expedited=1 "
    "lpj=4000000 audit=0 apparmor=0 security=none "
    "initcall_blacklist=jent_mod_init,bpf_tcp_ca_kfunc_init,bpf_dummy_struct_ops_init"
)

FAILED, TIMED_OUT, GONE = 1, 124, 125


class Failed(Exception):
    """A command in the guest, or a check, failed."""

    code = FAILED

    def __init__(self, what, result=FAILED, output=""):
        super().__init__(what)
        self.result = result
        self.output = output


class TimedOut(Failed):
    """A command took too long."""

    code = TIMED_OUT


class Gone(Failed):
    """The guest panicked, or QEMU ended."""

    code = GONE


class Guest:
    """A running guest."""

    def __init__(self, name, image, kernel, *, memory=512, processors=1, machine="q35", cpu="qemu64",
                 shared_memory=False, memory_growth=0, arguments="", devices=(), incoming=None, patience=60):
        """Starts it. `devices` are arguments for QEMU, one string for each option with its value;
        `shared_memory` lets vhost-user back ends map the guest's memory, to which `memory_growth` MiB may be added
        later. With `incoming`, the address of a migration, it waits for a guest to come from there."""
        self.folder = ROOT / "target/guest" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.console = self.folder / "console"
        self.patience = patience
        self.number = 0
        self.incoming = incoming
        self.unread = b""
        archive = self.folder / "initramfs"
        image.write(archive)
        self.port, port = socket.socketpair()
        control, control_far = socket.socketpair()
        command = [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", machine, "-cpu", cpu,
            "-smp", str(processors), "-m", f"size={memory}M" + (
                f",slots=4,maxmem={memory + memory_growth}M" if memory_growth else ""), "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-kernel", kernel.image, "-initrd", archive,
            "-append", f"{KERNEL_ARGUMENTS} {arguments}",
            "-serial", f"file:{self.console}",
            "-chardev", f"socket,id=port,fd={port.fileno()}", "-serial", "chardev:port",
            "-chardev", f"socket,id=control,fd={control_far.fileno()}", "-mon", "chardev=control,mode=control",
        ]
        if shared_memory:
            command += ["-object", f"memory-backend-memfd,id=memory,size={memory}M,share=on",
                        "-numa", "node,memdev=memory"]
        if incoming:
            command += ["-incoming", incoming]
        for device in devices:
            command += device.split(" ", 1)
        self.errors = open(self.folder / "qemu", "w+")
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.errors,
                                        stderr=self.errors, pass_fds=(port.fileno(), control_far.fileno()))
        port.close()
        control_far.close()
        self.qmp = Qmp(control)

    def __enter__(self):
        try:
            self.qmp.greet()
            if not self.incoming:
                self.answer(0, time.monotonic() + self.patience, "start")
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, kind, error, trace):
        try:
            # One that has moved elsewhere has ended by itself.
            if kind is None and self.process.poll() is None:
                self.port.sendall(b"end\n")
                self.process.wait(self.patience)
        except (OSError, subprocess.TimeoutExpired):
            raise TimedOut("the guest does not power off") from None
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            if kind is not None:
                self.show_console()
            self.port.close()
            self.qmp.connection.close()
            self.errors.close()

    def reboot(self):
        """Resets it, as its reset button would, and waits until it has started again."""
        self.qmp.command("set-action", reboot="reset")
        self.qmp.command("system_reset")
        self.answer(0, time.monotonic() + self.patience, "start again")
        # A panic ends it, as before.
        self.qmp.command("set-action", reboot="shutdown")

    def migrated(self, destination):
        """Waits for the end of a migration to another guest, made with `incoming`, and ends this one. How it went."""
        deadline = time.monotonic() + self.patience
        while (state := self.qmp.command("query-migrate"))["status"] != "completed":
            if state["status"] in ("failed", "cancelled"):
                raise Failed(f"the migration has {state['status']}: {state.get('error-desc')}")
            if time.monotonic() > deadline:
                raise TimedOut(f"the migration does not end: {state}")
            time.sleep(0.05)
        # Commands go on with the numbers that the guest knows.
        destination.number = self.number
        self.qmp.connection.sendall(b'{"execute": "quit"}\n')
        self.process.wait(self.patience)
        return state

    def run(self, script, patience=None, show=False):
        """Runs a shell script in the guest; its output. Raises Failed, with the output, unless it succeeds."""
        result, output = self.attempt(script, patience)
        if show or result != 0:
            sys.stdout.write(output)
            sys.stdout.flush()
        if result != 0:
            raise Failed(f"result {result} of: {script.strip()}", result, output)
        return output

    def attempt(self, script, patience=None):
        """Runs a shell script in the guest; its result and its output."""
        self.number += 1
        deadline = time.monotonic() + (patience or self.patience)
        text = base64.b64encode(script.encode())
        try:
            self.port.settimeout(patience or self.patience)
            self.port.sendall(b"%d %s\n" % (self.number, text))
        except OSError:
            raise Gone(f"the guest is gone before: {script.strip()}") from None
        return self.answer(self.number, deadline, script.strip())

    def answer(self, number, deadline, what):
        """Reads up to the end of an answer; result and output."""
        end = re.compile(rb"(?:^|\n)@weft %d (\d+)\r?\n" % number)
        while not (found := end.search(self.unread)):
            try:
                self.port.settimeout(max(deadline - time.monotonic(), 0.001))
                received = self.port.recv(65536)
            except socket.timeout:
                self.report()
                raise TimedOut(f"no end in time of: {what}") from None
            except OSError:
                received = b""
            if not received:
                self.report()
                raise Gone(f"the guest is gone during: {what}")
            self.unread += received
        output = self.unread[:found.start()]
        self.unread = self.unread[found.end():]
        return int(found[1]), output.decode(errors="replace")

    def report(self):
        """Shows what an unfinished command has printed so far."""
        sys.stdout.write(self.unread.decode(errors="replace"))
        sys.stdout.flush()

    def show_console(self, lines=40):
        """Shows the end of the guest's console and what QEMU said."""
        console = self.console.read_text(errors="replace") if self.console.exists() else ""
        self.errors.seek(0)
        for name, text in (("console", console), ("qemu", self.errors.read())):
            for line in text.splitlines()[-lines:]:
                print(f"  [{name}] {line}")
        sys.stdout.flush()


def main(test):
    """Runs a test and ends the process with the exit code that says how it went."""
    started = time.monotonic()
    try:
        test()
    except Failed as error:
        print(f"FAILED: {error}", file=sys.stderr)
        sys.exit(error.code)
    except QmpError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        sys.exit(GONE)
    print(f"passed in {time.monotonic() - started:.1f} s")
