"""Every arm trained by two processes, whole (`none`) and in slices (FSDP2, `grad` and `full`), against one process on the same records: losses, weights, checkpoints, answers; and a run that one process began
and two end. Started by `.ci/test.py`."""
import json, os, shutil, subprocess, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODES = ("one", "none", "grad", "full")


def work(mode, out):
    "What one of the processes does; the main one writes what came out"
    import torch
    from protein_llm.checkpoint import checkpoints
    from protein_llm.config import ARCHS, from_preset
    from protein_llm.generate import Decoding, answer_records
    from protein_llm.parallel import make_accelerator, read_log, shard_model
    from protein_llm.prepare import RunData
    from protein_llm.pretrained import ProteinLLM
    from protein_llm.train import make_optimizer, train
    torch.set_num_threads(1)
    found = {}
    for arch in ARCHS:
        cfg = from_preset("tiny", arch, n_proteins=120, n_test_clusters=10, n_valid_clusters=5, steps=4, warmup=1, batch_records=12, batch_tokens=1_024, eval_every=2, save_every=1,
            processes=1 if mode == "one" else 2, shard="none" if mode == "one" else mode, checkpoint_activations=mode == "full" and arch in ("mlp", "flamingo"))
        acc,folder = make_accelerator(cfg),Path(out)/mode/arch
        train(cfg, folder=folder, stop_after=3)
        acc.wait_for_everyone()
        begun = Path(out)/"begun"/arch # by one process
        if mode == "one": shutil.copytree(folder, begun)
        if mode == "full" and acc.is_main_process: shutil.copytree(begun, folder.with_name(f"{arch}-begun"))
        acc.wait_for_everyone()
        slices = len(list(checkpoints(folder/"checkpoints")[-1].glob("*.distcp")))
        acc.wait_for_everyone()
        train(cfg, folder=folder) # reads the checkpoint and ends the run
        acc.wait_for_everyone()
        data,model = RunData(cfg),ProteinLLM.from_pretrained(folder/"model")
        weights = {n: t.double().norm().item() for n,t in model.trained_state().items()}
        model,_ = shard_model(model, make_optimizer(model, cfg.train), acc)
        sliced = sum(hasattr(p, "to_local") for p in model.parameters())/len(list(model.parameters())) # now: what is gathered for an answer may stay so
        answers = answer_records(model, data.corpus.side("test").head(3), data, Path(out)/mode/f"{arch}-answers", Decoding(12), part=1, acc=acc) # three parts: one rank has two of them, the other runs along
        log = read_log(folder)
        ended = read_log(train(cfg, folder=folder.with_name(f"{arch}-begun"))).loss.iloc[-1] if mode == "full" else log.loss.iloc[-1]
        found[arch] = dict(ended=ended, loss=log.loss.tolist(), grad_norm=log.grad_norm.tolist(), valid=read_log(folder, "eval").loss.tolist(), weights=weights, answers=[[*map(int, t)] for t in answers.tokens], slices=slices, sliced=sliced)
    if acc.is_main_process: (Path(out)/f"{mode}.json").write_text(json.dumps(found))
    if acc.num_processes > 1: torch.distributed.destroy_process_group()


def differences(one, other, mode):
    "What does not agree, in words"
    bad = []
    for arch,a in one.items():
        b = other[arch]
        for name in ("loss", "valid", "grad_norm"):
            far = max(abs(x-y)/abs(x) for x,y in zip(a[name], b[name]))
            if far > 1e-4 or len(a[name]) != len(b[name]): bad.append(f"{mode} {arch}: {name} is {b[name]}, with one process {a[name]}")
        if abs(a["ended"]-b["ended"]) > 1e-4*a["ended"]: bad.append(f"{mode} {arch}: begun by one process and ended by two, the last loss is {b['ended']}, not {a['ended']}")
        far = max(abs(b["weights"][n]-x)/max(x, 1e-3) for n,x in a["weights"].items())
        if far > 1e-3: bad.append(f"{mode} {arch}: trained weights differ by {far:.1e}")
        if a["answers"] != b["answers"]: bad.append(f"{mode} {arch}: answers differ: {b['answers']} and {a['answers']}")
        if b["slices"] != 2: bad.append(f"{mode} {arch}: the checkpoint has {b['slices']} files, one from each process expected")
        if b["sliced"] != (mode != "none"): bad.append(f"{mode} {arch}: {b['sliced']:.0%} of the parameters are in slices")
    return bad


def main():
    if len(sys.argv) == 3: return work(*sys.argv[1:])
    with tempfile.TemporaryDirectory() as out:
        for mode in MODES:
            start = [sys.executable] if mode == "one" else [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
            done = subprocess.run([*start, __file__, mode, out], cwd=ROOT, env=os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false"), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if done.returncode: sys.exit(f"{mode} ended with exit code {done.returncode}:\n{done.stdout[-6000:]}")
        found = {m: json.loads((Path(out)/f"{m}.json").read_text()) for m in MODES}
    bad = [line for m in MODES[1:] for line in differences(found["one"], found[m], m)]
    for arch,a in found["one"].items(): print(f"{arch:10} loss {a['loss'][0]:.4f} to {a['loss'][-1]:.4f}; largest difference " + ", ".join(f"{m} {max(abs(x-y)/x for x,y in zip(a['loss'], found[m][arch]['loss'])):.1e}" for m in MODES[1:]))
    if bad: sys.exit("\n".join(bad))


if __name__ == "__main__": main()
