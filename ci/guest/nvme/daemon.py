"""weftd in a guest, and its RPC."""

import json
import shlex
import time

from machine import Failed, TimedOut


class Daemon:
    """A weftd that runs in the guest."""

    def __init__(self, guest):
        self.guest = guest
        guest.run("rm -f /run/weft.sock; weftd -r /run/weft.sock > /run/weftd.log 2>&1 & echo $! > /run/weftd.pid\n"
                  "until weft -s /run/weft.sock rpc framework_wait_init > /dev/null 2>&1; do\n"
                  "    kill -0 $(cat /run/weftd.pid) || { cat /run/weftd.log; exit 1; }\n"
                  "    sleep 0.1\n"
                  "done")

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            self.stop()
        elif self.guest.process.poll() is None:
            # What it said is most of what can be known of a failure. A guest that is stuck has no answer.
            try:
                print(self.guest.attempt("tail -n 60 /run/weftd.log", patience=10)[1])
            except Failed:
                pass

    def call(self, method, **params):
        """Calls a method; its result. Raises Failed when it is refused."""
        result, answer = self.attempt(method, **params)
        if result != 0:
            raise Failed(f"{method} {params}: {answer.strip()}")
        return json.loads(answer)

    def attempt(self, method, **params):
        """Calls a method; the exit code and what was printed."""
        return self.guest.attempt(f"weft -s /run/weft.sock rpc {method} --params {shlex.quote(json.dumps(params))} 2>&1")

    def wait(self, what, condition, patience=120):
        """Waits until a condition of calls holds; what it returned."""
        deadline = time.monotonic() + patience
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise TimedOut(f"not in time: {what}")
            time.sleep(0.2)
        return found

    def raid(self, name):
        """What is known of a raid."""
        [raid] = [raid for raid in self.call("bdev_raid_get_bdevs", category="all") if raid["name"] == name]
        return raid

    def load(self, name):
        """How an exercise stands; raises Failed when it met a fault."""
        [load] = self.call("weft_load_get", name=name)
        if load["fault"]:
            raise Failed(f"{name} on {load['bdev_name']}: {load['fault']}")
        return load

    def finish(self, name):
        """Waits for the end of an exercise, and forgets it."""
        self.wait(f"the end of {name}", lambda: self.load(name)["finished"])
        return self.call("weft_load_stop", name=name)

    def stop(self):
        """Ends it, and wants it to end well."""
        self.guest.run("weft -s /run/weft.sock rpc spdk_kill_instance --sig_name SIGTERM > /dev/null\n"
                       "while kill -0 $(cat /run/weftd.pid) 2>/dev/null; do sleep 0.1; done\n"
                       "[ ! -e /run/weft.sock ] || { tail -n 60 /run/weftd.log; exit 1; }")
