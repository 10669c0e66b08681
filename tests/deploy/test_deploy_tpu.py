"""deploy/tpu against a gcloud that answers from a list, and deploy/host against a systemd that does."""

from __future__ import annotations

import shlex
import tarfile

import pytest
from programs import Programs, call, dry_run, options

from make_jax.cli.training import train

# The states of the request and the answers of the first host are taken from files, a line each time.
GCLOUD = """
next() { head -n 1 "$HERE/$1"; sed -i 1d "$HERE/$1"; }
case "$*" in
*" describe "*)
  state="$(next states)"
  [ "$state" != absent ] || { echo "ERROR: NOT_FOUND: no such resource" >&2; exit 1; }
  [ "$state" != forbidden ] || { echo "ERROR: PERMISSION_DENIED" >&2; exit 1; }
  echo "$state" ;;
*"deploy/host running") [ "$(next running)" = yes ] ;;
*"deploy/host result") exit "$(next results)" ;;
*"--worker=all"*"deploy/host train"*) exit 1 ;;
*" scp "*) cp "$5" "$HERE/source" ;;
esac
"""
ARGUMENTS = shlex.split("experiments/base.py --data /bucket/data --workdir /bucket/run --set 'mesh.rules=a=fsdp -'")


def cloud(programs: Programs, states: str = "", running: str = "", results: str = "") -> dict[str, str]:
    programs.add("gcloud", GCLOUD)
    for name, lines in (("states", states), ("running", running), ("results", results)):
        (programs.folder / name).write_text(lines.replace(" ", "\n") + "\n")
    return programs.environment(TPU="mine", ZONE="zone-a", TOPOLOGY="v5e:4x8", BUCKET="shop")


def verbs(programs: Programs) -> list[str]:
    """What gcloud was asked for, in a word each."""
    found = []
    for words in programs.calls("gcloud"):
        if "queued-resources" in words:
            found.append(words[words.index("queued-resources") + 1])
        elif "scp" in words:
            found.append("copy")
        else:
            command = options(words)["command"]
            found.append(command.rpartition("deploy/host ")[2].split()[0])
    return found


@pytest.mark.parametrize(
    ("topology", "kind", "image"),
    [
        ("v4:4x4x4", "v4-128", "tpu-ubuntu2204-base"),
        ("v5e:16x16", "v5litepod-256", "v2-alpha-tpuv5-lite"),
        ("v5p:4x4x8", "v5p-256", "v2-alpha-tpuv5"),
        ("v6e:1x1", "v6e-1", "v2-alpha-tpuv6e"),
    ],
)
def test_a_slice_is_asked_for_by_its_name_at_google(topology: str, kind: str, image: str, programs: Programs) -> None:
    environment = cloud(programs) | {"TOPOLOGY": topology, "SPOT": "1", "PROJECT": "p"}
    create, copy, install = dry_run("tpu", "up", environment=environment)
    assert create[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "mine"]
    assert "--spot" in create
    wanted = {"zone": "zone-a", "project": "p", "node-id": "mine", "accelerator-type": kind, "runtime-version": image}
    assert options(create) == wanted
    assert copy[:5] == ["gcloud", "compute", "tpus", "tpu-vm", "scp"]
    assert copy[6] == "mine:make_jax.tar.gz"
    assert options(install)["worker"] == options(copy)["worker"] == "all"
    assert options(install)["command"].endswith("make_jax/deploy/host install shop")
    assert not programs.calls()


def test_training_is_started_on_all_hosts_with_arguments_as_given(programs: Programs) -> None:
    *_, start, result = dry_run("tpu", "train", *ARGUMENTS, environment=cloud(programs))
    assert options(start)["worker"] == "all"
    words = shlex.split(options(start)["command"])
    assert words == ["make_jax/deploy/host", "train", *ARGUMENTS]
    train.make_context("train", words[2:])
    assert (options(result)["worker"], options(result)["command"]) == ("0", "make_jax/deploy/host result")


def test_a_preempted_slice_is_asked_for_again_until_the_run_is_finished(programs: Programs) -> None:
    environment = cloud(
        programs,
        states="absent WAITING_FOR_RESOURCES PROVISIONING ACTIVE ACTIVE SUSPENDING SUSPENDED absent ACTIVE",
        running="no no no",
        results="75 143 0",
    )
    done = call("tpu", "train", *ARGUMENTS, environment=environment)
    assert done.returncode == 0, done.stderr
    begin = ["copy", "install", "train", "result"]
    assert verbs(programs) == [
        *["running", "describe", "create", "describe", "describe", "describe", *begin],
        *["running", "describe", *begin],
        *["running", "describe", "describe", "delete", "describe", "create", "describe", *begin],
    ]
    assert "ended with code 75; starting again (0 of 20 after failures)" in done.stderr
    assert "ended with code 143; starting again (1 of 20 after failures)" in done.stderr


def test_the_source_is_what_is_installed(programs: Programs) -> None:
    done = call("tpu", "up", environment=cloud(programs, states="ACTIVE"))
    assert done.returncode == 0, done.stderr
    with tarfile.open(programs.folder / "source") as archive:
        names = set(archive.getnames())
    assert {"deploy/host", "make_jax/cli/training.py", "experiments/base.py", "setup.cfg", "README.md"} <= names
    assert not [name for name in names if name.split("/")[0] in ("docs", "tests", ".venv", "data")]


