"""Stands in for Python, gcloud, srun, scontrol and kubectl in tests of the launch scripts.

It is run under their names, does the little that the launch scripts need of them, and notes the calls
that matter as lines of the file $CALLS.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

STOPPED = 75


def note(**more):
    call = {"program": name, "arguments": arguments, "process": os.getpid(), "session": os.getsid(0)}
    call |= {"group": os.getpgrp(), "environment": dict(os.environ)} | more
    with open(os.environ["CALLS"], "a") as file:
        file.write(json.dumps(call) + "\n")


def train():
    def stop(*_):
        time.sleep(float(os.environ.get("SAVING", 0)))
        os.write(1, b"saved\n")  # it may come in the middle of printing
        sys.exit(STOPPED)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if "DEAF" in os.environ else stop)
    note()
    print("training", flush=True)
    while "FOREVER" in os.environ:
        time.sleep(0.05)
    # All trainings, or one run of a sweep.
    fails = any(word.endswith(os.environ.get("FAILS", "")) for word in arguments)
    sys.exit(int(os.environ.get("EXIT", 0)) if fails else 0)


def list_runs():
    if "DRY_RUN" not in os.environ:
        note()
    if "RUNS" not in os.environ:
        sys.exit("error: run 'base': config.duration is wrong")
    print(os.environ["RUNS"])


def python():
    if arguments[:2] == ["-m", "muskie_jax.main"]:
        train()
    elif arguments[:2] == ["-m", "muskie_jax.sweeps"]:
        list_runs()
    elif arguments == ["--version"]:
        print("Python 3.12.0")
    elif arguments[:2] == ["-m", "venv"]:
        folder = pathlib.Path(arguments[2], "bin")
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "python").exists():
            (folder / "python").symlink_to(os.environ["PYTHON"])
    elif arguments[0] == "-c":  # whether this version is good, or JAX sees a GPU
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
        sys.exit("default_backend" in arguments[1] and visible == os.environ.get("NO_GPU"))
    elif arguments[:2] == ["-m", "pip"]:
        note()


def srun():
    note()
    command = arguments[arguments.index("bash") :]
    os.environ["SLURM_GPUS_ON_NODE"] = "4"
    os.execvp(command[0], command)


def gcloud():
    note()
    options = dict(word.split("=", 1) for word in arguments if word.startswith("--"))
    homes = sorted(pathlib.Path(os.environ["WORKERS"]).iterdir())
    if options["--worker"] != "all":
        homes = [homes[int(options["--worker"])]]
    if "scp" in arguments:
        for home in homes:
            shutil.copy(arguments[arguments.index("scp") + 1], home)
        return
    shells = [
        subprocess.Popen(["sh", "-c", options["--command"]], cwd=home, env=os.environ | {"HOME": str(home)})
        for home in homes
    ]
    sys.exit(max([shell.wait() for shell in shells]))


def kubectl():
    note(input=sys.stdin.read())


if __name__ == "__main__":
    name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
    {"gcloud": gcloud, "kubectl": kubectl, "scontrol": note, "srun": srun}.get(name, python)()
