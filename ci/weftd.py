"""A weftd of a test's own: started, spoken to over JSON-RPC, killed."""

import json
import os
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PATIENCE = 60


class RpcError(Exception):
    """The daemon refused a call."""

    def __init__(self, method, params, error):
        super().__init__(f"{method} {json.dumps(params)}: {error['message']} ({error['code']})")
        self.code = error["code"]


class Gone(Exception):
    """The daemon ended, or did not get ready."""


def build(*arguments):
    """Builds the daemon; the folder with the programs."""
    subprocess.run(["cargo", "build", "--quiet", "--bin", "weftd", *arguments], cwd=ROOT, check=True)
    return TARGET / ("release" if "--release" in arguments else "debug")


class Weftd:
    """A daemon with its files in a folder: socket, log, sockets of controllers."""

    def __init__(self, program, folder, *arguments):
        self.program = Path(program)
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.arguments = arguments
        self.socket = self.folder / "weft.sock"
        self.log = self.folder / "weftd.log"
        self.log.write_text("")
        self.process = None
        self.connection = None
        self.starts = 0

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, error, trace):
        try:
            if kind is None:
                self.stop()
        finally:
            self.kill()
            if kind is not None:
                self.show_log()

    def start(self, *arguments):
        """Starts it, with these arguments too, and waits until it is ready."""
        notifications = self.folder / "notify"
        notifications.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, open(self.log, "a") as log:
            ready.bind(str(notifications))
            self.starts += 1
            print(f"start {self.starts}", file=log, flush=True)
            self.process = subprocess.Popen(
                [self.program, "-r", self.socket, *self.arguments, *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=dict(os.environ, NOTIFY_SOCKET=str(notifications)))
            ready.settimeout(0.1)
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    if ready.recv(256).startswith(b"READY=1"):
                        return
                except socket.timeout:
                    pass
                if self.process.poll() is not None:
                    raise Gone(f"weftd ended with {self.process.returncode} at its start")
                if time.monotonic() > deadline:
                    raise Gone("weftd does not get ready")

    def kill(self):
        """kill -9, if it runs."""
        self.hang_up()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        if self.process is not None:
            self.process.wait()

    def stop(self):
        """Ends it as a service manager does, and wants it to end well."""
        self.hang_up()
        self.process.terminate()
        try:
            result = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Gone("weftd does not stop") from None
        if result != 0:
            raise Gone(f"weftd ended with {result}")

    def hang_up(self):
        """Closes the connection of `call`."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def call(self, method, **params):
        """Calls a method; its result."""
        if self.connection is None:
            self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.connection.settimeout(PATIENCE)
            self.connection.connect(str(self.socket))
        request = {"jsonrpc": "2.0", "id": 1, "method": method}
        if params:
            request["params"] = params
        self.connection.sendall(json.dumps(request).encode())
        answer = b""
        while True:
            received = self.connection.recv(1 << 20)
            if not received:
                raise Gone(f"weftd hung up during {method}")
            answer += received
            try:
                decoded = json.loads(answer)
            except ValueError:
                continue
            if "error" in decoded:
                raise RpcError(method, params, decoded["error"])
            return decoded["result"]

    def wait(self, what, condition, patience=PATIENCE, pause=0.02):
        """Waits until a condition holds; what it returned."""
        deadline = time.monotonic() + patience
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise Gone(f"not in time: {what}")
            time.sleep(pause)
        return found

    def save(self, path):
        """Writes its configuration to a file, as it can be started with."""
        subsystems = [{"subsystem": name, "config": self.call("framework_get_config", name=name)}
                      for name in (it["subsystem"] for it in self.call("framework_get_subsystems"))]
        Path(path).write_text(json.dumps({"subsystems": subsystems}, indent=2))

    def show_log(self, lines=60):
        """Shows the end of its log."""
        for line in self.log.read_text(errors="replace").splitlines()[-lines:]:
            print(f"  [weftd] {line}")
