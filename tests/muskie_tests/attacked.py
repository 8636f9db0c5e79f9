"""A training run in processes of its own, which a test waits for and attacks."""

import atexit
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from conftest import ROOT, write_scene, xla_flags
from muskie_jax.checkpoints.saved_steps import CHECKPOINTS, saved_steps
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


@functools.cache
def photographs() -> pathlib.Path:
    """Returns a folder of four scenes with eight photographs each, which is deleted when Python exits."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="muskie_photos_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for number in range(4):
        write_scene(folder / f"scene{number}", 8, number)
    return folder


class Run:
    """A small run of `configs/photos.py`. With synthetic rooms, a process would start a half slower.

    Args:
      workdir: the work directory.
      steps: duration.
      processes: number of processes, with one device each.
      flags: further arguments of the command.
      environment: further environment variables.
      port: port of process 0; None for a free one.
      only: index of the only process to start; None for all.
      program: arguments of Python that run the command.
    """

    def __init__(
        self, workdir, steps, processes=1, flags=(), environment=None, port=None, only=None,
        program=("-m", "muskie_jax.main"),
    ):  # fmt: skip
        command = [*self.command(workdir, steps, program), *flags]
        self.workdir = workdir
        self.log, self.result = "", None
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
    def command(workdir, steps, program=("-m", "muskie_jax.main")):
        python = [sys.executable, *program, "--config", "configs/photos.py"]
        flags = ["--workdir", str(workdir), f"--config.duration={steps} steps"]
        flags += [f"--config.sources.photos.root={photographs()}", f"--stopped_exit_code={STOPPED}"]
        return [*python, *flags, *SETTINGS]

    def _read(self, process):
        for line in process.stderr:
            with self._changed:
                self.log += line
                self._changed.notify_all()

    def wait_for(self, text):
        """Waits until a process has written a text to its standard error."""
        with self._changed:
            deadline = time.monotonic() + PATIENCE
            while text not in self.log and not self.ended() and time.monotonic() < deadline:
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
        found = self.codes()
        assert found == list(codes or [0] * len(found)), f"{found}: {self.log}"
        return self.result

    def codes(self):
        """Waits for the end, and returns the exit codes."""
        deadline = time.monotonic() + PATIENCE
        try:
            for process in self.processes:
                process.wait(max(1.0, deadline - time.monotonic()))
            out = self.processes[0].stdout.read().splitlines()
            self.result = json.loads(out[-1]) if out and out[-1].startswith("{") else None
        finally:
            self.kill()
        return [process.returncode for process in self.processes]

    def ended(self):
        """Returns whether all processes have ended."""
        return all(process.poll() is not None for process in self.processes)

    def last_step(self):
        """Returns the last update in the log."""
        return int(re.findall(r"^step (\d+)/", self.log, re.MULTILINE)[-1])

    def workers(self, process=0):
        """Returns the process ids of the data workers of a process, at least one; it must run on Linux."""
        tasks = pathlib.Path(f"/proc/{self.processes[process].pid}/task")
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            children = [child for file in tasks.glob("*/children") for child in file.read_text().split()]
            commands = {child: pathlib.Path(f"/proc/{child}/cmdline") for child in children}
            workers = [int(child) for child, path in commands.items() if b"spawn_main" in path.read_bytes()]
            if workers:
                return workers
            time.sleep(0.1)
        raise AssertionError(f"there is no data worker: {self.log}")

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
        """Returns the steps of the complete checkpoints; the work directory may be in object storage."""
        return saved_steps(self.workdir) if (self.workdir / CHECKPOINTS).is_dir() else []


def _distributed(processes, port):
    flags = ["--distributed", f"--coordinator=localhost:{port}", f"--num_processes={processes}"]
    return [[*flags, f"--process_id={index}"] for index in range(processes)]
