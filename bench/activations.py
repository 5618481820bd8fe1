"""What a training step keeps of each token for its backward pass, per decoder layer at the sizes of Qwen3-8B with
LoRA of rank 8 and dropout 0.05: ours against the same layers with PEFT's own forward.

`python bench/activations.py` builds decoders of one and of two layers on the meta device, bfloat16, runs them forward
on 1,024 tokens and adds up the storages that autograd was handed to keep, each once, parameters aside; the difference
of the two is a layer's. Nothing is timed, the figures are exact. Attention is counted as a flash kernel has it on
both sides: it keeps query, key, value, output and one number a head (the meta device itself would choose a path that
writes the whole square). `--quick` is the same with 256 tokens. The reference system's layer is reported to keep 308
KB and PEFT's default 201 KB; what is measured here says what the installed versions keep.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
BARS = dict(ours_kb=120.0)


def flash(torch):
    "An attention that keeps what a flash kernel keeps"

    class Flash(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, k, v):
            out = torch.empty_like(q)
            ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
            return out

        @staticmethod
        def backward(ctx, grad):
            return None, None, None

    return lambda q, k, v, *args, **kwargs: Flash.apply(q, k, v)


def decoder(layers, lean, dropout):
    "Decoder layers with LoRA on the meta device, in training mode"
    from transformers import Qwen3Config

    from protein_llm.config import ModelConfig
    from protein_llm.model.lean import make_lean
    from protein_llm.model.llm import add_lora, load_llm

    config = Qwen3Config(
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=1024,
    )
    llm = load_llm(config=config, dtype="bfloat16", meta=True).requires_grad_(False)
    model = add_lora(llm, ModelConfig(lora_r=8, lora_dropout=dropout))
    if lean:
        make_lean(model)
    else:
        for m in model.modules():
            m.__dict__.pop("forward", None)  # what PEFT and transformers do
    return model.train()


def kept(model, tokens):
    "Bytes of all storages that autograd keeps"
    import torch

    weights, seen = {p.untyped_storage()._cdata for p in model.parameters()}, {}

    def pack(t):
        s = t.untyped_storage()
        if s._cdata not in weights:
            seen[s._cdata] = s  # held, so that no address is used twice
        return t

    x = torch.empty(1, tokens, 4096, dtype=torch.bfloat16, device="meta", requires_grad=True)
    turn = tuple(torch.empty(1, tokens, 128, dtype=torch.bfloat16, device="meta") for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        for layer in model.get_decoder().layers:
            x = layer(x, attention_mask=None, position_embeddings=turn)
    return sum(s.nbytes() for s in seen.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer tokens")
    tokens = 256 if parser.parse_args().quick else 1024
    import torch

    torch.nn.functional.scaled_dot_product_attention = flash(torch)

    def per_layer(*how):
        return (kept(decoder(2, *how), tokens) - kept(decoder(1, *how), tokens)) / tokens / 1024

    figures = dict(
        ours_kb=per_layer(True, 0.05),
        ours_no_dropout_kb=per_layer(True, 0.0),
        peft_kb=per_layer(False, 0.05),
        peft_no_dropout_kb=per_layer(False, 0.0),
    )
    figures = {k: round(v, 1) for k, v in figures.items()}
    ok = figures["ours_kb"] <= BARS["ours_kb"]
    print(json.dumps(dict(bench="activations", figures=figures, bars=BARS, ok=ok)))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
