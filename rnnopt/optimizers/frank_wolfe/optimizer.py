"""Frank-Wolfe RNN optimizer: search a small ball around the weights, step to the point found.

At weights ω the local problem is  min F(ω + Δω) over ‖Δω‖_p ≤ δ.  From Δω_0 = 0, for k = 1 … K:

    g_k  = ∇F_k(ω + Δω_{k-1})                  one minibatch gradient
    s_k  = argmin_{‖s‖_p ≤ δ} ⟨s, g_k⟩           the vertex, see lmo.py
    Δω_k = (1 - 1/k) Δω_{k-1} + (1/k) s_k        so Δω_K is the mean of the K vertices

and then ω ← ω + η Δω_K, or a step of another optimizer (Adam in the paper's experiments) whose
gradient is the pseudo-gradient -Δω_K/δ. Between two such commits the weights stand at the probe
point ω + Δω_k, inside the ball; the committed ω is kept in `anchor`.

| paper | here | | paper | here |
|---|---|---|---|---|
| K, k | `inner_steps`, `inner_step` | | s_k | vertex |
| δ | `radius`, or lr when None | | Δω_k/δ | `displacement` |
| p | `norm` | | ω, -Δω_K/δ | `anchor`, pseudo-gradient |
| η | `eta`, or lr/δ when None | | | |

Yue, Li, Saligrama and Zhang, "RNN Training along Locally Optimal Trajectories via Frank-Wolfe
Algorithm", ICPR 2020, https://arxiv.org/abs/2010.05397, Algorithm 1. Departures from the paper:

1. The oracle's exponent is corrected (lmo.py, departure 1).
2. Each weight matrix has its own ball, as in the authors' code, instead of one ball for the vector
   of all weights (`ball`).
3. The spectral norm, `momentum`, and the unit of the radius (`scale`) are not in the paper.
4. Weight decay, which the paper does not mention, is decoupled and part of the outer step.
5. The learnt ball is ours. It is no ball of a fixed norm, but a box that is learnt during training
   (learnt_ball.py); its radius is lr times a factor that is learnt too.

The defaults are not the paper's: K = 1, the learnt ball and a plain step learnt best at equal
gradient evaluations (docs/experiment-log.md). PRESETS holds the settings of the paper and of its
code: `FrankWolfe(params, lr=1e-3, **PRESETS["paper"])`.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from rnnopt.config.options import with_moved
from rnnopt.distributed import Group
from rnnopt.distributed import check_group as check_process_group
from rnnopt.optimizers.frank_wolfe.commit_kernel import commit_at_once
from rnnopt.optimizers.frank_wolfe.eval_weights import EvalMode, Versions
from rnnopt.optimizers.frank_wolfe.inner_loop import Search, move_in_fixed_balls, radius_in_force
from rnnopt.optimizers.frank_wolfe.learnt_search import create_balls, move_in_learnt_balls
from rnnopt.optimizers.frank_wolfe.lmo import Norm
from rnnopt.optimizers.frank_wolfe.local_steps import CommitExchange
from rnnopt.optimizers.frank_wolfe.options import (
    COUNTERS,
    FrankWolfeOptions,
    check_group,
    check_saved,
    complete_groups_,
)
from rnnopt.optimizers.frank_wolfe.outer_step import Outer, OuterStep, check_outer, fit_entries_
from rnnopt.optimizers.frank_wolfe.sharded_inner_loop import ShardedSearch
from rnnopt.optimizers.frank_wolfe.tensor_state import WIDE, create_state
from rnnopt.optimizers.loaded_state import types_kept, unwrap_
from rnnopt.optimizers.sharding import is_sharded
from rnnopt.optimizers.shared_options import check_keywords, settle_group

DEFAULT = FrankWolfeOptions()


class FrankWolfe(EvalMode):
    """Steps along the mean of `inner_steps` ball vertices, one per minibatch gradient.

    For any network, above all recurrent ones: the length of a step does not depend on the size of
    the gradient, whether it vanished or exploded. Let lr decay towards the end of training, because
    the step length does not fall with the gradient.

    Without a closure, `loss.backward(); optimizer.step()` is one inner step, and every
    `inner_steps`-th call commits. With a closure, one call runs up to the next commit; it calls the
    closure once per inner step, and the closure decides whether to draw a new minibatch. Between
    commits the weights are a probe point.

    Evaluate, save and export the model in eval mode: after `optimizer.eval()`, or inside
    `with optimizer.committed():`. Eval mode shows the mean of the latest committed weights, which
    is better than any of them until the learning rate has decayed. Call `optimizer.train()` before
    the next forward pass of training. Weights that you load are evaluated and trained as loaded. A
    checkpoint of model and optimizer resumes bit for bit in either mode.

    A tensor without a gradient does not move, and eval mode shows its own value. Weights whose lr
    reaches 0 between commits stay at the probe point. A tensor that is changed after every step,
    clamped for example, is evaluated without the mean. Use no closure under GradScaler. OneCycleLR
    cycles `momentum`, even from 0, unless cycle_momentum=False.

    With several processes and averaged gradients (DistributedDataParallel), every process takes the
    steps that one process would take on the whole batch. With communicate="commit" each process
    searches with its own gradients (a model without DDP, or under `no_sync`), and each commit
    averages the displacements. Their mean lies in the ball too, and 1/K as much data is sent. Each
    process then has its own momentum, radii and checkpoint.

    All groups must share inner_steps, outer, and ball="global" with its norm.

    Args:
        params: tensors to train, (name, tensor) pairs, or torch parameter groups.
        lr: learning rate. With outer="plain" the radius of the learnt ball, or the length of a step
            in the unit of `scale`; else the learning rate of the outer optimizer.
        inner_steps: K, number of minibatch gradients per commit.
        norm: "learnt", a box in the eigenbasis of the gradients, which is learnt during training;
            or a fixed norm, p ≥ 1, math.inf or "spectral" (matrices; vectors use p = 2). Give
            (name, tensor) pairs, `model.named_parameters()`, if layers have no biases or their
            tensors are not consecutive: the learnt ball joins the tensors of a layer.
        ball: "gate", one ball per weight matrix, where each of the 3 or 4 gates stacked in a tensor
            of nn.GRU or nn.LSTM is a matrix; "tensor", one ball per stored tensor (the spectral
            norm still works gate by gate, and a learnt ball joins the tensors of a layer);
            "global", one ball for all tensors, of a fixed norm.
        outer: "adam", "plain", or a callable (groups, lr=…) → torch optimizer that takes the outer
            steps, such as `functools.partial(torch.optim.SGD, momentum=0.9)`. The callable sets its
            options; its state is saved with this optimizer's.
        weight_decay: λ, the strength of weight decay. Each commit subtracts lr λ times the weights,
            or each inner gradient gets λ times the weights added, see `decoupled_weight_decay`. 0
            is off.
        average: r of the mean x ← x + a (ω - x) of the committed weights, shown in eval mode, with
            a = min(1, (r+1)/(t+r) · largest lr / lr) at commit t. Commit t has a weight near t^r: 0
            is the plain mean, a greater r forgets earlier weights, and so does a smaller lr. None
            is off. It needs two copies of the weights: the mean, and one that detects loaded
            weights.
        gates: number of gates stacked in each tensor of a group. "auto" recognises the tensors of
            nn.LSTM, nn.GRU and their cells: by name if (name, tensor) pairs are given, else by the
            shapes of four consecutive tensors, which must then be in one group.
        maximize: go up the gradient instead of down.
        process_group: processes of communicate="commit"; None is torch.distributed's default group,
            if initialized. A copy of the optimizer has None until `process_group` is set again.
        options: the rest, such as FrankWolfeOptions(radius=0.01); a parameter group sets each by
            its name.
        keywords: foreach, capturable, differentiable and fused, as long as they ask for nothing;
            for one release, with a warning, what is in `options` now.

    Raises:
        ValueError: an option outside its range, a complex tensor or a sparse gradient.

    Example:
        >>> optimizer = FrankWolfe(model.parameters(), lr=1e-2)
        >>> loss = optimizer.step(closure)  # closure: next minibatch, zero_grad, backward
    """

    communicate = "gradient"  # for copies made before this option existed
    compression, overlap = "none", False
    process_group: Group = None  # also in a copy: a group cannot be pickled

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        inner_steps: int = 1,
        norm: Norm = "learnt",
        ball: str = "gate",
        outer: Outer = "plain",
        weight_decay: float = 0.0,
        *,
        average: float | None = 8.0,
        gates: int | str = "auto",
        maximize: bool = False,
        process_group: Group = None,
        options: FrankWolfeOptions = DEFAULT,
        **keywords: Any,
    ):
        options = with_moved(FrankWolfeOptions, options, keywords)
        check_process_group(process_group)
        check_keywords("FrankWolfe", keywords)
        self._exchange = CommitExchange(options.compression, options.overlap)
        self.communicate, self.process_group = options.communicate, process_group
        self.compression, self.overlap = options.compression, options.overlap
        check_outer(outer)
        self.outer = outer
        self._versions = Versions()
        defaults = dict(
            lr=lr, inner_steps=inner_steps, norm=norm, ball=ball, weight_decay=weight_decay,
            average=average, gates=gates, maximize=maximize, **options.of_groups(), **COUNTERS,
            outer=outer if isinstance(outer, str) else "callable",
        )  # fmt: skip
        super().__init__(params, defaults)

    # -- the torch contract ------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group to the current cycle; the gradients it missed count as zero."""
        first = self.param_groups[0] if self.param_groups else self.defaults
        joins_at = first["inner_step"]
        self._exchange.settle()
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            FrankWolfeOptions.drop_removed(group)
            settle_group("FrankWolfe", group, self.defaults)
            check_group(group, self.param_groups[0])
            self._exchange.check(group, self.communicate, self.process_group)
        except ValueError:
            self.param_groups.pop()
            raise
        # A group taken from another optimizer has counters that belong to that one's state.
        group |= dict(inner_step=joins_at, train_mode=first["train_mode"], commits=0, peak_lr=0.0)
        group["probe_radius"] = radius_in_force(group) if joins_at else 0.0
        self._adopt_params()

    def __getstate__(self) -> dict[str, Any]:
        self._exchange.settle()
        names = ("outer", "communicate", "compression", "overlap")
        return super().__getstate__() | {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        unwrap_(state)
        super().__setstate__(state)
        self.__dict__.setdefault("process_group", None)  # must be set again in a copy
        self._exchange = CommitExchange(self.compression, self.overlap)
        self._adopt_params()
        self._versions = Versions()
        for p, entries in self.state.items():
            if isinstance(p, Tensor):
                fit_entries_(p, entries)
        complete_groups_(self.param_groups, self.defaults)

    def _adopt_params(self) -> None:
        """Rebuilds what depends on the set of tensors."""
        self._outer_step = OuterStep(self.outer, self.param_groups)
        every = [p for group in self.param_groups for p in group["params"]]
        self._search_kind = ShardedSearch if any(map(is_sharded, every)) else Search

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a copy of `state_dict`; later steps never write into the caller's tensors.

        Raises:
            ValueError: the state was saved with another kind of outer optimizer, or with an option
                that is gone.
        """
        check_saved(state_dict["param_groups"], self.param_groups[0]["outer"])
        self._exchange.settle()
        state_dict = deepcopy(state_dict)  # hooks may write into it
        with types_kept(self, WIDE):
            super().load_state_dict(state_dict)

    def state_dict(self) -> dict[str, Any]:
        """The whole state, at any inner step and in either mode.

        Save the model's weights at the same time. In eval mode the model holds the weights to
        evaluate and this state holds the training weights; once loaded, it is in eval mode again.
        """
        self._exchange.settle()
        return super().state_dict()

    # -- phase of the cycle ------------------------------------------------------------------------

    @property
    def inner_step(self) -> int:
        """Inner steps since the last commit; at 0 the weights are the committed ones."""
        return self.param_groups[0]["inner_step"]

    # -- the step ----------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One inner step; with a closure, all inner steps up to the next commit.

        With lr = 0 in every group it creates the state and changes neither weights nor phase.

        Returns:
            The closure's first loss, evaluated at the committed weights.

        Raises:
            RuntimeError: in eval mode, unless every lr is 0.
        """
        if not self._stands_still():
            self.check_train_mode()
        if self.communicate == "commit":
            for group in self.param_groups:
                self._exchange.check_parts(group, self.process_group)
        if closure is None:
            self._inner_step()
            return None
        with torch.enable_grad():
            loss = closure()
        while self._inner_step():
            with torch.enable_grad():
                closure()
        return loss

    def _inner_step(self) -> bool:
        """Takes one inner step; returns whether the cycle needs more gradients."""
        searches = [self._search(group) for group in self.param_groups]
        if self._stands_still():
            self._outer_step.create_state(searches)
            for search in searches:
                if search.group["norm"] == "learnt":
                    create_balls(search)
            return False
        last = self.inner_step + 1 >= self.param_groups[0]["inner_steps"]
        for search in searches:
            search.adopt(self._versions)
            search.start()
        self._move_displacements(searches)
        for search in searches:
            search.return_to_anchor() if last else search.move_to_probe()
        if last:
            self._commit(searches)
        for search in searches:
            search.note_written()
            self._versions.note(search.owners)
            search.leave_others()
            search.group["inner_step"] = 0 if last else search.group["inner_step"] + 1
        return not last

    @staticmethod
    def _move_displacements(searches: list[Search]) -> None:
        """Displacement ← its average with the newest vertex, in every group."""
        for search in searches:
            search.forget_missing()
        learnt = [search for search in searches if search.group["norm"] == "learnt"]
        for search in learnt:
            move_in_learnt_balls(search)
        move_in_fixed_balls([search for search in searches if search not in learnt])

    def _stands_still(self) -> bool:
        return all(float(group["lr"]) == 0 for group in self.param_groups)

    def _search(self, group: dict[str, Any]) -> Search:
        """The tensors of a group that may move; creates missing state."""
        params, states = [], []
        for p in group["params"]:
            # Another process may have a gradient of it, which is known only at the commit.
            shared = self.communicate == "commit" and p.requires_grad
            if p.grad is None and not shared:
                continue
            state = self.state[p]
            create_state(p, state, group)
            if shared:
                self._exchange.create_state(p, state)
            params.append(p)
            states.append(state)
        return self._search_kind(group, params, states, self.state)

    def _commit(self, searches: list[Search]) -> None:
        """The outer step, from the anchor along the displacement."""
        if self.communicate == "commit":
            self._exchange.average(searches, self.process_group)
        for search in searches:
            if search.with_gradient():  # else nothing moves, as in the first commit with overlap
                search.group["commits"] += 1
        plain = self.outer == "plain"
        left = [search for search in searches if not (plain and commit_at_once(search))]
        for search in left:
            search.decay_weights()
        self._outer_step.step(left)
        for search in left:
            search.average_weights()
        for search in searches:
            search.leave_unmoved()

    @property
    def outer_optimizer(self) -> Optimizer:
        """The torch optimizer that takes the outer steps; built at first use."""
        return self._outer_step.optimizer
