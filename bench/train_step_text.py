"""The comparison of `train_step.py` at text mode's lengths (about 520 tokens a record): what is compared, and why
that way, stands at its head. 16 records a step, about 556 tokens each.
"""

import train_step

BARS = dict(hf=3.3, hf_grouped=2.8, trl=4.0, trl_packed=4.5)
# 15 % below what a quick run gave on a quiet machine: a guard against getting slower; BARS are the targets
QUICK_BARS = dict(hf=1.2, hf_grouped=1.1, trl=1.5, trl_packed=2.3)

if __name__ == "__main__":
    train_step.main("train_step_text", True, BARS, QUICK_BARS)
