"""Training by rewards in two processes, whole (`none`) and in slices (FSDP2, `grad` and `full`), against one process:
the same answers, rewards, losses and weights; and a training that goes on from its checkpoint. Started by
`.ci/test.py`."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODES = ("none", "grad", "full")
ARCHS = ("mlp",)  # others by hand: each takes half a minute
STEPS = 3
MOST = 1e-3  # difference of a trained tensor, value by value, as a share of its norm
WATCHED = ("reward", "reward_std", "flat", "length", "cut", "loss", "grad_norm", "entropy", "kl")


def config(arch, mode):
    "A run of an arm: `mode` is `one`, or what two processes share"
    from protein_llm.config import from_preset

    shard, processes = ("none", 1) if mode == "one" else (mode, 2)
    sizes = dict(n_proteins=120, n_test_clusters=10, n_valid_clusters=5, batch_tokens=1_024)
    return from_preset("tiny", arch, **sizes, processes=processes, shard=shard)


def variety(predictions, references):
    "How many of an answer's letters are different ones"
    return [len({*p}) / max(1, len(p)) for p in predictions]


def fresh(cfg, data):
    "A model of an arm with open gates and LoRA that is not zero, the same in every process"
    import torch

    from protein_llm.core import set_seed
    from protein_llm.model import build_model
    from protein_llm.model.parts import trained_parameters

    set_seed(0)
    model = build_model(cfg.model, data.features.d, data.tokenizer)
    with torch.no_grad():
        for p in trained_parameters(model).values():
            p += 0.1 * torch.randn_like(p)
    return model


def train(cfg, folder, acc):
    "A training that stops after its first step, and is gone on with by another start"
    from protein_llm.rl.grpo import GRPO, GRPOConfig
    from protein_llm.rl.losses import PolicyConfig
    from protein_llm.runs.data import RunData

    data = RunData(cfg)
    how = GRPOConfig(
        PolicyConfig("dapo", epsilon_high=0.28, beta=0.05),
        steps=STEPS,
        prompts=5,  # ranks have different shares
        k=3,
        max_new_tokens=8,
        minibatches=2,
        lr=1e-4,
        lr_bridge=1e-4,
        save_every=1,
    )
    records = data.corpus.records_of("train").head(12)
    GRPO(fresh(cfg, data), data, records, variety, how, folder, acc).run(until=1)
    acc.wait_for_everyone()
    second = GRPO(fresh(cfg, data), data, records, variety, how, folder, acc)
    if second.step != 1:
        sys.exit(f"{folder.name}: a second start goes on from step {second.step}, not from 1")
    log = second.run()
    sliced = [hasattr(p, "to_local") for p in second.model.parameters()]
    return second.model.trained_state(), log, sum(sliced) / len(sliced)


def work(mode, out, archs):
    "What the processes of one mode do; the main one writes what came out"
    import torch

    from protein_llm.runs.run import Run
    from protein_llm.training.parallel import make_accelerator

    torch.set_num_threads(1)
    found = {}
    for arch in archs:
        cfg = config(arch, mode)
        acc = make_accelerator(Run(cfg))
        state, log, sliced = train(cfg, out / mode / arch, acc)
        if acc.is_main_process:
            torch.save(state, out / f"{mode}-{arch}.pt")
        found[arch] = dict(log=log[[*WATCHED]].to_dict("list"), sliced=sliced)
    if acc.is_main_process:
        (out / f"{mode}.json").write_text(json.dumps(found))
    if acc.num_processes > 1:
        torch.distributed.destroy_process_group()


def far(one, other):
    "The largest difference of a tensor: norm of what is between the two, as a share of the tensor's; and its name"
    return max(
        ((one[n] - other[n]).double().norm().item() / max(one[n].double().norm().item(), 1e-6), n)
        for n in one
    )


def differences(one, other, mode):
    "What of the logs does not agree, in words"
    bad = []
    for arch, a in one.items():
        b = other[arch]
        for name in WATCHED:
            pairs = zip(a["log"][name], b["log"][name], strict=True)
            off = max(abs(x - y) / max(abs(x), 1e-2) for x, y in pairs)
            if off > 1e-3:
                bad.append(f"{mode} {arch}: {name} is {b['log'][name]}, alone {a['log'][name]}")
        if b["sliced"] != (mode != "none"):
            bad.append(f"{mode} {arch}: {b['sliced']:.0%} of the parameters are in slices")
    return bad


def start(mode, out, archs):
    "Two processes of this script"
    here = dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", __file__, mode, str(out), *archs]
    kept = dict(text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    done = subprocess.run(command, cwd=ROOT, env=os.environ | here, **kept)
    if done.returncode:
        sys.exit(f"{mode} ended with exit code {done.returncode}:\n{done.stdout[-6000:]}")


def main():
    import torch

    if sys.argv[1:2] and sys.argv[1] in MODES:
        return work(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
    archs, bad = sys.argv[1:] or ARCHS, []
    with tempfile.TemporaryDirectory() as d:
        out = Path(d)
        work("one", out, archs)
        one = json.loads((out / "one.json").read_text())
        for mode in MODES:
            start(mode, out, archs)
            bad += differences(one, json.loads((out / f"{mode}.json").read_text()), mode)
            for arch in archs:
                states = (torch.load(out / f"{m}-{arch}.pt") for m in ("one", mode))
                off, name = far(*states)
                print(
                    f"{mode:5} {arch:10} largest difference of a trained tensor: {off:.1e} ({name})"
                )
                if off > MOST:
                    bad.append(f"{mode} {arch}: {name} differs by {off:.1e} of its norm")
    if bad:
        sys.exit("\n".join(bad))


if __name__ == "__main__":
    main()
