"""A copy of the launch scripts to run, with stand-ins for the programs that they call."""

import contextlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
COPIED = (
    "muskie_jax/main.py",
    "configs/photos.py",
    "requirements.txt",
    "constraints.txt",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
TRAINER = ["python", "-m", "muskie_jax.main"]


class Project:
    """The scripts, in a folder with an awkward name, and stand-ins for what they call."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.calls_file = folder / "my project", folder / "calls"
        self.programs = folder / "programs"
        self.workers = [folder / "workers" / number for number in ("0", "1")]
        shutil.copytree(ROOT / "launch", self.folder / "launch")
        for path in COPIED:
            (self.folder / path).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / path, self.folder / path)
        for made in (self.programs, *self.workers):
            made.mkdir(parents=True)
        stand_in = self.programs / "stand_in"
        program = (ROOT / "tests/muskie_tests/fake_cluster.py").read_text()
        stand_in.write_text(f"#!{sys.executable} -ISB\n{program}")
        stand_in.chmod(0o755)
        for name in ("gcloud", "kubectl", "python3", "scontrol", "srun"):
            (self.programs / name).symlink_to(stand_in)
        self.environment = {
            "HOME": str(folder),
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "PYTHON": str(self.programs / "python3"),
            "CALLS": str(self.calls_file),
            "WORKERS": str(folder / "workers"),
        }
        self.cache = self.folder / ".cache/jax"

    def start(self, script, *arguments, **environment):
        return subprocess.Popen(
            ["bash", self.folder / "launch" / script, *arguments],
            env=self.environment | environment,
            cwd=self.folder.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script, *arguments, **environment):
        process = self.start(script, *arguments, **environment)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def dry_run(self, script, *arguments, **environment):
        """What a dry run prints; it must not have done anything."""
        before = sorted(self.folder.parent.rglob("*"))
        done = self.run(script, *arguments, DRY_RUN="1", **environment)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert sorted(self.folder.parent.rglob("*")) == before
        return done.stdout

    def calls(self, program=None, least=0):
        """The calls so far of a program, or of all; waits until there are at least so many."""
        deadline = time.time() + 30
        while True:
            lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
            calls = [call for call in map(json.loads, lines) if program in (None, call["program"])]
            if len(calls) >= least:
                return calls
            assert time.time() < deadline, calls
            time.sleep(0.02)

    def trainings(self):
        return [call for call in self.calls("python") if call["arguments"][:2] == TRAINER[1:]]

    def end(self):
        """Kills what still trains."""
        for call in self.trainings():
            with contextlib.suppress(ProcessLookupError):
                os.kill(call["process"], signal.SIGKILL)


def commands(text):
    """The commands of a dry run, each as its words."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " ", True, ""
    found = [[]]
    for word in lexer:
        if word == "\n":
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]