def test_what_runs_is_followed_and_left_as_it_is(programs: Programs) -> None:
    done = call("tpu", "train", *ARGUMENTS, environment=cloud(programs, running="yes", results="0"))
    assert done.returncode == 0, done.stderr
    assert verbs(programs) == ["running", "train", "result"]


def test_what_is_to_be_mended_is_not_started_again(programs: Programs) -> None:
    done = call("tpu", "train", *ARGUMENTS, environment=cloud(programs, running="yes", results="2"))
    assert done.returncode == 2
    assert verbs(programs) == ["running", "train", "result"]


def test_failures_come_to_an_end(programs: Programs) -> None:
    environment = cloud(programs, running="yes yes yes", results="1 1 1") | {"RESTARTS": "2"}
    done = call("tpu", "train", *ARGUMENTS, environment=environment)
    assert done.returncode == 1
    assert "ended with code 1, and was started again 2 times" in done.stderr


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ("FAILED absent FAILED absent FAILED", "the request for mine has failed 3 times"),
        ("forbidden", "PERMISSION_DENIED"),
    ],
)
def test_a_machine_that_cannot_be_had_is_no_endless_loop(states: str, said: str, programs: Programs) -> None:
    done = call("tpu", "up", environment=cloud(programs, states=states))
    assert done.returncode == 1
    assert said in done.stderr
    assert "copy" not in verbs(programs)


def test_one_command_on_one_chip(programs: Programs) -> None:
    environment = cloud(programs)
    (embed,) = dry_run("tpu", "alone", "embed", "--products", "/bucket/p-*.parquet", environment=environment)
    assert options(embed)["worker"] == "0"
    command = shlex.split(options(embed)["command"])
    assert command == ["make_jax/deploy/host", "alone", "embed", "--products", "/bucket/p-*.parquet"]
    (_, logs) = dry_run("tpu", "logs", "there", environment=environment)
    assert options(logs)["output-directory"] == "there"
    (down,) = dry_run("tpu", "down", environment=environment)
    assert "--force" in down


# ---- one host ----

SYSTEMCTL = """
case "$1" in
show)
  name="${3#--property=}"
  if [ "$name" = ActiveState ] && [ -e "$HERE/busy" ]; then
    [ -s "$HERE/busy" ] && { sed -i 1d "$HERE/busy"; echo active; exit; }
    rm "$HERE/busy"
  fi
  if [ "$name" = SubState ] && [ -e "$HERE/busy" ]; then echo running; exit; fi
  sed -n "s/^$name=//p" "$HERE/unit" ;;
esac
"""
FRESH = "LoadState=not-found\nActiveState=inactive\nSubState=dead\nExecMainCode=0\nExecMainStatus=0\n"
ENDED = "LoadState=loaded\nActiveState={}\nSubState={}\nExecMainCode={}\nExecMainStatus={}\n"


def machine(programs: Programs, unit: str) -> dict[str, str]:
    (programs.folder / "unit").write_text(unit)
    programs.add("systemctl", SYSTEMCTL)
    starts = 'printf "x\\nx\\n" >"$HERE/busy"; echo hello >>"$HERE/make_jax.log"; cp "$HERE/after" "$HERE/unit"'
    programs.add("systemd-run", starts)
    programs.add("sudo", '"$@"')
    return programs.environment()


@pytest.mark.parametrize(
    ("unit", "code"),
    [
        (FRESH, 1),  # has finished nothing
        (ENDED.format("active", "exited", 1, 0), 0),
        (ENDED.format("failed", "failed", 1, 75), 75),
        (ENDED.format("failed", "failed", 2, 2), 130),  # SIGINT is not code 2
        (ENDED.format("failed", "failed", 2, 9), 137),
    ],
)
def test_how_training_on_a_host_ended(unit: str, code: int, programs: Programs) -> None:
    assert call("host", "result", environment=machine(programs, unit)).returncode == code
    assert call("host", "running", environment=machine(programs, unit)).returncode == 1


def test_training_on_a_host_is_a_service_that_is_waited_for(programs: Programs) -> None:
    environment = machine(programs, FRESH)
    (programs.folder / "after").write_text(ENDED.format("failed", "failed", 1, 75))
    done = call("host", "train", *ARGUMENTS, environment=environment)
    assert done.returncode == 75, done.stderr
    assert "hello" in done.stdout
    (service,) = programs.calls("systemd-run")
    assert not (programs.folder / "busy").exists()
    program = next(i for i, word in enumerate(service) if word.endswith("/make-jax"))
    assert service[program + 1 :] == ["train", *ARGUMENTS, "--stopped-code", "75"]
    train.make_context("train", service[program + 2 :])
    assert "--property=LimitMEMLOCK=infinity" in service
    assert any("make-jax-bucket.service" in word for word in service if word.startswith("--property=After="))


def test_a_service_that_runs_is_not_started_twice(programs: Programs) -> None:
    environment = machine(programs, ENDED.format("active", "exited", 1, 0))
    (programs.folder / "make_jax.log").touch()
    (programs.folder / "busy").write_text("x\nx\n")
    done = call("host", "train", *ARGUMENTS, environment=environment)
    assert done.returncode == 0, done.stderr
    assert not programs.calls("systemd-run")
