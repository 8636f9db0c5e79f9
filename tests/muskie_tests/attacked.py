"""A training run in processes of its own, which a test waits for and attacks."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

from conftest import ROOT, xla_flags
from muskie_tests.commands import free_port
from muskie_tests.runs import SMALL_FLAGS

SETTINGS = [
    *SMALL_FLAGS,
    "--config.evaluation.pictures=0",
    "--config.checkpoint.every=50_000",
    "--config.log.every=1",
    "--config.log.tensorboard=False",
]
STOPPED = 75
PATIENCE = 180.0  # seconds


class Run:
    """A run of the quickstart, much smaller.

    Args:
      workdir: the work directory.
      steps: duration.
      processes: number of processes, with one device each.
      flags: further arguments of the command.
      environment: further environment variables.
      port: port of process 0; None for a free one.
      only: index of the only process to start; None for all.
    """

    def __init__(self, workdir, steps, processes=1, flags=(), environment=None, port=None, only=None):
        command = [*self.command(workdir, steps), *flags]
        self.workdir = workdir
        self.log = ""
        self._changed = threading.Condition()
        environment = os.environ | {"XLA_FLAGS": xla_flags(1)} | (environment or {})
        of_process = [[]] if processes == 1 else _distributed(processes, port or free_port())
        of_process = of_process if only is None else [of_process[only]]
        self.processes = [
            subprocess.Popen(
                command + more, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True,
            )
            for more in of_process
        ]  # fmt: skip
        self._readers = [threading.Thread(target=self._read, args=(each,)) for each in self.processes]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def command(workdir, steps):
        program = [sys.executable, "-m", "muskie_jax.main", "--config", "configs/quickstart.py"]
        flags = ["--workdir", str(workdir), f"--config.duration={steps} steps"]
        return [*program, *flags, f"--stopped_exit_code={STOPPED}", *SETTINGS]

    def _read(self, process):
        for line in process.stderr:
            with self._changed:
                self.log += line
                self._changed.notify_all()

    def wait_for(self, text):
        """Waits until a process has written a text to its standard error."""
        ended = lambda: all(process.poll() is not None for process in self.processes)
        with self._changed:
            deadline = time.monotonic() + PATIENCE
            while text not in self.log and not ended() and time.monotonic() < deadline:
                self._changed.wait(1.0)
        if text not in self.log:
            self.kill()
            raise AssertionError(self.log)
        return self

    def signal(self, name, process=0):
        self.processes[process].send_signal(signal.Signals[name])
        return self

    def end(self, *codes):
        """Waits for the end, checks the exit codes, and returns the final figures, if there are any."""
        deadline = time.monotonic() + PATIENCE
        try:
            for process in self.processes:
                process.wait(max(1.0, deadline - time.monotonic()))
            out = self.processes[0].stdout.read().splitlines()
        finally:
            self.kill()
        found = [process.returncode for process in self.processes]
        assert found == list(codes or [0] * len(found)), f"{found}: {self.log}"
        return json.loads(out[-1]) if out and out[-1].startswith("{") else None

    def kill(self):
        for process in self.processes:
            process.kill()
            process.wait()
        for reader in self._readers:
            reader.join()
        for process in self.processes:
            process.stdout.close()
            process.stderr.close()

    def saved(self):
        paths = (self.workdir / "checkpoints").glob("*")
        return sorted(int(path.name) for path in paths if path.name.isdigit())


def _distributed(processes, port):
    flags = ["--distributed", f"--coordinator=localhost:{port}", f"--num_processes={processes}"]
    return [[*flags, f"--process_id={index}"] for index in range(processes)]
