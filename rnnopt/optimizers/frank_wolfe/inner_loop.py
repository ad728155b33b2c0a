"""One inner step of Frank-Wolfe on a parameter group: oracle input, vertex, displacement, probe.

optimizer.py has the equations and the paper's letters, lmo.py the vertices. This file applies them
to tensors: foreach operations over all tensors of a group, views of the gates where a tensor stacks
several, and vertex 0 for a tensor without a gradient.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rnnopt.optimizers.frank_wolfe.balls import Balls, together
from rnnopt.optimizers.frank_wolfe.eval_weights import Versions
from rnnopt.optimizers.frank_wolfe.gates import count_gates
from rnnopt.optimizers.frank_wolfe.lmo import (
    Joint,
    Tensors,
    ball_scale,
    global_vertices,
    vertices,
)
from rnnopt.optimizers.frank_wolfe.tensor_state import rest, rests

LARGEST = math.log(16)  # bound of |log ρ|, ρ the factor of a tensor's adapted radius


class Search:
    """One parameter group's part of an inner step.

    Args:
        group: the parameter group.
        params: its tensors with a gradient, here or possibly in another process.
        states: the optimizer's state of each tensor.
        every_state: the optimizer's state, of all tensors.
    """

    def __init__(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        states: list[dict[str, Any]],
        every_state: Mapping[Tensor, dict[str, Any]],
    ):
        self.group, self.params, self.states = group, params, states
        self.every_state = every_state
        self.gradients = [p.grad for p in params]
        if group["maximize"]:
            self.gradients = [None if g is None else -g for g in self.gradients]
        self.owners = params  # the parameters themselves, where `params` are parts of them
        self.displacements: list[Tensor] = []  # in radii
        self.written = False  # whether copies of the tensors as they are have been taken

    def start(self) -> None:
        """Fixes radius and anchor at the first inner step; records which tensors have gradients."""
        group, states = self.group, self.states
        first = group["inner_step"] == 0
        if first:
            group["probe_radius"] = radius_in_force(group)
        if group["inner_steps"] == 1:
            self.displacements = [torch.empty_like(p) for p in self.params]  # set below
        else:
            self.displacements = [state["displacement"] for state in states]
            if first and states:
                torch._foreach_copy_([state["anchor"] for state in states], self.params)
        for gradient, state in zip(self.gradients, states, strict=True):
            state["has_gradient"] = gradient is not None or (state["has_gradient"] and not first)
            state["at_rest"] = False

    def adopt(self, versions: Versions) -> None:
        """Adopts values written into the tensors from outside since the last step.

        Changed entries restart their mean and their cycle. No host synchronisation is needed.
        """
        for owner, p, state in zip(self.owners, self.params, self.states, strict=True):
            if not (rests(state) or versions.changed(owner)):
                continue
            for name in ("average", "anchor"):
                if name in state and "written" in state:
                    kept, value = p == state["written"], state[name]
                    value.copy_(torch.where(kept, value, p.to(value.dtype)))

    def note_written(self) -> None:
        """Keeps a copy of the tensors as this step leaves them."""
        if self.written:
            return
        pairs = zip(self.states, self.params, strict=True)
        noted = [(state["written"], p) for state, p in pairs if "written" in state]
        if noted:
            torch._foreach_copy_([copy for copy, _ in noted], [p for _, p in noted])

    def joint(self, indices: Sequence[int]) -> Joint | None:
        """How to combine numbers of these tensors if processes hold parts of them."""
        return None

    def whole_gradient(self, i: int) -> Tensor:
        """Gradient of a tensor, with L2 regularisation."""
        group, gradient = self.group, self.gradients[i]
        assert gradient is not None
        if group["weight_decay"] and not group["decoupled_weight_decay"]:
            gradient = gradient.add(self.params[i], alpha=group["weight_decay"])
        return gradient

    def cut(self, i: int, whole: Tensor) -> Tensor:
        """This process's part of a tensor like tensor i."""
        return whole

    def has_direction(self) -> bool:
        """Whether some gradient has a non-zero entry."""
        indices, gradients = self._with_gradients()
        return bool(indices) and any(_present(gradients, self.joint(indices)))

    def pseudo_gradients(self, indices: list[int]) -> Sequence[Tensor]:
        """-displacement of these tensors, as gradients of `owners`."""
        return torch._foreach_neg([self.displacements[i] for i in indices])

    def _with_gradients(self) -> tuple[list[int], Tensors]:
        """Indices of the tensors with a gradient, and the gradients."""
        indices = [i for i, g in enumerate(self.gradients) if g is not None]
        return indices, [g for g in self.gradients if g is not None]

    def oracle_input(self) -> tuple[list[int], Tensors]:
        """Indices of the tensors with a gradient, and the oracle's input for each."""
        group = self.group
        indices, gradients = self._with_gradients()
        if not indices:
            return [], []
        if group["weight_decay"] and not group["decoupled_weight_decay"]:
            params = [self.params[i] for i in indices]
            gradients = torch._foreach_add(gradients, params, alpha=group["weight_decay"])
        if group["momentum"]:
            joint = self.joint(indices)
            if group["adapt"] or group["normalize"]:
                # g/‖g‖, 0 for 0
                units = vertices(gradients, 2, [-1.0] * len(gradients), joint=joint)
                if group["adapt"]:
                    self._adapt(indices, units)
                gradients = units if group["normalize"] else gradients
            averages: Tensors = [self.states[i]["momentum_buffer"] for i in indices]
            torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
            # A zero gradient moves nothing, even where its average is not zero.
            present = _present(gradients, joint)
            if group["nesterov"]:
                averages = torch._foreach_lerp(gradients, averages, group["momentum"])
            gradients = torch._foreach_mul(averages, present)
        return indices, gradients

    def _adapt(self, indices: list[int], units: Tensors) -> None:
        """Each tensor's radius grows with the cosine of its gradient to the average so far."""
        averages = [self.states[i]["momentum_buffer"] for i in indices]
        joint = self.joint(indices)
        directions = vertices(averages, 2, [-1.0] * len(averages), joint=joint)
        cosines: Tensors = [
            torch.dot(unit.flatten().float(), direction.flatten().float())
            for unit, direction in zip(units, directions, strict=True)
        ]
        if joint is not None:
            cosines = joint.join(cosines, 1)
        for i, cosine in zip(indices, cosines, strict=True):
            change = (self.group["adapt"] * cosine).nan_to_num(0.0, posinf=0.0, neginf=0.0)
            self.states[i]["log_radius"].add_(change).clamp_(-LARGEST, LARGEST)

    def adapted(self, indices: list[int]) -> Tensors | None:
        """Factor of each tensor's radius, or None for 1."""
        group = self.group
        if not (indices and group["adapt"] and group["momentum"]):
            return None
        return torch._foreach_exp([self.states[i]["log_radius"] for i in indices])

    def forget_missing(self) -> None:
        """A missing gradient counts as the vertex 0."""
        pairs = zip(self.gradients, self.displacements, strict=True)
        missing = [d for gradient, d in pairs if gradient is None]
        self.average_in(missing, [torch.zeros_like(d) for d in missing])

    def leave_others(self) -> None:
        """Leaves the group's other tensors in place and restarts their means there."""
        moved = set(self.owners)
        for p in self.group["params"]:
            if p not in moved and p in self.every_state:
                self._leave_alone(p, self.every_state[p])

    def _leave_alone(self, p: Tensor, state: dict[str, Any]) -> None:
        rest(p, state)
        if "displacement" in state:
            if self.group["inner_step"] == 0:
                state["anchor"].copy_(p)
            self.average_in([state["displacement"]], [torch.zeros_like(p)])

    def leave_unmoved(self) -> None:
        """The same at a commit, for tensors that had no gradient in any process in this cycle."""
        for p, state in zip(self.params, self.states, strict=True):
            if not state["has_gradient"]:
                rest(p, state)

    def average_in(self, targets: Tensors, new: Tensors) -> None:
        """targets ← (1 - w) targets + w new, with w the weight of the newest."""
        if not targets:
            return
        if self.newest_alone():
            torch._foreach_copy_(targets, new)  # lerp_ would keep a NaN of the last cycle
        else:
            torch._foreach_lerp_(targets, new, self._newest_weight())

    def newest_alone(self) -> bool:
        """Whether an average has no weight but the newest one's."""
        return self._newest_weight() == 1

    def _newest_weight(self) -> float:
        """1/k or 2/(k+1)."""
        k = self.group["inner_step"] + 1
        return 1 / k if self.group["inner_weights"] == "uniform" else 2 / (k + 1)

    def move_to_probe(self) -> None:
        """Weights ← anchor + radius * displacement."""
        if not self.params:
            return
        if self.group["inner_iterate"] == "paper":
            torch._foreach_copy_(self.params, [state["anchor"] for state in self.states])
        torch._foreach_add_(self.params, self.displacements, alpha=self.group["probe_radius"])

    def return_to_anchor(self) -> None:
        """Weights ← anchor."""
        if self.group["inner_steps"] > 1 and self.params:
            torch._foreach_copy_(self.params, [state["anchor"] for state in self.states])

    def with_gradient(self) -> list[int]:
        """Indices of the tensors that had a gradient in this cycle."""
        return [i for i, state in enumerate(self.states) if state["has_gradient"]]

    def decay_weights(self) -> None:
        """Decoupled weight decay, by lr * weight_decay, and that of growth."""
        group, params = self.group, [self.params[i] for i in self.with_gradient()]
        self._decay_growth()
        if group["weight_decay"] and group["decoupled_weight_decay"] and params:
            for p in params:  # _foreach_mul_ rounds the factor to bfloat16, and 0.998 to 0.996
                p.mul_(1 - float(group["lr"]) * group["weight_decay"])

    def _decay_growth(self) -> None:
        """Takes back what the noise of steps adds to the norm of a matrix, see `growth_decay`."""
        grown = [i for i in self.with_gradient() if "start_size" in self.states[i]]
        if not grown or self.group["outer"] != "plain":
            return
        weights, steps = (
            self._sizes(grown, [every[i] for i in grown])
            for every in (self.params, self.displacements)
        )
        factor = self.growth_factor()
        for i, weight, step in zip(grown, weights, steps, strict=True):
            excess = 1 - (self.states[i]["start_size"] / weight) ** 2
            # At most half of the excess: more could shrink a matrix below its first norm.
            rate = (factor * (step / weight) ** 2).clamp_(max=0.5) * excess.clamp_(min=0)
            p = self.params[i]
            p.addcmul_(p, rate.nan_to_num_(0.0, 0.0, 0.0).to(p.dtype), value=-1)

    def growth_factor(self) -> float:
        """What (‖step‖/‖weights‖)² is multiplied by in the decay of growth."""
        momentum = self.group["momentum"]
        horizon = (1 + momentum) / (1 - momentum)  # steps that the noise of one step lasts
        return 0.5 * self.group["growth_decay"] * horizon * self.step_length() ** 2

    def _sizes(self, indices: list[int], tensors: Tensors) -> list[Tensor]:
        """Euclidean norms of tensors, in at least float32."""
        sizes: Tensors = torch._foreach_norm([_wide(t) for t in tensors], 2)
        joint = self.joint(indices)
        return list(sizes if joint is None else joint.join(sizes, 2))

    def average_weights(self) -> None:
        """average ← average + min(1, (r+1)/(t+r) * peak/lr) (weights - average) at commit t."""
        group, indices = self.group, self.with_gradient()
        newest = self.newest_of_mean()
        if group["average"] is None or not indices:
            return
        means = [self.states[i]["average"] for i in indices]
        pairs = zip(indices, means, strict=True)
        weights = [self.params[i].to(mean.dtype) for i, mean in pairs]
        if group["commits"] == 1:
            torch._foreach_copy_(means, weights)
        else:
            torch._foreach_lerp_(means, weights, newest)

    def newest_of_mean(self) -> float:
        """Weight of the newest weights in their mean; takes note of the learning rate."""
        group, lr = self.group, float(self.group["lr"])
        group["peak_lr"] = max(group["peak_lr"], lr)
        if group["average"] is None:
            return 1.0
        r, t = group["average"], max(1, group["commits"])
        weight = (r + 1) / (t + r) * group["peak_lr"]
        return weight / lr if weight < lr else 1.0

    def plain_step(self) -> None:
        """Weights += eta * radius * displacement, at most of length lr when eta is None."""
        indices = self.with_gradient()
        if indices:
            torch._foreach_add_(
                [self.params[i] for i in indices],
                [self.displacements[i] for i in indices],
                alpha=self.step_length(),
            )

    def step_length(self) -> float:
        """Factor of the displacements in a plain step."""
        group = self.group
        if group["eta"] is None or group["outer"] != "plain":
            return float(group["lr"])
        return float(group["eta"] * group["probe_radius"])

    def balls(self, indices: list[int], sources: Tensors) -> Balls:
        """The balls of the tensors with a gradient, from the oracle's input."""
        targets = [self.displacements[i] for i in indices]
        gates = self.count_gates(indices)
        if all(count == 1 for count in gates):
            return Balls(list(sources), targets, gates, list(sources))

        def split(tensors: Tensors) -> list[Tensor]:
            parts = [t.chunk(n) if n > 1 else (t,) for t, n in zip(tensors, gates, strict=True)]
            return [gate for part in parts for gate in part]

        sources = split(sources)
        return Balls(sources, split(targets), gates, sources)

    def count_gates(self, indices: list[int]) -> list[int]:
        """How many balls each of these tensors has."""
        group = self.group
        if group["ball"] != "gate" and group["norm"] != "spectral":
            return [1] * len(indices)
        names = tuple(group.get("param_names", ()))
        counts = count_gates(tuple(p.shape for p in group["params"]), group["gates"], names)
        if all(count == 1 for count in counts):
            return [1] * len(indices)
        count_of = dict(zip(group["params"], counts, strict=True))
        return [count_of[self.owners[i]] for i in indices]


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _present(tensors: Tensors, joint: Joint | None = None) -> list[Tensor]:
    """For each tensor 0 if all its entries are zero, else 1 (NaN counts as 1)."""
    sizes: Tensors = torch._foreach_norm(tensors, 1)
    if joint is not None:
        sizes = joint.join(sizes, 1)
    return [(size != 0).to(t) for size, t in zip(sizes, tensors, strict=True)]


