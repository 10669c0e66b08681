"""Stands in for make-jax: the same files in no time, and whatever DATA/behaviour.json says of "VARIANT/seed-N".

"fail" and "refuse" end with a message, "kill" like a process that has no memory left, "hang" trains until it is told to
stop. A step takes optimizer.weight_decay seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import time
from pathlib import Path


def train(options: argparse.Namespace) -> None:
    experiment, run = json.loads(Path(options.what).read_text()), Path(options.workdir)
    training = experiment["training"]
    for override in options.set:
        key, _, value = override.partition("=")
        assert key.startswith("training.")
        training[key.removeprefix("training.")] = int(value)
    name = f"{experiment['name'].partition(': ')[2]}/seed-{training['seed']}"
    behaviour = json.loads((Path(options.data[0]) / "behaviour.json").read_text()).get(name, "")
    print(f"training {name}: {behaviour}", os.environ.get("CUDA_VISIBLE_DEVICES", ""), flush=True)
    if behaviour == "refuse":
        print("make-jax: error: the data does not fit; use other data", file=sys.stderr)
        sys.exit(2)
    run.mkdir(parents=True, exist_ok=True)
    (run / "experiment.json").write_text(json.dumps(experiment))
    facts = {"commit": "abc", "hardware": "a computer", "date": "today", "data_fingerprint": "f"}
    (run / "run.json").write_text(json.dumps(facts))
    steps(run, training, experiment["optimizer"]["weight_decay"], behaviour)
    rate = experiment["optimizer"]["learning_rate"]
    value = 0.8 - 0.1 * (math.log10(rate) + 3) ** 2 + 0.01 * training["seed"]
    result = {"steps": training["steps"], "parameters": 1000, "dev": {"dev/r_precision": value, "dev/mrr": value / 2}}
    (run / "result.json").write_text(json.dumps(result))


def steps(run: Path, training: dict, pace: float, behaviour: str) -> None:
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    checkpoint, every = run / "checkpoint.json", training["log_every"]
    step = json.loads(checkpoint.read_text()) if checkpoint.exists() else 0
    print(f"from step {step}", flush=True)
    with (run / "metrics.jsonl").open("a") as file:
        while step < training["steps"] or behaviour == "hang":
            time.sleep(pace)
            step += 1
            if step % every == 0 or step == training["steps"]:
                seconds = pace * every + (0.5 if step <= every else 0.0)  # the first window compiles
                file.write(json.dumps({"step": step, "seconds": seconds, "loss": 1.0}) + "\n")
                file.flush()
            if stopped:
                checkpoint.write_text(json.dumps(step))
                sys.exit(0)
            if step == 3 and behaviour in ("fail", "kill"):
                print("  0%|   | 3/30", end="\r")
                print("ValueError: the loss is too high", file=sys.stderr, flush=True)
                checkpoint.write_text(json.dumps(step))
                if behaviour == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                sys.exit(1)


def embed(options: argparse.Namespace) -> None:
    Path(options.out).write_text(options.without or "all")


def evaluate(options: argparse.Namespace) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out, run = Path(options.out), Path(options.run)
    value = json.loads((run / "result.json").read_text())["dev"]["dev/r_precision"]
    if Path(options.embeddings).read_text() != "all":
        value /= 2
    out.mkdir(exist_ok=True)
    segment = {"column": "exact", "group": "facet", "name": "colour", "queries": 3, "metrics": {"r_precision": value}}
    group = {"split": "picture", "name": "none", "column": "exact", "metrics": {"r_precision": None}, "matched": value}
    metrics = {"r_precision": value, "ndcg@10": value, "mrr": None}
    judged = {"metrics": {"exact": metrics, "bm25": {"r_precision": 0.1}}, "segments": [segment], "groups": [group]}
    table = {
        "query_id": ["a", "b", "c"] * 2,
        "column": ["exact"] * 3 + ["bm25"] * 3,
        "r_precision": [value - 0.1, value + 0.1, math.nan, 0.1, 0.1, math.nan],
    }
    pq.write_table(pa.table(table), out / "per_query.parquet")
    (out / "metrics.json").write_text(json.dumps(judged))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["train", "embed", "evaluate"])
    parser.add_argument("what", nargs="?")
    for flag in ("--data", "--set", "--products"):
        parser.add_argument(flag, action="append", default=[])
    for flag in ("--workdir", "--run", "--out", "--embeddings", "--without", "--queries", "--qrels"):
        parser.add_argument(flag)
    options = parser.parse_args()
    {"train": train, "embed": embed, "evaluate": evaluate}[options.command](options)


if __name__ == "__main__":
    main()
