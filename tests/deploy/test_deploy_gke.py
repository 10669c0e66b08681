"""deploy/gke: the manifest that it fills in, and what it asks of kubectl and docker."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from programs import Programs, call, dry_run, options

from make_jax.cli.training import train

ARGUMENTS = ["experiments/base.py", "--data", "/bucket/data", "--workdir", "/bucket/run", "--set", 'a="b & c" \\ @NAME']


def cluster(programs: Programs, **settings: str) -> dict[str, str]:
    programs.add("kubectl", '[ "$1" != get ] || printf "%s" "$STATE"; [ "$1" != apply ] || cat >"$HERE/applied"')
    defaults = {"NAME": "shop", "IMAGE": "registry/images/make_jax:1", "BUCKET": "bucket", "TOPOLOGY": "v5e:4x8"}
    return programs.environment(**defaults | {"STATE": ""} | settings)


def manifest(programs: Programs, *arguments: str, **settings: str) -> Any:
    done = call("gke", "submit", *arguments, environment=cluster(programs, **settings) | {"DRY_RUN": "1"})
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def pod(job_set: Any) -> Any:
    (job,) = job_set["spec"]["replicatedJobs"]
    return job["template"]["spec"]["template"]


def test_the_manifest_runs_training_on_all_hosts_of_a_slice(programs: Programs) -> None:
    job_set = manifest(programs, *ARGUMENTS)
    assert (job_set["apiVersion"], job_set["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert job_set["metadata"]["name"] == "shop"
    (job,) = job_set["spec"]["replicatedJobs"]
    assert job["replicas"] == 1
    assert job["template"]["spec"]["parallelism"] == job["template"]["spec"]["completions"] == 8
    spec = pod(job_set)["spec"]
    (container,) = spec["containers"]
    assert container["image"] == "registry/images/make_jax:1"
    assert container["command"] == ["make-jax", "train"]
    assert container["args"] == [*ARGUMENTS, "--stopped-code", "75"]
    train.make_context("train", list(container["args"]))
    assert container["resources"]["requests"] == container["resources"]["limits"] == {"google.com/tpu": 4}
    selector = {"tpu-accelerator": "tpu-v5-lite-podslice", "tpu-topology": "4x8"}
    assert spec["nodeSelector"] == {f"cloud.google.com/gke-{key}": value for key, value in selector.items()}
    assert spec["serviceAccountName"] == "default"


def test_the_bucket_is_mounted(programs: Programs) -> None:
    template = pod(manifest(programs, *ARGUMENTS))
    assert template["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    (volume,), (mount,) = template["spec"]["volumes"], template["spec"]["containers"][0]["volumeMounts"]
    assert (mount["name"], mount["mountPath"]) == (volume["name"], "/bucket")
    assert volume["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "bucket"


def test_all_hosts_start_again_but_not_after_code_2(programs: Programs) -> None:
    job_set = manifest(programs, *ARGUMENTS, RESTARTS="9")
    policy = job_set["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 9
    (rule,) = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    job = job_set["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 0
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule == {"action": "FailJob", "onExitCodes": {"containerName": "train", "operator": "In", "values": [2]}}
    spec = job["template"]["spec"]
    assert spec["restartPolicy"] == "Never"  # a pod failure policy needs it
    assert spec["containers"][0]["name"] == "train"
    assert spec["terminationGracePeriodSeconds"] >= 30


@pytest.mark.parametrize(
    ("settings", "accelerator", "hosts"),
    [
        ({"TOPOLOGY": "v5e:16x16"}, "tpu-v5-lite-podslice", 64),
        ({"TOPOLOGY": "v5e:2x4", "CHIPS_PER_HOST": "8"}, "tpu-v5-lite-podslice", 1),
        ({"TOPOLOGY": "v5p:4x4x8"}, "tpu-v5p-slice", 32),
        ({"TOPOLOGY": "v6e:4x4"}, "tpu-v6e-slice", 4),
        ({"TOPOLOGY": "v4:2x2x4"}, "tpu-v4-podslice", 4),
    ],
)
def test_slices(settings: dict[str, str], accelerator: str, hosts: int, programs: Programs) -> None:
    job_set = manifest(programs, *ARGUMENTS, SPOT="1", SERVICE_ACCOUNT="trainer", **settings)
    spec = pod(job_set)["spec"]
    assert spec["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == accelerator
    assert spec["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert spec["serviceAccountName"] == "trainer"
    assert job_set["spec"]["replicatedJobs"][0]["template"]["spec"]["completions"] == hosts


def test_chips_that_do_not_fill_hosts_are_refused(programs: Programs) -> None:
    done = call("gke", "submit", "x", environment=cluster(programs, TOPOLOGY="v6e:1x1"))
    assert done.returncode == 2
    assert "CHIPS_PER_HOST is 4, but v6e:1x1 has 1 chips" in done.stderr


@pytest.mark.parametrize(("state", "verbs"), [("", ["get", "apply"]), ("Failed", ["get", "delete", "apply"])])
def test_what_has_ended_makes_way_and_what_runs_stays(state: str, verbs: list[str], programs: Programs) -> None:
    done = call("gke", "submit", *ARGUMENTS, environment=cluster(programs, STATE=state))
    assert done.returncode == 0, done.stderr
    assert [words[1] for words in programs.calls("kubectl")] == verbs
    assert yaml.safe_load((programs.folder / "applied").read_text())["kind"] == "JobSet"


def test_the_other_commands(programs: Programs) -> None:
    environment = cluster(programs)
    build, push = dry_run("gke", "image", environment=environment)
    assert options(build) == {"file": "deploy/Dockerfile", "tag": "registry/images/make_jax:1"}
    assert push == ["docker", "push", "registry/images/make_jax:1"]
    (logs,) = dry_run("gke", "logs", environment=environment)
    (state,) = dry_run("gke", "state", environment=environment)
    assert options(logs)["selector"] == options(state)["selector"] == "jobset.sigs.k8s.io/jobset-name=shop"
    (stop,) = dry_run("gke", "stop", environment=environment)
    assert stop[:4] == ["kubectl", "delete", "jobset", "shop"]
