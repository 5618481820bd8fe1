"""One step of our trainer of reinforcement learning against TRL's `GRPOTrainer`, on the text arm's language model.

`python bench/grpo.py` takes steps of 8 prompts x 8 rollouts of 64 tokens: the shipped language model (4 layers, width
192, V=4,096) in float32 with LoRA, prompts of the text arm (about 265 tokens), each trainer whole: rollouts, rewards
and advantages, gradient, AdamW. Both have the same frozen weights and the same LoRA, the same reward, the loss `dapo`
without a reference, one optimizer step on each batch of rollouts. No token ends an answer, so that all rollouts have
64 tokens on both sides. TRL gets its prompts as ids ready made.

Asserted first, for every setting that is tried: both trainers make the same loss (1e-5) and the same gradient (1e-4 of
its norm) of the same rollouts, which ours wrote. That is shown with `cispo`, whose loss is not 0 on the first step as
that of `dapo` is (their gradients are the same there), and at one setting with `dapo`. Then both draw their own. TRL
gets its fastest setting among several numbers of rollouts a micro-batch, and ours among several numbers of tokens; the
rollouts of TRL are always written at once, with its dynamic cache or, in the full run, a static one. No gradient
checkpointing on either side.

One thread; the CPU seconds of a step count, the least of the rounds, sides in turns; `_wall` by the clock. `--threads
2` gives each side two. Where the time goes is printed: rollout (the decoder), scoring (rewards, advantages and what is
read of the answers before the update), update. TRL computes a prompt anew for each of its 8 answers, in the rollout
and in the update; ours once. Neither reads the answers before the update, because the policy that learns is the one
that wrote. `--quick` is the same with fewer settings and rounds; `--profile` prints what our step's time goes to.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from peers import add_peers

ROOT = Path(__file__).resolve().parent.parent
BARS, QUICK_BARS = dict(step=4.0), dict(step=4.0)
PROMPTS, K, TOKENS, LR = 8, 8, 64, 1e-6
STAGES = ("rollout", "scoring", "update")
# What is tried: tokens of a micro-batch of ours; rollouts of a micro-batch of TRL's, and its cache
OURS, QUICK_OURS = (1_024, 2_048, 4_096, 8_192), (2_048, 8_192)
THEIRS = ((4, None), (8, None), (16, None), (64, None), (8, "static"))
QUICK_THEIRS = ((8, None), (64, None))
ROUNDS, QUICK_ROUNDS = 4, 2
NEVER = -1  # the id of no token: nothing ends an answer


def variety(texts):
    "The reward: how many of an answer's words are different ones"
    words = [text.split() for text in texts]
    return [len(set(w)) / max(1, len(w)) for w in words]


def clock():
    "CPU seconds, and the wall's"
    return np.array([time.process_time(), time.perf_counter()])


class Watch:
    "Seconds of a step by stage, CPU and wall"

    def __init__(self):
        self.spent = defaultdict(lambda: np.zeros(2))
        self.steps, self.began = [], None

    def around(self, owner, name, stage):
        "Count the time of a method or function; what another stage counts within it is taken off"
        work = getattr(owner, name)

        def counted(*args, **kwargs):
            before, began = sum(self.spent.values()), clock()
            found = work(*args, **kwargs)
            within = sum(self.spent.values()) - before
            self.spent[stage] = self.spent[stage] + clock() - began - within
            return found

        setattr(owner, name, counted)

    def begin(self):
        self.spent.clear()
        self.began = clock()

    def end(self):
        "A step is done: all that no other stage counted is its update"
        whole = clock() - self.began
        known = {stage: self.spent[stage] for stage in STAGES[:2]}
        update = whole - sum(known.values())
        self.steps.append(np.array([*known.values(), update, whole]))  # [4, 2]
        self.begin()


def least(steps):
    "Stages of the step that took the least CPU time, and the least wall clock of a step"
    best = min(steps, key=lambda step: step[-1, 0])
    return best[:, 0], min(step[-1, 1] for step in steps)


class Ours:
    "Our trainer on the text arm"

    def __init__(self):
        import torch

        from protein_llm.config import from_preset
        from protein_llm.core import set_seed
        from protein_llm.model import build_model
        from protein_llm.model.parts import trained_parameters
        from protein_llm.runs.data import RunData

        self.cfg = from_preset("tiny", "text", lora_dropout=0.0)
        self.data = RunData(self.cfg)
        set_seed(0)
        self.model = build_model(self.cfg.model, 0, self.data.tokenizer).eval()
        self.model.config.eos_token_id = NEVER
        self.first = trained_parameters(self.model)
        with torch.no_grad():
            for p in self.first.values():
                p.normal_(std=0.02)  # PEFT starts with zeros in B
        self.first = {name: p.detach().clone() for name, p in self.first.items()}
        records = self.data.corpus.records_of("test", "answer").sort_values("record_id")
        lengths = self.data.tokens.prompt_lengths(self.data.tokens.positions(records.record_id))
        records = records[lengths + TOKENS <= self.cfg.train.max_tokens]
        self.records = records.iloc[:: len(records) // PROMPTS][:PROMPTS]
        self.prompts = self._prompt_ids()

    def _prompt_ids(self):
        "Ids of each prompt, by its position in the store"
        found = {}
        for i in self.data.tokens.positions(self.records.record_id.tolist()).tolist():
            ids, n_prompt, _ = self.data.tokens(i)
            found[i] = ids[:n_prompt].tolist()
        return found

    def trainer(self, tokens, **policy):
        "A training from the first weights on"
        import torch

        from protein_llm.model.parts import trained_parameters
        from protein_llm.rl.grpo import GRPO, GRPOConfig
        from protein_llm.rl.losses import PolicyConfig

        with torch.no_grad():
            for name, p in trained_parameters(self.model).items():
                p.copy_(self.first[name])
        cfg = GRPOConfig(
            PolicyConfig(**policy),
            prompts=PROMPTS,
            k=K,
            max_new_tokens=TOKENS,
            lr=LR,
            clip=1e9,
            batch_tokens=tokens,
        )
        return GRPO(self.model, self.data, self.records, lambda p, _: variety(p), cfg)

    def gradient(self, tokens, rollouts, rewards, **policy):
        "Loss and gradient of given rollouts"
        training = self.trainer(tokens, **policy)
        rolled, _ = training.known(rollouts, rewards)
        loss = training.updates(rollouts, rolled)["loss"]
        named = self.model.llm.named_parameters()
        return loss, {name: p.grad.clone() for name, p in named if p.grad is not None}

    def timed(self, tokens, steps):
        "Watch steps"
        from protein_llm.rl import grpo

        watch, training = Watch(), self.trainer(tokens)
        write = grpo.write_rollouts
        try:
            watch.around(grpo, "write_rollouts", "rollout")
            watch.around(training, "sample", "scoring")
            watch.around(training, "known", "scoring")
            for _ in range(steps):
                watch.begin()
                line = training.next_step()
                watch.end()
                assert line["length"] == TOKENS, line["length"]
        finally:
            grpo.write_rollouts = write
        return watch.steps


class Theirs:
    "TRL's trainer on the same language model"

    def __init__(self, ours, size, cache, loss, folder):
        from datasets import Dataset
        from transformers import AutoModelForCausalLM
        from trl import GRPOConfig, GRPOTrainer

        from protein_llm.text.prompts import llm_folder

        llm = llm_folder(ours.cfg.model.llm)
        model = AutoModelForCausalLM.from_pretrained(
            llm, dtype="float32", attn_implementation="sdpa"
        )
        args = GRPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=PROMPTS * K // size,
            num_generations=K,
            max_completion_length=TOKENS,
            loss_type=loss,
            epsilon_high=5.0 if loss == "cispo" else None,
            cache_implementation=cache,
            learning_rate=LR,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1e9,
            gradient_checkpointing=False,
            shuffle_dataset=False,
            use_cpu=True,
            bf16=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        self.ours, self.grads, self.watch = ours, {}, Watch()
        places = [str(i) for i in ours.prompts]
        self.trainer = GRPOTrainer(
            model,
            lambda completions, **_: variety(completions),
            args,
            Dataset.from_dict(dict(prompt=places)),
            processing_class=ours.data.tokenizer,
            callbacks=[self._callback()],
            peft_config=self._lora(),
        )
        self._set_up()

    def _lora(self):
        from peft import LoraConfig

        from protein_llm.model.llm import LORA_TARGETS

        cfg = self.ours.cfg.model
        return LoraConfig(
            r=cfg.lora_r,
            lora_alpha=cfg.lora_alpha,
            lora_dropout=0.0,
            target_modules=list(LORA_TARGETS),
            task_type="CAUSAL_LM",
        )

    def _set_up(self):
        "Our weights, prompts as ids, and no token that ends an answer"
        import torch

        with torch.no_grad():
            for name, p in self.trainer.model.named_parameters():
                if ".lora_" in name:
                    p.copy_(self.ours.first[f"llm.{name}"])
        ids = {str(i): prompt for i, prompt in self.ours.prompts.items()}
        self.trainer._tokenize_prompts = lambda prompts: ([ids[p] for p in prompts], None, {})
        self.trainer.eos_token_ids = [NEVER]
        self.trainer.generation_config.eos_token_id = None
        self.trainer.generation_kwargs["eos_token_id"] = None

    def _callback(self):
        from transformers import TrainerCallback

        side = self

        class Steps(TrainerCallback):
            def on_train_begin(self, *_, **kw):
                side.watch.begin()

            def on_pre_optimizer_step(self, *_, **kw):
                named = side.trainer.model.named_parameters()
                side.grads = {n: p.grad for n, p in named if p.grad is not None}

            def on_step_end(self, *_, **kw):
                side.watch.end()

        return Steps()

    def gradient(self, rollouts):
        "Loss and gradient of given rollouts"
        rows = defaultdict(list)
        for i, position in enumerate(rollouts.records.tolist()):
            rows[str(position)].append(i)

        def generate(prompts):
            left = {prompt: iter(of_prompt) for prompt, of_prompt in rows.items()}
            taken = [next(left[prompt]) for prompt in prompts]
            asked = [self.ours.prompts[int(prompt)] for prompt in prompts]
            ids, texts = ([z[i] for i in taken] for z in (rollouts.tokens, rollouts.texts))
            return asked, ids, None, texts, None, {}, None, None

        self.trainer._generate = generate
        self.trainer.args.max_steps = 1
        loss = self.trainer.train().training_loss
        return loss, {name: grad.clone() for name, grad in self.grads.items()}

    def timed(self, steps):
        "Watch steps"
        if not self.watch.steps:
            self.watch.around(self.trainer, "_generate", "rollout")
            self.watch.around(self.trainer, "_generate_and_score_completions", "scoring")
        before = len(self.watch.steps)
        self.trainer.args.max_steps = steps
        self.trainer.train()
        name = "completions/mean_length"
        length = {line[name] for line in self.trainer.state.log_history if name in line}
        assert len(self.watch.steps) == before + steps and length == {TOKENS}, length
        return self.watch.steps[before:]


def differences(one, other):
    "Of two losses, and of two gradients relative to the norm"
    import torch

    (loss, grads), (wanted, their) = one, other
    assert grads.keys() == their.keys(), grads.keys() ^ their.keys()
    a, b = (torch.cat([g[name].flatten() for name in sorted(g)]) for g in (grads, their))
    assert b.norm() > 1e-4, "no gradient to compare"
    return abs(loss - wanted), ((a - b).norm() / b.norm()).item()


def check(ours, tried_ours, tried_theirs, folder):
    "The same rollouts give the same loss and gradient, whatever the setting: the largest differences"
    training = ours.trainer(tried_ours[0])
    rollouts, rewards, _ = training.sample()
    lengths = [len(ids) for ids in ours.prompts.values()]
    print(
        f"{PROMPTS} prompts of {np.mean(lengths):.0f} tokens ({min(lengths)} to {max(lengths)}), "
        f"{len(rollouts)} rollouts of {rollouts.width}; rewards {rewards.min():.2f} to {rewards.max():.2f}",
        flush=True,
    )
    policies, worst = {"cispo": dict(epsilon_high=5.0), "dapo": {}}, np.zeros(2)
    for loss, size in [("dapo", 8), *(("cispo", n) for n in sorted({n for n, _ in tried_theirs}))]:
        wanted = Theirs(ours, size, None, loss, folder).gradient(rollouts)
        print(f"{loss}: loss of TRL {wanted[0]:.6f}, {size} rollouts a micro-batch", flush=True)
        for tokens in tried_ours:
            found = ours.gradient(tokens, rollouts, rewards, loss=loss, **policies[loss])
            worst = np.maximum(worst, differences(found, wanted))
    assert worst[0] <= 1e-5 and worst[1] <= 1e-4, f"loss and gradient differ by {worst}"
    return worst


def choose(name, sides, steps):
    "The setting whose steps are the fastest"
    cpu = {}
    for setting, work in sides.items():
        cpu[setting] = min(step[-1, 0] for step in work(steps))
        print(f"{name} {setting}: {cpu[setting]:.2f} CPU seconds a step", flush=True)
    return min(cpu, key=cpu.get)


def table(rows):
    "Print CPU seconds by stage"
    print(f"{'CPU seconds':24}" + "".join(f"{name:>10}" for name in (*STAGES, "step")))
    for name, numbers in rows.items():
        print(f"{name:24}" + "".join(f"{x:10.2f}" for x in numbers), flush=True)


def compare(quick, folder):
    "Ratios of time, and the differences of what is computed"
    tried_ours, tried_theirs = (QUICK_OURS, QUICK_THEIRS) if quick else (OURS, THEIRS)
    ours = Ours()
    worst = check(ours, tried_ours, tried_theirs, folder)
    trl = {setting: Theirs(ours, *setting, "dapo", folder) for setting in tried_theirs}
    sides = {tokens: lambda n, tokens=tokens: ours.timed(tokens, n) for tokens in tried_ours}
    tokens = choose("ours, tokens", sides, 1)
    setting = choose("TRL, rollouts and cache", {s: side.timed for s, side in trl.items()}, 1)
    ours_steps, trl_steps = [], []
    for _ in range(QUICK_ROUNDS if quick else ROUNDS):
        ours_steps += ours.timed(tokens, 1)
        trl_steps += trl[setting].timed(1)
    (mine, wall), (theirs, their_wall) = least(ours_steps), least(trl_steps)
    ratio = theirs / mine
    table({f"ours, {tokens} tokens": mine, f"TRL, {setting[0]} rollouts": theirs, "ratio": ratio})
    return dict(
        step=ratio[3],
        step_wall=their_wall / wall,
        rollout=ratio[0],
        update=ratio[2],
        rollout_tokens_per_s=PROMPTS * K * TOKENS / mine[0],
        loss_difference=worst[0],
        gradient_difference=worst[1],
    )


def profile():
    "Print which operations our steps spend their time in: shares of the thread's own time, the largest first"
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    ours = Ours()
    table({"ours": least(ours.timed(2_048, 3))[0]})
    with watch(activities=[ProfilerActivity.CPU]) as seen:
        ours.timed(2_048, 1)
    events = sorted(seen.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    for e in events[:24]:
        print(f"{e.self_cpu_time_total / total:6.1%} {e.count:7,} {e.key}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer settings and rounds")
    parser.add_argument("--profile", action="store_true", help="print where our time goes and stop")
    parser.add_argument("--threads", type=int, default=1, help="threads of either side")
    asked = parser.parse_args()
    sys.path[:0] = [str(ROOT)]
    add_peers(needed=not asked.profile)
    bars = QUICK_BARS if asked.quick else BARS
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= dict(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
        os.environ |= dict(HF_DATASETS_OFFLINE="1", HF_HOME=folder, CUDA_VISIBLE_DEVICES="")
        import torch

        torch.set_num_threads(asked.threads)
        if asked.profile:
            return profile()
        figures = compare(asked.quick, Path(folder))
    figures = {k: float(f"{v:.3g}") for k, v in figures.items()}
    ok = all(figures[k] >= bar for k, bar in bars.items())
    print(json.dumps(dict(bench="grpo", figures=figures, bars=bars, ok=ok)))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
