"""The Frank-Wolfe optimizer once more, slowly: one tensor and one inner step at a time.

The letters are those of Algorithm 1 of Yue, Li, Saligrama and Zhang,
https://arxiv.org/abs/2010.05397, with the exponent of their Eq. 5 corrected:

    s_k  = argmin_{‖s‖_p ≤ δ} ⟨s, g_k⟩
    Δω_k = (1 - w_k) Δω_{k-1} + w_k s_k          w_k = 1/k, or 2/(k+1)
    ω   <- ω + η Δω_K                            or an outer optimizer's step on -Δω_K/δ

and with what is not in the paper: x <- ((t-1) x + (r+1) ω)/(t+r) is the mean of the committed
weights after commit t. With momentum, g_k/‖g_k‖ can stand in for g_k in the average m, and the
vertices of each tensor be multiplied by its ρ:

    log ρ <- log ρ + κ cos(g_k, m)      within ±log 16, m before g_k has entered it

Nothing of rnnopt is imported. Unlike rnnopt's, this Δω carries its δ, gates are counted by the
caller, the spectral vertex is a singular value decomposition, and no state is ever shared.
"""

import math

import torch

DEFAULTS = dict(
    lr=1e-3, radius=None, norm=2, ball="gate", weight_decay=0.0, momentum=0.0,
    normalize=False, adapt=0.0, nesterov=False, average=None, scale="entry",
    eta=None, inner_weights="uniform", inner_iterate="paper",
    decoupled_weight_decay=True,
)  # fmt: skip


def best_vector(g, p, δ):
    """argmin_{‖s‖_p ≤ δ} ⟨s, g⟩ for a vector g, entry by entry."""
    largest = max((abs(float(entry)) for entry in g), default=0.0)
    s = torch.zeros_like(g)
    if largest == 0:
        return s
    if p == 1:
        j = [abs(float(entry)) for entry in g].index(largest)
        s[j] = -δ * math.copysign(1.0, g[j])
        return s
    if p == math.inf:
        for i, entry in enumerate(g):
            s[i] = -δ * float(entry > 0) + δ * float(entry < 0)
        return s
    q = p / (p - 1)
    r = [abs(float(entry)) / largest for entry in g]
    dual = sum(entry**q for entry in r) ** (1 / q)
    for i, entry in enumerate(g):
        s[i] = -δ * math.copysign(1.0, entry) * (r[i] / dual) ** (q / p)
    return s


def best_matrix(g, δ):
    """-δ U Vᵀ over the non-zero singular values of a matrix g = U Σ Vᵀ, pair by pair."""
    s = torch.zeros_like(g)
    u, σ, vh = torch.linalg.svd(g, full_matrices=False)
    for i in range(len(σ)):
        if σ[i] > 1e-12 * σ[0]:
            s -= δ * torch.outer(u[:, i], vh[i])
    return s


