"""Every arm trained by two processes, whole (`none`) and in slices (FSDP2, `grad` and `full`), against one process on
the same records: every trained value, losses, answers; and runs that one process began and two end, and the other
way round. Started by `.ci/test.py`."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODES = ("none", "grad", "full")
STEPS, BEGUN = 3, 2  # of a run, and those after which it is handed over
MOST = 1e-3  # difference of a trained tensor, value by value, as a share of its norm


def config(arch, mode):
    "A run of an arm: `mode` is `one`, or what two processes share"
    from protein_llm.config import from_preset

    sizes = dict(
        n_proteins=120,
        n_test_clusters=10,
        n_valid_clusters=5,
        steps=STEPS,
        warmup=1,
        batch_records=12,
        batch_tokens=1_024,
        eval_every=2,
        save_every=1,
    )
    shard, processes = ("none", 1) if mode == "one" else (mode, 2)
    return from_preset(
        "tiny",
        arch,
        **sizes,
        processes=processes,
        shard=shard,
        checkpoint_activations=mode == "full" and arch in ("mlp", "flamingo"),
    )


def begin(cfg, folder, acc):
    "The first steps of a run, of which a copy is kept; the files of its checkpoint"
    from protein_llm.runs.run import Run, checkpoints
    from protein_llm.training.loop import train

    train(Run(cfg, folder=folder), BEGUN)
    acc.wait_for_everyone()
    if acc.is_main_process:
        shutil.copytree(folder, folder.with_name(f"{folder.name}-begun"))
    acc.wait_for_everyone()
    return len(list(checkpoints(folder / "checkpoints")[-1].glob("*.distcp")))


def end(cfg, folder, acc):
    "The last step of a run that somebody began: the model, and its log"
    from protein_llm.model import ProteinLLM
    from protein_llm.runs.run import Run, read_log
    from protein_llm.training.loop import train

    train(Run(cfg, folder=folder))  # reads the checkpoint
    acc.wait_for_everyone()
    log = read_log(folder)
    model = ProteinLLM.from_pretrained(folder / "model")
    found = dict(
        loss=log.loss.tolist(),
        grad_norm=log.grad_norm.tolist(),
        valid=read_log(folder, "eval").loss.tolist(),
    )
    return model, found


def answers(model, cfg, folder, acc):
    "Answers to three records, one a part (one rank has two of them), and the share of parameters in slices"
    from protein_llm.evaluation.answers import answer_records
    from protein_llm.model import Decoding
    from protein_llm.runs.data import RunData
    from protein_llm.training.parallel import shard_model
    from protein_llm.training.step import make_optimizer

    data = RunData(cfg)
    model, _ = shard_model(model, make_optimizer(model, cfg.train), acc)
    # now: what is gathered for an answer may stay so
    sliced = sum(hasattr(p, "to_local") for p in model.parameters()) / len(list(model.parameters()))
    told = answer_records(
        model,
        data.corpus.records_of("test").head(3),
        data,
        folder.with_name(f"{folder.name}-answers"),
        Decoding(12),
        part=1,
        acc=acc,
    )
    return dict(answers=[[*map(int, tokens)] for tokens in told.tokens], sliced=sliced)


def work(mode, out, archs):
    "What the processes of one mode do; the main one writes what came out"
    import torch

    from protein_llm.runs.run import Run
    from protein_llm.training.parallel import make_accelerator

    torch.set_num_threads(1)
    found = {}
    for arch in archs:
        cfg, folder = config(arch, mode), out / mode / arch
        acc = make_accelerator(Run(cfg))
        slices = begin(cfg, folder, acc)
        model, here = end(cfg, folder, acc)
        if acc.is_main_process:
            torch.save(model.trained_state(), out / f"{mode}-{arch}.pt")
        found[arch] = here | answers(model, cfg, folder, acc) | dict(slices=slices)
        if mode == "full":
            hand_over("one", cfg, out, acc)
    if acc.is_main_process:
        (out / f"{mode}.json").write_text(json.dumps(found))
    if acc.num_processes > 1:
        torch.distributed.destroy_process_group()


def hand_over(begun_by, cfg, out, acc):
    "End what another number of processes began, and keep its trained values"
    import torch

    model, _ = end(cfg, out / begun_by / f"{cfg.model.arch}-begun", acc)
    if acc.is_main_process:
        torch.save(model.trained_state(), out / f"begun-by-{begun_by}-{cfg.model.arch}.pt")


def far(one, other):
    "The largest difference of a tensor: norm of what is between the two, as a share of the tensor's; and its name"
    if one.keys() != other.keys():
        return float("inf"), f"{sorted(one.keys() ^ other.keys())[0]}, which is on one side only,"
    return max(
        ((one[n] - other[n]).double().norm().item() / max(one[n].double().norm().item(), 1e-6), n)
        for n in one
    )


def differences(one, other, mode):
    "What of losses and answers does not agree, in words"
    bad = []
    for arch, a in one.items():
        b = other[arch]
        for name, most in (("loss", 1e-4), ("valid", 1e-4), ("grad_norm", MOST)):
            off = [abs(x - y) / abs(x) for x, y in zip(a[name], b[name], strict=True)]
            # the first step is of the same weights; Adam makes more of rounding in those that follow
            if max(off) > most or name != "valid" and off[0] > 1e-5:
                bad.append(f"{mode} {arch}: {name} is {b[name]}, with one process {a[name]}")
        if a["answers"] != b["answers"]:
            bad.append(f"{mode} {arch}: answers differ: {b['answers']} and {a['answers']}")
        if b["slices"] != 2:
            bad.append(
                f"{mode} {arch}: the checkpoint has {b['slices']} files, one from each process expected"
            )
        if b["sliced"] != (mode != "none"):
            bad.append(f"{mode} {arch}: {b['sliced']:.0%} of the parameters are in slices")
    return bad


def main():
    import torch

    from protein_llm.config import ARCHS
    from protein_llm.runs.run import Run
    from protein_llm.training.parallel import make_accelerator

    if sys.argv[1:2] and sys.argv[1] in MODES:
        return work(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
    archs = sys.argv[1:] or ARCHS  # for use by hand: some arms alone
    with tempfile.TemporaryDirectory() as d:
        out, env = (
            Path(d),
            os.environ
            | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false"),
        )
        work("one", out, archs)  # in this process, which has imported all
        for mode in MODES:
            start = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node",
                "2",
                __file__,
                mode,
                d,
                *archs,
            ]
            done = subprocess.run(
                start,
                cwd=ROOT,
                env=env,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            if done.returncode:
                sys.exit(f"{mode} ended with exit code {done.returncode}:\n{done.stdout[-6000:]}")
        for arch in archs:
            cfg = config(arch, "one")
            hand_over("full", cfg, out, make_accelerator(Run(cfg)))
        found = {m: json.loads((out / f"{m}.json").read_text()) for m in ("one", *MODES)}
        kinds = (*MODES, "begun-by-one", "begun-by-full")
        off = {
            (arch, k): far(*(torch.load(out / f"{which}-{arch}.pt") for which in ("one", k)))
            for arch in archs
            for k in kinds
        }
    bad = [line for m in MODES for line in differences(found["one"], found[m], m)]
    bad += [
        f"{kind} {arch}: {name} differs by {x:.1e} of its norm"
        for (arch, kind), (x, name) in off.items()
        if x > MOST
    ]
    for arch in archs:
        print(
            f"{arch:10} largest difference of a trained tensor: "
            + ", ".join(f"{k} {off[arch, k][0]:.1e} ({off[arch, k][1]})" for k in kinds)
        )
    if bad:
        sys.exit("\n".join(bad))


if __name__ == "__main__":
    main()
