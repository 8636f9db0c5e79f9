"""The launch scripts, as far as a shell can tell: dry runs, and real ones on stand-ins for a cluster.

Whatever lies between a script and the trainer (ssh, SLURM, YAML), the trainer must get the arguments as
they were, and SIGTERM.
"""

import pathlib
import re
import shlex
import shutil
import subprocess
import time

import pytest
import yaml

from muskie_tests.launched import ROOT, TRAINER, Project, commands

SCRIPTS = sorted(path.name for path in (ROOT / "launch").iterdir() if path.suffix in (".sh", ".sbatch"))
ARGUMENTS = [
    "--config", "configs/photos.py", "--workdir", "runs/it's mine", "",
    "--config.buckets.views=(2, 4, 8)", "--config.duration=50_000 steps", "--config.data.root=gs://packs",
    '--config.sources.photos.glob=*/"images"/$HOME/`id`\\*;&|<>#~!{a,b}?',
    "two\nlines\tand a tab\\", "@IMAGE@ @ARGUMENTS@ & \\1 $$ $(PROCESS_ID) %s é",
]  # fmt: skip
POD = {"TPU": "pod", "ZONE": "zone"}
CLUSTER = {"IMAGE": "registry/muskie:1", "CLAIM": "disk"}
GPUS = CLUSTER | {"GPUS": "8"}
SLICE = CLUSTER | {"TPU": "v5", "TOPOLOGY": "2x3"}
JOB = {"SLURM_JOB_ID": "77", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_NUM_NODES": "2"}


@pytest.fixture
def project(tmp_path):
    project = Project(tmp_path)
    yield project
    project.end()


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_can_parse_it(script):
    done = subprocess.run(["bash", "-n", ROOT / "launch" / script], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize(
    "script, environment, arguments, expected",
    [
        ("gpu.sh", {}, ["--workdir", "a"], "--config is missing: pass --config configs/"),
        ("gpu.sh", {}, ["--config=a"], "--workdir is missing: pass --workdir runs/"),
        ("gpu.sh", {"GPUS": "two"}, ARGUMENTS, "GPUS=two must be all, or numbers such as 0 or 0,1"),
        ("gpu.sh", {"GPUS": "0,"}, ARGUMENTS, "GPUS=0, must be all"),
        ("slurm.sbatch", {}, ["--workdir", "a"], "--config is missing"),
        ("slurm.sbatch", {}, ARGUMENTS, "this is not a SLURM job: run sbatch launch/slurm.sbatch"),
        ("slurm.sbatch", {"SLURM_JOB_ID": "7"}, ARGUMENTS, "no GPUs: run sbatch --gpus-per-node=8"),
        (
            "slurm.sbatch",
            {"SLURM_SUBMIT_DIR": "/"},
            ARGUMENTS,
            "/ is not the project's folder: change to it",
        ),
        ("tpu_pod.sh", {"ZONE": "zone"}, ARGUMENTS, "TPU is missing: set TPU="),
        ("tpu_pod.sh", {"TPU": "pod"}, ARGUMENTS, "ZONE is missing: set ZONE="),
        (
            "tpu_pod.sh",
            POD,
            ["--config=a", "--workdir=gs://b"],
            "--workdir=gs://b is not supported: choose a",
        ),
        (
            "gpu.sh",
            {},
            ["--config=a", "--workdir", "az://b/c"],
            "--workdir=az://b/c is not supported: choose",
        ),
        ("tpu_pod.sh", POD, ["halt"], "--config is missing"),
        (
            "tpu_worker.sh",
            {},
            ["halt"],
            "tpu_worker.sh: unknown command 'halt': use install, start, follow or stop",
        ),
        ("tpu_worker.sh", {}, ["follow"], "there is no log: start a run first"),
        ("kubernetes.sh", {"CLAIM": "disk"}, ARGUMENTS, "IMAGE is missing: set IMAGE="),
        ("kubernetes.sh", {"IMAGE": "image"}, ARGUMENTS, "CLAIM is missing: set CLAIM="),
        ("kubernetes.sh", CLUSTER, ARGUMENTS, "GPUS= must be a number above 0, such as GPUS=8"),
        (
            "kubernetes.sh",
            GPUS | {"HOSTS": "0"},
            ARGUMENTS,
            "HOSTS=0 must be a number above 0, such as HOSTS=2",
        ),
        ("kubernetes.sh", GPUS | {"TPU": "v5"}, ARGUMENTS, "TPU=v5 and GPUS=8 exclude each other: set one"),
        (
            "kubernetes.sh",
            SLICE | {"TOPOLOGY": ""},
            ARGUMENTS,
            "TOPOLOGY= must be the chips along each side",
        ),
        ("kubernetes.sh", SLICE, ARGUMENTS, "CHIPS=4 does not divide TOPOLOGY=2x3"),
        ("kubernetes.sh", GPUS | {"NAME": "Run_1"}, ARGUMENTS, "NAME=Run_1 must be lowercase letters"),
        ("kubernetes.sh", GPUS, ["--workdir=b"], "--config is missing"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_done(project, script, environment, arguments, expected):
    done = project.run(script, *arguments, **environment)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert expected in done.stderr
    assert project.calls() == [] and not (project.folder / ".venv").exists()


@pytest.mark.parametrize(
    "script, environment, program", [("tpu_pod.sh", POD, "gcloud"), ("kubernetes.sh", GPUS, "kubectl")]
)
def test_a_missing_program_is_named(project, script, environment, program):
    (project.programs / program).unlink()
    for name in ("bash", "dirname"):
        (project.programs / name).symlink_to(shutil.which(name))
    done = project.run(script, *ARGUMENTS, PATH=str(project.programs), **environment)
    assert done.returncode == 2 and done.stdout == "" and project.calls() == []
    assert done.stderr.startswith(f"error: {program} is not installed here: install")


# --- One computer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("gpus, seen", [(None, None), ("all", None), ("0", "0"), ("2,10", "2,10")])
def test_gpu_dry_run(project, gpus, seen):
    (words,) = commands(project.dry_run("gpu.sh", *ARGUMENTS, **({"GPUS": gpus} if gpus else {})))
    settings = [f"JAX_COMPILATION_CACHE_DIR={project.cache}"]
    settings += [f"CUDA_VISIBLE_DEVICES={seen}"] if seen else []
    assert words == ["env", *settings, *TRAINER, *ARGUMENTS]


def test_gpu_becomes_the_trainer_which_gets_sigterm(project):
    process = project.start("gpu.sh", *ARGUMENTS, GPUS="1", FOREVER="1")
    (pip, _, call) = project.calls("python", least=3)
    assert pip["arguments"][:2] == ["-m", "pip"]
    assert call["process"] == process.pid and call["arguments"] == [*TRAINER[1:], *ARGUMENTS]
    assert call["environment"]["CUDA_VISIBLE_DEVICES"] == "1"
    assert call["environment"]["JAX_COMPILATION_CACHE_DIR"] == str(project.cache)
    process.terminate()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 75 and out == "training\nsaved\n", err


@pytest.mark.parametrize(
    "script, environment, told",
    [
        ("gpu.sh", {"GPUS": "9", "NO_GPU": "9"}, "JAX sees no GPU with GPUS=9: run "),
        ("slurm.sbatch", JOB | {"NO_GPU": "all"}, "JAX sees no GPU: run "),
    ],
)
def test_without_a_gpu_nothing_is_trained(project, script, environment, told):
    done = project.run(script, *ARGUMENTS, **environment)
    assert done.returncode == 2 and project.trainings() == project.calls("srun") == []
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and told in last
    assert ".venv/bin/python -m pip install -e '.[gpu]' -c constraints.txt" in last


# --- SLURM -------------------------------------------------------------------------------------------


def test_slurm_dry_run(project):
    command = ["env", f"JAX_COMPILATION_CACHE_DIR={project.cache}", *TRAINER]
    command += ["--distributed", "--stopped_exit_code=75", *ARGUMENTS]
    (words,) = commands(project.dry_run("slurm.sbatch", *ARGUMENTS, **JOB, SLURM_CPUS_PER_TASK="64"))
    assert words[:6] == ["srun", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=64", "bash", "-c"]
    assert words[7:] == ["task", *command]
    (words,) = commands(project.dry_run("slurm.sbatch", *ARGUMENTS))
    assert words[:5] == ["srun", "--ntasks=1", "--ntasks-per-node=1", "bash", "-c"]
    assert words[6:] == ["task", *command]


def test_slurm_is_asked_to_signal_the_tasks_and_to_allow_a_new_start():
    lines = (ROOT / "launch/slurm.sbatch").read_text().splitlines()
    first_command = lines.index("set -euo pipefail")  # SLURM reads no options after it
    options = {
        line.removeprefix("#SBATCH ") for line in lines[:first_command] if line.startswith("#SBATCH")
    }
    assert {"--signal=TERM@300", "--requeue", "--open-mode=append", "--ntasks-per-node=1"} <= options


@pytest.mark.parametrize("code, queued_again", [(0, False), (75, True), (3, False)])
def test_slurm_starts_the_trainer_itself_and_queues_a_stopped_run_again(
    project, tmp_path, code, queued_again
):
    home, project.folder = project.folder, tmp_path / "spool"  # SLURM runs a copy, from elsewhere
    (project.folder / "launch").mkdir(parents=True)
    shutil.copy(home / "launch/slurm.sbatch", project.folder / "launch")
    done = project.run("slurm.sbatch", *ARGUMENTS, **JOB, SLURM_SUBMIT_DIR=str(home), EXIT=str(code))
    (task,), (trainer,) = project.calls("srun"), project.trainings()
    assert trainer["process"] == task["process"], "SLURM may signal only the process that it started"
    assert trainer["arguments"] == [*TRAINER[1:], "--distributed", "--stopped_exit_code=75", *ARGUMENTS]
    assert trainer["environment"]["JAX_LOCAL_DEVICE_IDS"] == "0,1,2,3"
    assert trainer["environment"]["JAX_COMPILATION_CACHE_DIR"] == str(project.cache)
    asked = [call["arguments"] for call in project.calls("scontrol")]
    assert asked == ([["requeue", "Incomplete", "77"]] if queued_again else [])
    assert done.returncode == (0 if queued_again else code), done.stderr


# --- TPU ---------------------------------------------------------------------------------------------

needs_linux = pytest.mark.skipif(not pathlib.Path("/proc").exists(), reason="workers run Linux")


def is_alive(process):
    try:
        return pathlib.Path(f"/proc/{process}/cmdline").read_bytes() != b""
    except FileNotFoundError:
        return False


def test_tpu_pod_dry_run(project):
    settings = {"PREPARE": "sudo mount 'a b'", "JAX_COMPILATION_CACHE_DIR": "/shared/my cache"}
    found = commands(project.dry_run("tpu_pod.sh", *ARGUMENTS, **POD, **settings))
    archive, tpu = ".cache/muskie_jax.tar.gz", ["gcloud", "compute", "tpus", "tpu-vm"]
    assert found[0] == ["mkdir", "-p", ".cache"] and found[1][:3] == ["tar", "-czf", archive]
    assert found[2] == [*tpu, "scp", archive, "pod:", "--worker=all", "--zone=zone"]
    remote = []
    for words, worker in zip(found[3:], ("all", "all", "0"), strict=True):
        assert words[:7] == [*tpu, "ssh", "pod", f"--worker={worker}"] and words[8:] == ["--zone=zone"]
        assert words[7].startswith("--command=")
        remote.append(shlex.split(words[7].removeprefix("--command=")))
    install = ["bash", "-c", "sudo mount 'a b'", "&&", "bash", "launch/tpu_worker.sh", "install"]
    assert remote[0][-7:] == install
    worker = ["bash", "muskie_jax/launch/tpu_worker.sh"]
    assert remote[1] == ["JAX_COMPILATION_CACHE_DIR=/shared/my cache", *worker, "start", *ARGUMENTS]
    assert remote[2] == [*worker, "follow"]
    (words,) = commands(project.dry_run("tpu_pod.sh", "stop", **POD))
    assert words[5:] == ["pod", "--worker=all", f"--command={' '.join(worker)} stop", "--zone=zone"]


def test_tpu_worker_dry_run(project):
    (words,) = commands(project.dry_run("tpu_worker.sh", "start", *ARGUMENTS))
    cache = f"JAX_COMPILATION_CACHE_DIR={project.cache}"
    assert words == ["setsid", "env", cache, *TRAINER, "--distributed", *ARGUMENTS]


@needs_linux
def test_tpu_pod_trains_on_all_workers_until_it_is_started_again_or_stopped(project):
    first = project.start("tpu_pod.sh", *ARGUMENTS, **POD, FOREVER="1", PREPARE="touch 'a b'")
    assert first.stdout.readline() == "training\n", first.communicate()
    project.calls("python", least=6)  # on each worker pip, twice, and the trainer
    before = project.trainings()
    assert [call["arguments"] for call in before] == 2 * [[*TRAINER[1:], "--distributed", *ARGUMENTS]]
    assert all(call["session"] == call["process"] for call in before), "would end with the connection"
    assert {call["environment"]["HOME"] for call in before} == set(map(str, project.workers))
    assert all((worker / "muskie_jax/a b").exists() for worker in project.workers)

    (project.folder / "configs/new.py").touch()
    (project.folder / "configs/photos.py").unlink()
    again = project.start("tpu_pod.sh", *ARGUMENTS, "--config.seed=1", **POD, FOREVER="1")
    out, err = first.communicate(timeout=30)
    assert first.returncode == 0 and out == "saved\n", out + err
    assert again.stdout.readline() == "training\n", again.communicate()
    project.calls("python", least=8)
    after = project.trainings()[2:]
    assert not any(is_alive(call["process"]) for call in before)
    assert [call["arguments"][-1] for call in after] == 2 * ["--config.seed=1"]
    for worker in project.workers:
        assert [path.name for path in (worker / "muskie_jax/configs").iterdir()] == ["new.py"]
        assert (worker / "muskie_jax/train.log.old").read_text() == "training\nsaved\n"

    stopped = project.run("tpu_pod.sh", "stop", **POD)
    assert stopped.returncode == 0 and stopped.stderr.count("saves and stops") == 2, stopped.stderr
    assert not any(is_alive(call["process"]) for call in after)
    assert again.communicate(timeout=30)[0] == "saved\n"
    assert project.run("tpu_pod.sh", "follow", **POD).stdout == "training\nsaved\n"
    assert project.run("tpu_pod.sh", "stop", **POD).stderr == ""


@needs_linux
def test_tpu_worker_kills_what_does_not_stop(project):
    assert project.run("tpu_worker.sh", "start", *ARGUMENTS, FOREVER="1", DEAF="1").returncode == 0
    project.calls("python", least=3)
    (call,) = project.trainings()
    refused = project.run("tpu_worker.sh", "start", *ARGUMENTS)
    assert refused.returncode == 2 and "trains here already: stop it first" in refused.stderr
    done = project.run("tpu_worker.sh", "stop", SECONDS_TO_SAVE="1")
    assert done.returncode == 0 and "is killed" in done.stderr
    time.sleep(0.2)
    assert not is_alive(call["process"])


# --- Kubernetes --------------------------------------------------------------------------------------


def read(manifest):
    """The parts of a JobSet: the job, the pod, its container; the trainer's command as pod 1 gets it."""
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    names = {entry["name"] for entry in container["env"]}
    expand = lambda match: "$" if match[0] == "$$" else "1" if match[1] in names else match[0]
    command = [re.sub(r"\$\$|\$\(([^)]*)\)", expand, word) for word in container["args"]]
    return job, pod, container, container["command"] + command


TWO_HOSTS = ["--coordinator=muskie-trainer-0-0.muskie:8476", "--num_processes=2", "--process_id=1"]
GKE = "cloud.google.com/gke-"


@pytest.mark.parametrize(
    "environment, hosts, own, limits, nodes",
    [
        ({"GPUS": "8"}, 1, [], {"nvidia.com/gpu": 8}, {}),
        ({"GPUS": "4", "HOSTS": "2"}, 2, ["--distributed", *TWO_HOSTS], {"nvidia.com/gpu": 4}, {}),
        ({"TPU": "tpu-v5p-slice", "TOPOLOGY": "2x2x4"}, 4, ["--distributed"], {"google.com/tpu": 4},
         {GKE + "tpu-accelerator": "tpu-v5p-slice", GKE + "tpu-topology": "2x2x4"}),
        ({"TPU": "tpu-v6e-slice", "TOPOLOGY": "2x4", "CHIPS": "8"}, 1, [], {"google.com/tpu": 8},
         {GKE + "tpu-accelerator": "tpu-v6e-slice", GKE + "tpu-topology": "2x4"}),
    ],
)  # fmt: skip
def test_kubernetes_dry_run(project, environment, hosts, own, limits, nodes):
    manifest = yaml.safe_load(project.dry_run("kubernetes.sh", *ARGUMENTS, **CLUSTER, **environment))
    job, pod, container, command = read(manifest)
    assert command == [*TRAINER, "--stopped_exit_code=75", *own, *ARGUMENTS]
    assert container["image"] == "registry/muskie:1" and container["resources"] == {"limits": limits}
    assert job["parallelism"] == job["completions"] == hosts and pod["nodeSelector"] == nodes
    one_slice = {"alpha.jobset.sigs.k8s.io/exclusive-topology": GKE + "nodepool"}
    assert manifest["metadata"] == {"name": "muskie", "annotations": one_slice if nodes else {}}


def test_kubernetes_starts_a_stopped_run_again_but_not_a_wrong_one(project):
    manifest = yaml.safe_load(project.dry_run("kubernetes.sh", *ARGUMENTS, **GPUS))
    job, pod, container, _ = read(manifest)
    (rule,) = job["podFailurePolicy"]["rules"]
    wrong = {"containerName": container["name"], "operator": "In", "values": [2]}
    assert rule == {"action": "FailJob", "onExitCodes": wrong}
    policy = manifest["spec"]["failurePolicy"]
    (rule,) = policy["rules"]
    assert rule["action"] == "FailJobSet" and rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert policy["maxRestarts"] == 100 and job["backoffLimit"] == 0
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] == 300


def test_kubernetes_applies_what_a_dry_run_shows(project):
    settings = CLUSTER | {"IMAGE": "registry/a&b@sha256:12", "NAME": "mine", "MOUNT": "/my disk"}
    text = project.dry_run("kubernetes.sh", *ARGUMENTS, GPUS="8", **settings)
    done = project.run("kubernetes.sh", *ARGUMENTS, GPUS="8", **settings)
    (call,) = project.calls()
    assert done.returncode == 0 and call["arguments"] == ["apply", "--filename=-"]
    comment, _, manifest = text.partition("\n")
    assert comment == "# kubectl apply --filename=- would read:" and call["input"] == manifest
    _, pod, container, _ = read(yaml.safe_load(manifest))
    assert yaml.safe_load(manifest)["metadata"]["name"] == "mine"
    assert container["image"] == "registry/a&b@sha256:12"
    assert {"name": "JAX_COMPILATION_CACHE_DIR", "value": "/my disk/.cache/jax"} in container["env"]
    assert {"name": "shared", "mountPath": "/my disk"} in container["volumeMounts"]
    assert {"name": "shared", "persistentVolumeClaim": {"claimName": "disk"}} in pod["volumes"]
