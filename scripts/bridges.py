"""The picture of README: how each arm shows a protein to the language model; writes assets/bridges.svg and .png."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ASSETS = Path(__file__).resolve().parent.parent / "assets"
DATA, FROZEN, TRAINED = "white", "#dddddd", "#cfe2f3"
FROM = [("protein\nsequence", DATA)]
ENCODED = [*FROM, ("protein\nencoder", FROZEN)]
# arm: boxes up to the language model, and what is trained in the language model
ARMS = {
    "text": ([*FROM, None, None, ("sequence\nin the prompt", DATA)], "LoRA"),
    "mlp": (
        [*ENCODED, ("attention\npooling, MLP", TRAINED), ("tokens\nin the prompt", DATA)],
        "LoRA",
    ),
    "perceiver": (
        [*ENCODED, ("Perceiver\nResampler", TRAINED), ("tokens\nin the prompt", DATA)],
        "LoRA",
    ),
    "flamingo": (
        [*ENCODED, ("Perceiver\nResampler", TRAINED), ("latents beside\nthe prompt", DATA)],
        "gated cross-attention",
    ),
    "blind": (
        [None, None, ("learned\nconstant", TRAINED), ("tokens\nin the prompt", DATA)],
        "LoRA",
    ),
}
XS, WIDTHS = (1.38, 2.53, 3.75, 5.12), (0.9, 0.88, 1.12, 1.22)  # centres and widths, inches
LLM, LLM_WIDTH, HEIGHT, STEP = 6.72, 1.56, 0.5, 0.74


def box(ax, x, y, width, height, text, colour):
    "A box with a text in its middle"
    corner = (x - width / 2, y - height / 2)
    ax.add_patch(plt.Rectangle(corner, width, height, fc=colour, ec="#444444", lw=0.8))
    ax.text(x, y, text, ha="center", va="center", fontsize=9.5, linespacing=1.1)


def arrow(ax, start, end, y):
    style = dict(arrowstyle="-|>", color="#444444", lw=0.9, shrinkA=0, shrinkB=0)
    ax.annotate("", (end, y), (start, y), arrowprops=style)


def draw_arm(ax, y, name, boxes, inside):
    "One row: the arm's name, its boxes joined by arrows, and its language model"
    ax.text(0.02, y, name, va="center", fontsize=10.5, fontweight="bold")
    end = None
    for x, width, each in zip(XS, WIDTHS, boxes, strict=True):
        if each is None:
            continue
        box(ax, x, y, width, HEIGHT, *each)
        if end is not None:
            arrow(ax, end, x - width / 2, y)
        end = x + width / 2
    arrow(ax, end, LLM - LLM_WIDTH / 2, y)
    half = HEIGHT / 2
    box(ax, LLM, y + half / 2, LLM_WIDTH, half, "language model", FROZEN)
    box(ax, LLM, y - half / 2, LLM_WIDTH, half, inside, TRAINED)


def draw_legend(ax, y):
    for x, colour, text in (
        (1.0, DATA, "data"),
        (1.95, FROZEN, "frozen"),
        (3.05, TRAINED, "trained"),
    ):
        ax.add_patch(plt.Rectangle((x, y - 0.08), 0.24, 0.16, fc=colour, ec="#444444", lw=0.8))
        ax.text(x + 0.32, y, text, va="center", fontsize=9.5)
    ax.text(LLM, y, "writes the answer", ha="center", va="center", fontsize=9.5)


def main():
    plt.rcParams.update(
        {"font.family": "DejaVu Sans", "svg.hashsalt": "bridges", "svg.fonttype": "path"}
    )
    size = (7.6, STEP * len(ARMS) + 0.36)
    fig = plt.figure(figsize=size, facecolor="white")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, size[0]), ylim=(0, size[1]))
    ax.axis("off")
    for row, (name, (boxes, inside)) in enumerate(ARMS.items()):
        draw_arm(ax, size[1] - STEP * (row + 0.5), name, boxes, inside)
    draw_legend(ax, 0.2)
    fig.savefig(ASSETS / "bridges.svg", metadata=dict(Date=None))
    fig.savefig(ASSETS / "bridges.png", dpi=130, metadata=dict(Software=None))


if __name__ == "__main__":
    main()
