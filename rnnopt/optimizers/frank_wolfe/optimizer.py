"""Frank-Wolfe RNN optimizer: search a small ball around the weights, step towards what was found.

At weights ω the local problem is  min F(ω + Δω) over ‖Δω‖_p ≤ δ.  From Δω_0 = 0, for k = 1 … K:

    g_k  = ∇F_k(ω + Δω_{k-1})                  one minibatch gradient
    s_k  = argmin_{‖s‖_p ≤ δ} ⟨s, g_k⟩           the vertex, see linear_minimization.py
    Δω_k = (1 - 1/k) Δω_{k-1} + (1/k) s_k        so Δω_K is the mean of the K vertices

and then ω ← ω + η Δω_K, or a step of another optimizer (Adam in the paper's experiments) whose
gradient is the pseudo-gradient -Δω_K/δ. Between two such commits the weights stand at the probe
point ω + Δω_k, inside the ball; the committed ω is kept in `anchor`.

| paper | here | | paper | here |
|---|---|---|---|---|
| K, k | `inner_steps`, `inner_step` | | s_k | vertex |
| δ | `radius`, or `radius_scale * lr` when None | | Δω_k/δ | `displacement` |
| p | `norm` | | ω, -Δω_K/δ | `anchor`, pseudo-gradient |
| η | `eta`, or lr/δ when None | | | |

Yue, Li, Saligrama and Zhang, "RNN Training along Locally Optimal Trajectories via Frank-Wolfe
Algorithm", ICPR 2020, https://arxiv.org/abs/2010.05397, Algorithm 1. Departures from the paper:

1. The oracle's exponent is corrected (linear_minimization.py, departure 1).
2. One ball a weight matrix, as in the authors' code, instead of one for the vector of all weights:
   `ball`.
3. The spectral norm, `momentum`, and the unit of the radius (`scale`) are ours.
4. Weight decay, which the paper does not mention, is decoupled and part of the outer step.
Every choice the paper leaves open is an option. The defaults are among those that learnt best at
equal gradient evaluations (docs/experiment-log.md), not the paper's; PRESETS holds the paper's and
its authors' code's: `FrankWolfe(params, lr=1e-3, **PRESETS["paper"])`.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from rnnopt.distributed import Group
from rnnopt.distributed import check_group as check_process_group
from rnnopt.optimizers.frank_wolfe.eval_weights import EvalMode, Versions
from rnnopt.optimizers.frank_wolfe.inner_loop import (
    WIDE,
    Search,
    create_state,
    move_displacements,
    radius_in_force,
    rests,
)
from rnnopt.optimizers.frank_wolfe.lmo import Norm
from rnnopt.optimizers.frank_wolfe.local_steps import CommitExchange
from rnnopt.optimizers.frank_wolfe.options import check_group
from rnnopt.optimizers.frank_wolfe.outer_step import Outer, OuterStep, fitted
from rnnopt.optimizers.frank_wolfe.sharded_inner_loop import ShardedSearch
from rnnopt.optimizers.loaded_state import types_kept, unwrap_
from rnnopt.optimizers.sharding import is_sharded
from rnnopt.optimizers.shared_options import StepOptions, check_keywords, settle_group


class FrankWolfe(EvalMode):
    """Steps along the mean of the ball vertices that `inner_steps` minibatches ask for.

    For any network, recurrent ones above all: the length of a step does not depend on the size of
    the gradient, whether it vanished or exploded. Evaluate, save and export the model in eval mode,
    after `optimizer.eval()` or inside `with optimizer.committed():`: the weights there are the mean
    of the latest ones, better than any of them until the learning rate has decayed. Call
    `optimizer.train()` before the next forward pass to train on. Weights that you load are the ones
    evaluated and trained on. A checkpoint of model and optimizer resumes to the bit in either mode.

    Without a closure, `loss.backward(); optimizer.step()` is one inner step and every
    `inner_steps`-th call commits. With a closure, one call goes on to the next commit; the closure
    is called once per inner step and decides whether it draws a new minibatch. Between commits the
    weights are a probe point.

    Good to know: the length of a step does not fall with the gradient, so let lr decay towards the
    end. A tensor without a gradient is left alone, at a commit too, and from then on shows its own
    value. Weights whose lr reaches 0 between commits stay at the probe. Under GradScaler use no
    closure. A tensor that is changed after every step, clamped say, is evaluated without the mean.
    OneCycleLR cycles `momentum`, even from 0, unless told cycle_momentum=False.

    With several processes and their mean gradient (DistributedDataParallel's), all take the steps
    of one process on the whole batch. With communicate="commit" each searches with gradients of its
    own (a model without DDP, or under `no_sync`), and the displacements are averaged at the commit:
    a mean of points of the ball is one of its points, and 1/K as much is sent. Each process then
    keeps momentum and radii of its own, and a checkpoint of its own.

    Options that all groups must share: inner_steps, ball="global" with its norm, outer.

    Args:
        params: tensors to train, (name, tensor) pairs, or torch parameter groups.
        lr: learning rate. With outer="plain" the length of a step in the unit that `scale` names;
            else the rate of the outer optimizer.
        inner_steps: K, minibatch gradients spent on each step.
        radius: radius of the ball in the unit of `scale`; None ties it to `radius_scale * lr`, so
            that a learning-rate schedule shrinks the ball. Read at the first inner step.
        norm: p ≥ 1, math.inf or "spectral" (matrices; vectors and scalars get p = 2).
        ball: "gate", one ball a weight matrix, where the 3 or 4 gates stacked in one tensor of an
            nn.GRU or nn.LSTM count as matrices of their own; "tensor", one ball a tensor as stored
            (the spectral norm goes gate by gate even so); "global", one ball for all tensors.
        outer: "adam", "plain", or a callable (groups, lr=…) → torch optimizer that takes the outer
            steps, such as `functools.partial(torch.optim.SGD, momentum=0.9)`. Its state is saved
            with ours; its options come from the callable.
        weight_decay: λ; each commit shrinks the weights by lr λ of them, or λ times the weights are
            added to each inner gradient, as `decoupled_weight_decay` says; 0 is off.
        momentum: μ of the average m ← μ m + (1-μ) g that the oracle sees in place of g; 0 is off.
        normalize: divide each tensor's gradient by its Euclidean norm before it enters m, so that a
            rare large gradient counts no more than another; without momentum it changes nothing.
        adapt: κ by which each tensor's radius follows its gradients, log ρ ← log ρ + κ cos(g, m),
            m the average before this gradient, ρ in 1/16 … 16: it grows while gradients agree and
            shrinks where steps overshoot. 0 is off; without momentum, and in a global ball, it
            changes nothing.
        vertex_momentum: β of the average D ← β D + (1-β) Δω_K over commits, along which the weights
            move in place of Δω_K; 0 is off. D, divided by 1-β^t after t commits, is a mean of
            vertices and so a point of the ball. Where minibatches agree it is as long as a vertex,
            where they do not it is shorter. A tensor whose gradients begin later than its group's
            begins with shorter steps.
        nesterov: the weights move along β D + (1-β) Δω_K instead of D; without vertex_momentum the
            oracle sees μ m + (1-μ) g instead of m; without either it changes nothing.
        average: r of the mean of the committed weights, x ← x + (r+1)/(t+r) (ω - x), that
            eval mode shows: commit t has a weight near t^r, so 0 is the plain mean and a greater r
            forgets earlier ones. None is off. It needs twice as much memory as the weights, the
            mean and what tells weights that were loaded.
        scale: unit of the radius, and of lr with outer="plain": "norm", the norm itself, as in the
            paper; "entry", the size of a typical entry, n^{1/p} norms, for the spectral norm
            √max(rows, columns), so that one radius means the same for every norm and shape; "muon",
            for the spectral norm alone, √max(1, rows/columns) and 1 for vectors, so that the
            weights of few inputs move further than recurrent ones.
        radius_scale: radius per lr when radius is None.
        eta: step length of outer="plain" in radii; None means lr/radius, a step of length lr.
        inner_weights: "uniform" 1/k, or "increasing" 2/(k+1), which favours later vertices.
        inner_iterate: "paper", probe at anchor + displacement; "cumulative", every displacement is
            added to the last probe, up to K radii from the anchor (the authors' code).
        decoupled_weight_decay: whether weight_decay shrinks the weights at each commit; false adds
            it to each inner gradient instead (L2).
        spectral: "polar-express" (default), "svd" (exact) or "newton-schulz" (Muon's, which may
            leave the ball by 20 %).
        gates: gates stacked in each tensor of a group, or "auto" to recognise the tensors of
            nn.LSTM and nn.GRU, and their cells: by their names where (name, tensor) pairs are
            given, else by the shapes of four tensors in a row, which must then be in one group.
        communicate: "gradient", which leaves it to whoever computes gradients, or "commit".
        compression: what a commit sends: "none", the displacements as they are; "int8", a byte a
            weight, for 128 processes or fewer; "sign", a bit a weight and process and a byte of
            the mean, where an entry of 0 moves, too, to and fro. What rounding loses is sent with
            the next commit. The mean stays in the ball; what it is shortened by is lost. Sent and
            kept in float32, whatever the weights are.
        overlap: a commit sends its displacements and moves by the mean of those sent before, which
            has arrived in the meantime; the first commit moves nothing.
        maximize: go up the gradient instead of down.
        process_group: of communicate="commit"; None is torch.distributed's default group, where one
            is up. A copy of the optimizer has None, until `process_group` is set anew.

    Raises:
        ValueError: for an option outside its range, complex tensors or sparse gradients.

    Example:
        >>> optimizer = FrankWolfe(model.parameters(), lr=1e-3)
        >>> loss = optimizer.step(closure)  # closure: next minibatch, zero_grad, backward
    """

    communicate = "gradient"  # of copies made before there was a choice
    compression, overlap = "none", False
    process_group: Group = None  # of a copy, too: a group cannot be pickled

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        inner_steps: int = 1,
        radius: float | None = None,
        norm: Norm = "spectral",
        ball: str = "gate",
        outer: Outer = "plain",
        weight_decay: float = 0.0,
        *,
        momentum: float = 0.9,
        normalize: bool = True,
        adapt: float = 0.03,
        vertex_momentum: float = 0.0,
        nesterov: bool = True,
        average: float | None = 8.0,
        scale: str = "entry",
        radius_scale: float = 1.0,
        eta: float | None = None,
        inner_weights: str = "uniform",
        inner_iterate: str = "paper",
        decoupled_weight_decay: bool = True,
        spectral: str = "polar-express",
        gates: int | str = "auto",
        communicate: str = "gradient",
        compression: str = "none",
        overlap: bool = False,
        maximize: bool = False,
        process_group: Group = None,
        **options: Unpack[StepOptions],
    ):
        check_process_group(process_group)
        check_keywords("FrankWolfe", options)
        self._exchange = CommitExchange(compression, overlap)  # the one of all groups to come
        self.communicate, self.process_group = communicate, process_group
        self.compression, self.overlap = compression, overlap
        if not (callable(outer) or outer in ("adam", "plain")):
            raise ValueError(f'outer must be "adam", "plain" or a callable, got outer={outer!r}.')
        self.outer = outer
        self._versions = Versions()
        defaults = dict(
            lr=lr, inner_steps=inner_steps, radius=radius, norm=norm, ball=ball,
            weight_decay=weight_decay, momentum=momentum, normalize=normalize,
            adapt=adapt, vertex_momentum=vertex_momentum,
            nesterov=nesterov, average=average, scale=scale, radius_scale=radius_scale, eta=eta,
            inner_weights=inner_weights, inner_iterate=inner_iterate,
            decoupled_weight_decay=decoupled_weight_decay, spectral=spectral, gates=gates,
            maximize=maximize,
            train_mode=True,  # whether the weights are those that are trained
            inner_step=0,  # inner gradients taken since the last commit
            commits=0,  # those that moved the group's weights
            probe_radius=0.0,  # radius in force since the first of them
            outer=outer if isinstance(outer, str) else "callable",
        )  # fmt: skip
        super().__init__(params, defaults)

    # -- the torch contract ------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; it joins the cycle under way, its missing gradients counting as zero."""
        first = self.param_groups[0] if self.param_groups else self.defaults
        joins_at = first["inner_step"]
        self._exchange.settle()
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            settle_group("FrankWolfe", group, self.defaults)
            check_group(group, self.param_groups[0])
            self._exchange.check(group, self.communicate, self.process_group)
        except ValueError:
            self.param_groups.pop()
            raise
        # Those of a group that another optimizer had would belong to a state that is not here.
        group |= dict(inner_step=joins_at, train_mode=first["train_mode"], commits=0)
        group["probe_radius"] = radius_in_force(group) if joins_at else 0.0
        self._adopt_params()

    def __getstate__(self) -> dict[str, Any]:
        self._exchange.settle()
        names = ("outer", "communicate", "compression", "overlap")
        return super().__getstate__() | {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        unwrap_(state)
        super().__setstate__(state)
        self.__dict__.setdefault("process_group", None)  # which a copy has to be given anew
        self._exchange = CommitExchange(self.compression, self.overlap)
        self._adopt_params()
        self._versions = Versions()
        for p, entries in self.state.items():
            if not isinstance(p, Tensor):
                continue
            entries["outer"] = fitted(p, entries.get("outer", {}))
            means = {
                name: entries[name] for name in ("average", "vertex_buffer") if name in entries
            }
            entries.update(fitted(p, means))
        for group in self.param_groups:
            for name, default in self.defaults.items():
                if name != "differentiable":  # torch's own, which is in no group of ours
                    group.setdefault(name, default)

    def _adopt_params(self) -> None:
        """What depends on which tensors there are."""
        self._outer_step = OuterStep(self.outer, self.param_groups)
        every = [p for group in self.param_groups for p in group["params"]]
        self._search_kind = ShardedSearch if any(map(is_sharded, every)) else Search

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a copy of `state_dict`; later steps never write into the caller's tensors.

        Raises:
            ValueError: if it was taken with another kind of outer optimizer.
        """
        ours = self.param_groups[0]["outer"]
        for group in state_dict["param_groups"]:
            if group.get("outer", ours) != ours:
                theirs = group["outer"]
                raise ValueError(f"the state was saved with outer={theirs!r}, got outer={ours!r}.")
        self._exchange.settle()
        state_dict = deepcopy(state_dict)  # hooks may write into it
        with types_kept(self, WIDE):
            super().load_state_dict(state_dict)

    def state_dict(self) -> dict[str, Any]:
        """The whole state, legal at every inner step and in either mode.

        Save the model's weights at the same moment. A checkpoint of eval mode holds the weights to
        evaluate in the model and those that are trained here; loaded, it is in eval mode.
        """
        self._exchange.settle()
        return super().state_dict()

    # -- where the weights stand -------------------------------------------------------------------

    @property
    def inner_step(self) -> int:
        """Inner gradients taken since the last commit; 0 means the weights are committed ones."""
        return self.param_groups[0]["inner_step"]

    # -- the step ----------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One inner step on the gradients in place, or with a closure all up to the next commit.

        A step with lr = 0 in every group creates the state and moves nothing, not even the phase.

        Returns:
            The closure's first loss, which is that of the committed weights.

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
        """Uses the gradients in place; returns whether the cycle needs more of them."""
        searches = [self._search(group) for group in self.param_groups]
        if self._stands_still():
            self._outer_step.create_state(searches)
            return False
        last = self.inner_step + 1 >= self.param_groups[0]["inner_steps"]
        for search in searches:
            pairs = enumerate(zip(search.owners, search.states, strict=True))
            changed = [i for i, (p, own) in pairs if rests(own) or self._versions.changed(p)]
            search.adopt(changed)
            search.start()
        move_displacements(searches)
        for search in searches:
            search.return_to_anchor() if last else search.move_to_probe()
        if last:
            self._commit(searches)
        for search in searches:
            search.note_written()
            self._versions.note(search.owners)
            moved = set(search.owners)
            for p in search.group["params"]:
                if p not in moved and p in self.state:
                    search.leave_alone(p, self.state[p])
            search.group["inner_step"] = 0 if last else search.group["inner_step"] + 1
        return not last

    def _stands_still(self) -> bool:
        return all(float(group["lr"]) == 0 for group in self.param_groups)

    def _search(self, group: dict[str, Any]) -> Search:
        """The tensors of a group to move; creates the state of new ones."""
        params, states = [], []
        for p in group["params"]:
            # Whether another process has a gradient of it shows at the commit.
            shared = self.communicate == "commit" and p.requires_grad
            if p.grad is None and not shared:
                continue
            state = self.state[p]
            create_state(p, state, group)
            if shared:
                self._exchange.create_state(p, state)
            params.append(p)
            states.append(state)
        return self._search_kind(group, params, states)

    def _commit(self, searches: list[Search]) -> None:
        """The outer step, from the anchor along the displacement."""
        if self.communicate == "commit":
            self._exchange.average(searches, self.process_group)
        for search in searches:
            if search.with_gradient():  # else nothing moves: so the first commit with overlap
                search.group["commits"] += 1
            search.find_direction()
            search.decay_weights()
            if self.outer == "plain":
                search.plain_step()
        if self.outer != "plain":
            self._outer_step.step(searches)
        for search in searches:
            search.average_weights()
            search.leave_unmoved()

    @property
    def outer_optimizer(self) -> Optimizer:
        """The torch optimizer that takes the outer steps; built at first use."""
        return self._outer_step.optimizer
