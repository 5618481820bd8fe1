"""Advantages, losses, KL, masks and gradients of `protein_llm.rl.losses` against TRL's `GRPOTrainer`, in the version of
bench/requirements.txt.

`python bench/grpo_oracle.py` makes a real `GRPOTrainer` over a random Qwen3 of two layers, hands it 24 batches of
rewards and 240 batches of log-probabilities, `--quick` 6 and 60, and compares:

- advantages for every `scale_rewards`, as `_generate_and_score_completions` makes them of rewards of which some are
  `None`, of groups of only `None`, and of groups without variance; the tokens that `mask_truncated_completions` leaves;
- loss and gradient of every loss type that both have (`gspo` is `importance_sampling_level=sequence` with `grpo`), as
  `_compute_loss` makes them of given log-probabilities and entropies, under random settings of epsilon, epsilon_high,
  delta, beta, use_bias_correction_kl, top_entropy_quantile, gradient accumulation and steps per generation; KL and
  clip share as it logs them.

- from tokens to the gradient of LoRA, on a text arm: our decoder writes answers to four prompts, both sides' equal
  weights are moved, and TRL reads padded rows with its own head where we read packed ones; every loss, with a
  reference and the entropy mask. Log-probabilities, entropies, losses and gradients are compared.

Answers of a group share the distribution of their first token. Where the entropy mask's threshold falls among such
equal entropies, rounding decides which are kept, and the two sides differ by up to 0.1: of 40 other
random models that happened in two, each time at first tokens alone. It does not in the one that is compared.

What TRL has and we have not: luspo, sapo, vespo, the entropy bonus, off-policy masks. `difference` is the largest one
of all; the bar is 1e-5. `--write` writes some cases with what TRL makes of them to bench/grpo_oracle.json, with which
the notebook of the losses compares, so that its test needs no TRL. Cases are the same each time.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from peers import add_peers

ROOT = Path(__file__).resolve().parent.parent
REWARDS, QUICK_REWARDS, BATCHES, QUICK_BATCHES, BAR = 24, 6, 240, 60, 1e-5
WRITTEN_REWARDS, WRITTEN_BATCHES = 6, 12
PROMPTS, K, TOKENS, EOS = 4, 4, 7, 1
QWEN = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    initializer_range=0.2,
    pad_token_id=0,
    eos_token_id=EOS,
    bos_token_id=2,
)
LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "gspo")
SCALES = ("group", "batch", "none")


def random_rewards(seed):
    "Rewards of each answer, `None` where there is none, and tokens of answers of which some are cut"
    torch.manual_seed(seed)
    rewards = torch.randn(PROMPTS, K).mul(2 if seed % 2 else 0.01).add(seed % 3).tolist()
    rewards = [[None if torch.rand(()) < 0.2 else r for r in group] for group in rewards]
    rewards[0] = [None] * K if seed % 3 == 0 else [0.5] * K
    answers = []
    for _ in range(PROMPTS * K):
        n = int(torch.randint(1, TOKENS, ()))
        ids = torch.randint(3, 60, (n,)).tolist()
        answers.append(ids + [EOS] if torch.rand(()) < 0.7 else ids)
    return dict(rewards=rewards, answers=answers, scale=SCALES[seed % 3], masked=seed % 2 == 0)


def random_batch(seed):
    "What `_compute_loss` is given, and settings"
    torch.manual_seed(1000 + seed)
    loss = LOSSES[seed % len(LOSSES)]
    lengths = torch.randint(0 if seed % 5 == 0 else 1, TOKENS + 1, (PROMPTS * K,))
    mask = torch.arange(TOKENS) < lengths[:, None]
    log_probs = -torch.rand(PROMPTS * K, TOKENS) * 3 - 0.01
    old = log_probs + 0.3 * torch.randn_like(log_probs)
    advantage = torch.randn(PROMPTS * K)
    drawn = random.Random(seed)
    bounds = [1.2, 5.0] if loss == "cispo" else [None, 0.28, 0.5]
    settings = dict(
        loss=loss,
        epsilon=drawn.choice([0.2, 0.1]),
        epsilon_high=drawn.choice(bounds),
        delta=None if loss == "cispo" else drawn.choice([None, 1.6]),
        beta=drawn.choice([0.0, 0.04, 0.5]),
        correct_kl=drawn.random() < 0.5,
        top_entropy=drawn.choice([1.0, 0.2, 0.7]),
    )
    return dict(
        settings=settings,
        log_probs=log_probs.tolist(),
        old=None if drawn.random() < 0.2 else old.tolist(),  # the first step on a batch
        reference=(log_probs + 0.5 * torch.randn_like(log_probs)).tolist(),
        entropies=(torch.rand_like(log_probs) * 3).tolist(),
        advantages=advantage.tolist(),
        mask=mask.tolist(),
        accumulation=drawn.choice([1, 2]),
        per_rollout=drawn.choice([1, 4]),
        rollout_tokens=int(mask.sum()) * 3 + 5,
    )


def make_trainer(folder):
    "TRL's own trainer over a small random model"
    from datasets import Dataset
    from peft import LoraConfig
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    words = {f"w{i}": i for i in range(64)}
    plain = Tokenizer(models.WordLevel(words, unk_token="w2"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="w0", eos_token="w1")
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**QWEN))
    lora = LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.0
    )
    args = GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=PROMPTS * K,
        num_generations=K,
        max_completion_length=TOKENS,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    data = Dataset.from_dict(dict(prompt=["w3 w4"] * PROMPTS))
    trainer = GRPOTrainer(
        model, lambda **_: [0.0], args, data, processing_class=tokenizer, peft_config=lora
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def trl_advantages(trainer, case):
    "Advantages, and the number of tokens that are learned from"
    flat = [r for group in case["rewards"] for r in group]

    def generate(prompts):
        ids = case["answers"]
        return [[3, 4]] * len(prompts), ids, None, ["w5"] * len(ids), None, {}, None, None

    trainer._generate = generate
    trainer._calculate_rewards = lambda *_: torch.tensor(
        [[float("nan") if r is None else r] for r in flat]
    )
    trainer.scale_rewards, trainer.mask_truncated_completions = case["scale"], case["masked"]
    inputs = [dict(prompt="w3 w4")] * (PROMPTS * K)
    out = trainer._generate_and_score_completions(inputs)
    return dict(advantages=out["advantages"].tolist(), tokens=int(out["completion_mask"].sum()))


def set_policy(trainer, cfg):
    "Give a trainer the settings of a loss"
    t, is_gspo = trainer, cfg.loss == "gspo"
    t.loss_type = "grpo" if is_gspo else cfg.loss
    t.importance_sampling_level = "sequence" if is_gspo else "token"
    t.epsilon_low, t.epsilon_high = cfg.epsilon, cfg.high
    t.beta, t.top_entropy_quantile = cfg.beta, cfg.top_entropy
    t.args.delta, t.args.use_bias_correction_kl = cfg.delta, cfg.correct_kl


def trl_loss(trainer, case):
    "Loss, gradient by log-probability, KL and clip share"
    from protein_llm.rl.losses import PolicyConfig

    s, t = case["settings"], trainer
    log_probs = torch.tensor(case["log_probs"], requires_grad=True)
    entropies = torch.tensor(case["entropies"])
    t._get_per_token_logps_and_entropies = lambda *_, **__: (log_probs, entropies, None)
    set_policy(t, PolicyConfig(**s))
    t.args.steps_per_generation = case["per_rollout"]
    t.current_gradient_accumulation_steps = case["accumulation"]
    t._metrics["train"].clear()
    mask = torch.tensor(case["mask"]).long()
    inputs = dict(
        prompt_ids=torch.ones(len(mask), 1).long(),
        prompt_mask=torch.ones(len(mask), 1).long(),
        completion_ids=torch.ones_like(mask),
        completion_mask=mask,
        advantages=torch.tensor(case["advantages"]),
        ref_per_token_logps=torch.tensor(case["reference"]),
        num_items_in_batch=torch.tensor(case["rollout_tokens"]),
    )
    if case["old"] is not None:
        inputs["old_per_token_logps"] = torch.tensor(case["old"])
    loss = t._compute_loss(t.model, inputs)
    loss.backward()
    told = {k: v[-1] for k, v in t._metrics["train"].items()}
    clipped = told["cispo_clip_ratio" if s["loss"] == "cispo" else "clip_ratio/region_mean"]
    return dict(
        loss=loss.item(), gradient=log_probs.grad.tolist(), kl=told.get("kl", 0.0), clipped=clipped
    )


def our_advantages(case):
    "The same by this project"
    from protein_llm.rl.losses import advantages

    rewards = [[float("nan") if r is None else r for r in group] for group in case["rewards"]]
    learned = [ids for ids in case["answers"] if ids[-1] == EOS or not case["masked"]]
    found = advantages(torch.tensor(rewards), case["scale"])
    return dict(advantages=found.flatten().tolist(), tokens=sum(map(len, learned)))


def our_loss(case):
    "The same by this project; a TRL step accumulates over parts of one size"
    from protein_llm.rl.losses import (
        PolicyConfig,
        Rolled,
        Sizes,
        entropy_mask,
        is_clipped,
        policy_loss,
        ratios,
    )

    cfg, mask = PolicyConfig(**case["settings"]), torch.tensor(case["mask"])
    log_probs = torch.tensor(case["log_probs"], requires_grad=True)
    old = log_probs.detach() if case["old"] is None else torch.tensor(case["old"])
    certain = entropy_mask(torch.tensor(case["entropies"]), mask, cfg.top_entropy)
    advantage, reference = torch.tensor(case["advantages"]), torch.tensor(case["reference"])
    n, parts, tokens = len(mask), case["accumulation"], int(mask.sum())
    shared = case["rollout_tokens"] * parts / case["per_rollout"]
    sizes = Sizes(n * parts, tokens * parts, shared, TOKENS)
    loss, sums = policy_loss(
        log_probs, Rolled(old, advantage, mask, certain, reference), sizes, cfg
    )
    loss.backward()
    clipped = sums["clipped"] / tokens
    if cfg.loss == "gspo":  # TRL counts answers
        ratio = ratios(log_probs.detach(), old, mask, cfg.loss)
        clipped = is_clipped(ratio, advantage[:, None], cfg).float().mean().item()
    kl = sums["kl"] / tokens
    return dict(loss=loss.item(), gradient=log_probs.grad.tolist(), kl=kl, clipped=clipped)


def largest(ours, theirs):
    "Largest difference of two results, by name"

    def number(value):
        return torch.tensor(value, dtype=torch.float64)

    return {name: (number(ours[name]) - number(theirs[name])).abs().max().item() for name in theirs}


def compare(trainer, n_rewards, n_batches):
    "Cases with TRL's results, and the largest difference of each number"
    worst, cases = {}, dict(rewards=[], batches=[])

    def note(kind, differences):
        for name, d in differences.items():
            worst[f"{kind}{name}"] = max(d, worst.get(f"{kind}{name}", 0.0))

    for seed in range(n_rewards):
        case = random_rewards(seed)
        cases["rewards"].append(case | dict(trl=trl_advantages(trainer, case)))
        note("", largest(our_advantages(case), cases["rewards"][-1]["trl"]))
    for seed in range(n_batches):
        case = random_batch(seed)
        cases["batches"].append(case | dict(trl=trl_loss(trainer, case)))
        kind = f"{case['settings']['loss']} "
        note(kind, largest(our_loss(case), cases["batches"][-1]["trl"]))
    return cases, worst


def text_arm(trainer):
    "Our text arm with the trainer's weights, prompts without a protein, and answers to them"
    import numpy as np
    import pyarrow as pa
    from transformers import Qwen3Config

    from protein_llm.config import ModelConfig
    from protein_llm.model import Decoding, build_model
    from protein_llm.model.llm import load_llm
    from protein_llm.rl.rollouts import HeldTokens, write_rollouts
    from protein_llm.text.prompts import END, PLACE, START

    words = {START: 61, PLACE: 62, END: 63}
    tokenizer = SimpleNamespace(
        eos_token_id=EOS,
        convert_tokens_to_ids=words.get,
        batch_decode=lambda rows, **_: [" ".join(map(str, row)) for row in rows],
    )
    llm = load_llm("random", config=Qwen3Config(**QWEN))
    cfg = ModelConfig(arch="text", lora_r=4, lora_alpha=8, lora_dropout=0.0)
    model = build_model(cfg, 8, tokenizer, llm=llm).eval()
    move(model, trainer, seed=0)
    torch.manual_seed(5)
    prompts = [torch.randint(3, 60, (n,)).tolist() for n in (9, 12, 10, 15)]
    ends = 1 + np.cumsum([len(p) for p in prompts])
    cuts = np.stack([np.r_[1, ends[:-1]], ends, ends], 1)
    ids = np.array([0] + [t for p in prompts for t in p], np.int32)
    names = pa.array(["a", "b", "c", "d"])
    store = HeldTokens(ids, cuts, np.full((4, 1), -1), names, pa.array([], pa.string()))
    data = SimpleNamespace(tokens=store, features=None, reads_features=False, tokenizer=tokenizer)
    how = Decoding(TOKENS, K, 1.0, seed=3)
    rollouts = write_rollouts(model, np.arange(4), data, how)
    for i in range(PROMPTS * K):  # answers of all lengths
        for rows in (rollouts.tokens, rollouts.log_probs):
            rows[i] = rows[i][: 1 + i % TOKENS]
    return model, data, prompts, rollouts


def move(model, trainer, seed):
    "Give both sides the same weights, frozen and LoRA, with a LoRA drawn anew"
    torch.manual_seed(seed)
    theirs = dict(trainer.model.named_parameters())
    with torch.no_grad():
        for name, p in model.llm.named_parameters():
            if ".lora_" in name:
                p.normal_(std=0.1)
                theirs[name].copy_(p)
            else:
                p.copy_(theirs[name])
    for name, p in theirs.items():
        p.requires_grad_(".lora_" in name)


def trl_step(trainer, prompts, rollouts, rolled, cfg):
    "TRL's log-probabilities, entropies, loss and gradients of these answers"
    from trl.trainer.utils import pad

    t = trainer
    t.__dict__.pop("_get_per_token_logps_and_entropies", None)  # its own again
    asked = [torch.tensor(prompts[i]) for i in rollouts.records]
    ids = pad([torch.tensor(row) for row in rollouts.tokens], 0)
    inputs = dict(
        prompt_ids=pad(asked, 0, "left"),
        prompt_mask=pad([torch.ones_like(x) for x in asked], 0, "left"),
        completion_ids=ids,
        completion_mask=rolled.mask.long(),
        advantages=rolled.advantages,
        old_per_token_logps=rolled.old,
        ref_per_token_logps=rolled.reference,
        num_items_in_batch=rolled.mask.sum(),
    )
    t.model.zero_grad()
    set_policy(t, cfg)
    t.args.steps_per_generation = t.current_gradient_accumulation_steps = 1
    t._compute_loss(t.model, inputs).backward()
    both = torch.cat([inputs["prompt_ids"], ids], 1)
    seen = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    with torch.no_grad():
        loss = t._compute_loss(t.model, inputs)
        scores = t._get_per_token_logps_and_entropies(
            t.model, both, seen, ids.shape[1], compute_entropy=True
        )
    named = t.model.named_parameters()
    return loss, scores[:2], {n: p.grad for n, p in named if ".lora_" in n}


def compare_text_arm(trainer):
    "Largest differences from tokens to gradients"
    from protein_llm.config import TrainConfig
    from protein_llm.rl.losses import (
        PolicyConfig,
        Rolled,
        Sizes,
        advantages,
        entropy_mask,
        policy_loss,
    )
    from protein_llm.rl.rollouts import pad_rows, rollout_batches, token_log_probs

    model, data, prompts, rollouts = text_arm(trainer)
    old, mask = pad_rows(rollouts.log_probs, rollouts.width)
    move(model, trainer, seed=1)
    packing, worst = TrainConfig(), {}
    reference = old + 0.3 * torch.randn_like(old)
    gained = advantages(torch.randn(PROMPTS, K)).flatten()
    scores = token_log_probs(model, data, rollouts, packing)
    for loss in LOSSES:
        high = 1.2 if loss == "cispo" else 0.28
        cfg = PolicyConfig(loss, epsilon_high=high, beta=0.1, top_entropy=0.6)
        certain = entropy_mask(scores.entropies, mask, cfg.top_entropy)
        rolled = Rolled(old, gained, mask, certain, reference)
        theirs, their_scores, grads = trl_step(trainer, prompts, rollouts, rolled, cfg)
        sizes, total = Sizes(len(old), int(mask.sum()), int(mask.sum()), TOKENS), 0.0
        model.zero_grad()
        for rows, batch in rollout_batches(model, rollouts, data, packing):
            found = model.score_answers(batch, rollouts.width).log_probs
            part = Rolled(*[z[rows] for z in rolled])
            share, _ = policy_loss(found, part, sizes, cfg)
            share.backward()
            total += share.item()
        named = dict(model.llm.named_parameters())
        differ = [(named[n].grad - g).abs().max().item() for n, g in grads.items()]
        worst[f"text arm {loss} loss"] = abs(total - theirs.item())
        worst[f"text arm {loss} gradient"] = max(differ)
        assert max(g.abs().max() for g in grads.values()) > 1e-3, "no gradient to compare"
        for name, ours, their in zip(scores._fields, scores, their_scores, strict=True):
            worst[f"text arm {name}"] = ((ours - their) * mask).abs().max().item()
    return worst


def rounded(value):
    "Numbers as float32 holds them, without the digits that it has not"
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return {k: rounded(v) for k, v in value.items()} if isinstance(value, dict) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer cases")
    parser.add_argument("--write", action="store_true", help="write bench/grpo_oracle.json")
    asked = parser.parse_args()
    sys.path[:0] = [str(ROOT)]
    add_peers()
    import trl

    n_rewards, n_batches = REWARDS, BATCHES
    if asked.quick:
        n_rewards, n_batches = QUICK_REWARDS, QUICK_BATCHES
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(folder)
        cases, worst = compare(trainer, n_rewards, n_batches)
        worst |= compare_text_arm(trainer)
    if asked.write:
        kept = dict(
            trl=trl.__version__,
            rewards=cases["rewards"][:WRITTEN_REWARDS],
            batches=cases["batches"][:WRITTEN_BATCHES],
        )
        text = json.dumps(rounded(kept), separators=(",", ":"))
        (ROOT / "bench" / "grpo_oracle.json").write_text(text + "\n")
    figures = dict(sorted(worst.items())) | dict(
        difference=max(worst.values()), trl=trl.__version__
    )
    ok = figures["difference"] <= BAR
    told = dict(bench="grpo_oracle", figures=figures, bars=dict(difference=BAR), ok=ok)
    print(json.dumps(told))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
