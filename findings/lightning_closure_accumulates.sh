#!/usr/bin/env bash
# Lightning 2.6.6, accumulate_grad_batches=2, an optimizer that calls its closure more than once (torch's LBFGS).
#
# One would guess: every call of the closure leaves the same gradient, that of both minibatches, since torch asks of a
# closure that it zeroes the gradient first.
# Seen: the closure of the second minibatch zeroes nothing, so that each call adds the gradient of the second minibatch
# once more: with gradients 1 and 10 (halved by Lightning) LBFGS gets 5.5, 10.5, 15.5, ... and searches along a
# direction that belongs to no loss. Nothing is said. Without accumulation every call leaves the same gradient.
# Exits with 0 while this is so.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 lightning==2.6.6 numpy==2.4.6 'setuptools<81' 2>pip.log || { cat pip.log; exit 2; }
venv/bin/python - <<'PY' 2>/dev/null
import lightning
import torch


class Line(lightning.LightningModule):
    """Loss x w: the gradient of a minibatch is its x, wherever w stands."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, number):
        return (batch * self.w).sum()

    def on_after_backward(self):
        self.seen.append(float(self.w.grad))

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=1e-3, max_iter=3, tolerance_change=0, tolerance_grad=0)


def gradients(accumulate):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer("cpu", max_steps=1, accumulate_grad_batches=accumulate, **quiet)
    model = Line()
    trainer.fit(model, torch.utils.data.DataLoader(torch.tensor([1.0, 10.0]), batch_size=1))
    return model.seen


alone, both = gradients(1), gradients(2)
print("one minibatch a step, gradient after each call:", alone)
print("two minibatches a step:", both)
# The first call of two is of the first minibatch, the others are of the second.
raise SystemExit(not (len(set(alone)) == 1 and both[1] == 5.5 and both[2:] == [5.5 + 5 * i for i in range(1, len(both) - 1)]))
PY