def unit_size(g, p, scale):
    """How many norms one unit of radius is."""
    if scale == "norm":
        return 1.0
    if p == "spectral" and g.ndim >= 2:
        return math.sqrt(max(g.shape[0], g.numel() // g.shape[0]))
    p = 2 if p == "spectral" else p
    return g.numel() ** (1 / p)


def vertex(g, p, δ):
    """The vertex for one ball around g; spectral balls see matrices, p = 2 the rest."""
    if p == "spectral" and g.ndim >= 2:
        return best_matrix(g.reshape(g.shape[0], -1), δ).reshape(g.shape)
    return best_vector(g.reshape(-1), 2 if p == "spectral" else p, δ).reshape(g.shape)


def cosine(a, b):
    """Of the angle between two tensors as vectors; 0 where one of them is zero."""
    pairs = list(zip(a.reshape(-1).tolist(), b.reshape(-1).tolist(), strict=True))
    size = math.sqrt(sum(x * x for x, _ in pairs)) * math.sqrt(sum(y * y for _, y in pairs))
    return sum(x * y for x, y in pairs) / size if size > 0 else 0.0


class PlainFrankWolfe:
    """FrankWolfe in streaming mode.

    Args:
        weights: tensors, copied; the current ones stand in `weights`.
        inner_steps: K.
        outer: "plain", or a callable (groups, lr=…) → torch optimizer.
        options: one dict a tensor, names as in FrankWolfe.
        gates: how many gates each tensor stacks.
    """

    def __init__(self, weights, inner_steps, outer, options, gates):
        self.weights = [w.detach().clone() for w in weights]
        self.K, self.k, self.t = inner_steps, 0, 0
        self.options = [DEFAULTS | option for option in options]
        self.gates = gates
        self.ω = [w.clone() for w in self.weights]
        self.Δω = [torch.zeros_like(w) for w in self.weights]
        self.m = [torch.zeros_like(w) for w in self.weights]
        self.log_ρ = [0.0] * len(self.weights)
        self.x = [w.clone() for w in self.weights]
        self.asked = [False] * len(self.weights)
        self.δ = [0.0] * len(self.weights)
        self.outer = None
        if outer != "plain":
            self.inside = [torch.nn.Parameter(w.clone()) for w in self.weights]
            pairs = zip(self.inside, self.options, strict=True)
            groups = [dict(params=[w], lr=o["lr"]) for w, o in pairs]
            self.outer = outer(groups, lr=self.options[0]["lr"])

    def step(self, gradients):
        """One inner step with these gradients, None where there is none."""
        n = len(self.weights)
        if self.k == 0:
            for i in range(n):
                o = self.options[i]
                self.ω[i] = self.weights[i].clone()
                self.Δω[i] = torch.zeros_like(self.ω[i])
                self.δ[i] = o["radius"] if o["radius"] is not None else o["lr"]
        self.k += 1
        seen = [None if g is None else self.seen_by_oracle(i, g) for i, g in enumerate(gradients)]
        if self.options[0]["ball"] == "global":
            s = self.vertices_of_one_ball(seen)
        else:
            s = [None if g is None else self.vertices_by_gate(i, g) for i, g in enumerate(seen)]
        for i in range(n):
            w_k = 1 / self.k
            if self.options[i]["inner_weights"] == "increasing":
                w_k = 2 / (self.k + 1)
            self.Δω[i] = (1 - w_k) * self.Δω[i]
            self.asked[i] = s[i] is not None
            if not self.asked[i]:  # it stays where it is, and its mean begins anew there
                self.x[i] = self.weights[i].clone()
                continue
            self.Δω[i] += w_k * s[i]
            if self.options[i]["inner_iterate"] == "cumulative":
                self.weights[i] = self.weights[i] + self.Δω[i]
            else:
                self.weights[i] = self.ω[i] + self.Δω[i]
        if self.k == self.K:
            self.commit()
            self.k = 0

    def seen_by_oracle(self, i, g):
        o = self.options[i]
        if not o["decoupled_weight_decay"]:
            g = g + o["weight_decay"] * self.weights[i]
        if o["momentum"] == 0:
            return g
        μ = o["momentum"]
        self.log_ρ[i] += o["adapt"] * cosine(g, self.m[i])
        self.log_ρ[i] = min(max(self.log_ρ[i], -math.log(16)), math.log(16))
        if o["normalize"] and g.any():
            g = g / math.sqrt(sum(float(entry) ** 2 for entry in g.reshape(-1)))
        self.m[i] = μ * self.m[i] + (1 - μ) * g
        if o["nesterov"]:
            return μ * self.m[i] + (1 - μ) * g
        return self.m[i]

    def vertices_by_gate(self, i, g):
        p, scale = self.options[i]["norm"], self.options[i]["scale"]
        split = self.options[i]["ball"] == "gate" or p == "spectral"
        count = self.gates[i] if split else 1
        δ = self.δ[i] * (1.0 if self.options[i]["ball"] == "global" else math.exp(self.log_ρ[i]))
        if count == 1:
            return vertex(g, p, δ * unit_size(g, p, scale))
        rows = g.shape[0] // count
        parts = [g[j * rows : (j + 1) * rows] for j in range(count)]
        return torch.cat([vertex(a, p, δ * unit_size(a, p, scale)) for a in parts])

    def vertices_of_one_ball(self, seen):
        """Σ_i ‖s_i/δ_i‖_p^p ≤ 1 has the vertex s_i = δ_i z_i, z the unit vertex at (δ_i g_i)."""
        p, scale = self.options[0]["norm"], self.options[0]["scale"]
        present = [i for i, g in enumerate(seen) if g is not None]
        if not present:
            return seen
        if p == "spectral":
            return [None if g is None else self.vertices_by_gate(i, g) for i, g in enumerate(seen)]
        long = torch.cat([self.δ[i] * seen[i].reshape(-1) for i in present])
        z = best_vector(long, p, unit_size(long, p, scale))
        s, start = list(seen), 0
        for i in present:
            stop = start + seen[i].numel()
            s[i] = self.δ[i] * z[start:stop].reshape(seen[i].shape)
            start = stop
        return s

    def commit(self):
        self.t += 1
        directions = [Δω / δ for Δω, δ in zip(self.Δω, self.δ, strict=True)]  # in radii
        for i, o in enumerate(self.options):
            if not self.asked[i]:
                continue
            self.weights[i] = self.ω[i].clone()
            if o["decoupled_weight_decay"]:
                self.weights[i] *= 1 - o["lr"] * o["weight_decay"]
            if self.outer is None:
                η = o["lr"] / self.δ[i] if o["eta"] is None else o["eta"]
                self.weights[i] += η * self.δ[i] * directions[i]
        if self.outer is not None:
            self.step_outside(directions)
        for i, o in enumerate(self.options):
            if self.asked[i] and o["average"] is not None:
                t, r = self.t, o["average"]
                self.x[i] = ((t - 1) * self.x[i] + (r + 1) * self.weights[i]) / (t + r)

    def step_outside(self, directions):
        for i, inside in enumerate(self.inside):
            inside.data.copy_(self.weights[i])
            inside.grad = -directions[i] if self.asked[i] else None
            self.outer.param_groups[i]["lr"] = self.options[i]["lr"]
        self.outer.step()
        self.weights = [inside.detach().clone() for inside in self.inside]

    def shown(self):
        """The weights to evaluate."""
        shown = []
        for i, option in enumerate(self.options):
            committed = self.ω[i] if self.k and self.asked[i] else self.weights[i]
            shown.append(self.x[i] if option["average"] is not None else committed)
        return shown
