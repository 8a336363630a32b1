"""QEMU's control socket (QMP): commands, their answers, and the events between them."""

import json
import socket
import time


class QmpError(Exception):
    """QEMU refused a command, or hung up."""


class Qmp:
    """The client's end of a connection."""

    def __init__(self, connection):
        self.connection = connection
        self.unread = b""
        self.events = []

    def greet(self, patience=30):
        """Takes the greeting and leaves the negotiation mode."""
        deadline = time.monotonic() + patience
        if "QMP" not in self.message(deadline):
            raise QmpError("no greeting")
        self.command("qmp_capabilities")

    def command(self, name, patience=30, **arguments):
        """Runs a command; its result."""
        request = json.dumps({"execute": name, "arguments": arguments})
        self.connection.sendall(request.encode() + b"\n")
        deadline = time.monotonic() + patience
        while True:
            message = self.message(deadline)
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise QmpError(f"{name} {arguments}: {message['error']['desc']}")
            self.events.append(message)

    def wait_event(self, name, patience=60, **data):
        """Waits for an event with this data; events that come meanwhile are kept."""
        deadline = time.monotonic() + patience
        while True:
            for event in self.events:
                found = event.get("data", {})
                if event.get("event") == name and all(found.get(key) == value for key, value in data.items()):
                    self.events.remove(event)
                    return event
            self.events.append(self.message(deadline))

    def message(self, deadline):
        """The next message of QEMU's."""
        while b"\n" not in self.unread:
            self.connection.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                received = self.connection.recv(65536)
            except socket.timeout:
                raise QmpError("QEMU's control socket: no answer or event in time") from None
            except OSError as error:
                raise QmpError(f"QEMU's control socket: {error}") from None
            if not received:
                raise QmpError("QEMU closed its control socket")
            self.unread += received
        line, _, self.unread = self.unread.partition(b"\n")
        return json.loads(line)