def move_in_fixed_balls(searches: list[Search]) -> None:
    """Displacement ← its average with the newest vertex, in groups with a fixed norm."""
    if not searches:
        return
    if searches[0].group["ball"] == "global":
        _move_in_global_ball(searches)
        return
    for search in searches:
        indices, inputs = search.oracle_input()
        balls = search.balls(indices, inputs)
        search.average_in(balls.targets, _vertices_of(search, indices, balls))


def _vertices_of(search: Search, indices: list[int], balls: Balls) -> Tensors:
    """The newest vertex of each ball of a group, in radii."""
    group = search.group
    radii = [ball_scale(whole, group["norm"], group["scale"]) for whole in balls.wholes]
    new = balls.cut(vertices(balls.sources, group["norm"], radii, group["spectral"], balls.joint))
    factors = search.adapted(indices)
    if factors is not None and new:
        each = [f for factor, n in zip(factors, balls.gates, strict=True) for f in [factor] * n]
        torch._foreach_mul_(new, [f.to(v.dtype) for f, v in zip(each, new, strict=True)])
    return new


def _move_in_global_ball(searches: list[Search]) -> None:
    """The same with one ball for all tensors, whose semi-axes are the groups' radii."""
    group = searches[0].group
    each = [search.balls(*search.oracle_input()) for search in searches]
    every = together(each)
    if not every.sources:
        return
    radii = [
        search.group["probe_radius"]
        for search, balls in zip(searches, each, strict=True)
        for _ in balls.sources
    ]
    size = 1.0
    if group["scale"] == "entry":
        size = sum(whole.numel() for whole in every.wholes) ** (1 / float(group["norm"]))
    new = every.cut(
        global_vertices(every.sources, group["norm"], radii, group["spectral"], every.joint)
    )
    # Displacements are stored in radii, so the vertex is too: r_i z_i becomes z_i.
    torch._foreach_mul_(new, [size / r if r > 0 else 0.0 for r in radii])
    searches[0].average_in(every.targets, new)


def radius_in_force(group: dict[str, Any]) -> float:
    """The current radius, fixed or tied to the learning rate; 0 for a group with lr = 0."""
    if group["radius"] is not None and float(group["lr"]) > 0:
        return float(group["radius"])
    return float(group["lr"])
