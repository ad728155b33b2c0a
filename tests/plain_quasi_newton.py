"""The quasi-Newton family once more, slowly: one flat float64 vector, memories that are lists.

Two loops, with the sign of the second corrected (Algorithm 1 of https://arxiv.org/abs/1909.03620):

    q = g;  for i = τ … 1:  σ_i = s_i·q / y_i·s_i,  q -= σ_i y_i
    r = H0 q;  for i = 1 … τ:  β = y_i·r / y_i·s_i,  r += (σ_i - β) s_i          H g = r

Its Algorithm 2 (aSNAQ), on minibatch X; adaQN is the same without velocity and with one gradient,
at w, which joins F before the direction is taken:

    g = ∇E_X(w + μ v);  d = -H g / ‖H g‖;  w_s += w;  v_s += v;  v = μ v + α d;  w = w + v
    F gets ∇E_X(w);  every L steps  w_n = w_s/L,  v_n = v_s/L,  and from the second time on
        E_X(w_n) > γ E_X(w_o): forget S, Y, F;  w = w_o;  v = v_o;  μ = max(μ/φ, μ_min)
        else  s = w_n - w_o;  y = (1/|F|) Σ F_i (F_i·s), kept if s·y > ε y·y;  μ = min(μφ, μ_max)
    w_o = w_n;  v_o = v_n

and NAQ, whose H is a matrix: g = ∇E(w + μ v);  v = μ v - α H g;  w = w + v;  s = -α H g.

Nothing of rnnopt is imported. Names of options are those of rnnopt.
"""

import math

import torch

DEFAULTS = dict(
    lr=0.01, memory=10, fisher_memory=100, update_every=5, tolerance=1.01, momentum_factor=1.1,
    momentum_range=(0.1, 0.99), normalize=True, lookahead=True, second_gradient=True,
    error_control=True, curvature="fisher", scaling="history", average_of="before",
    anchor_moves="always", fisher_mean=True, curvature_epsilon=1e-4,
    scaling_epsilon=1e-4, weight_decay=0.0,
)  # fmt: skip


def two_loops(g, S, Y, scale):
    """H g, where `scale` is the diagonal of H0."""
    q = g.clone()
    σ = [0.0] * len(S)
    for i in reversed(range(len(S))):
        σ[i] = float(S[i] @ q) / float(Y[i] @ S[i])
        q = q - σ[i] * Y[i]
    r = scale * q
    for i in range(len(S)):
        β = float(Y[i] @ r) / float(Y[i] @ S[i])
        r = r + (σ[i] - β) * S[i]
    return r


def update_matrix(H, s, y):
    """(I - s yᵀ/yᵀs) H (I - y sᵀ/yᵀs) + s sᵀ/yᵀs, with whole matrices."""
    ρ = 1 / float(y @ s)
    left = torch.eye(len(s), dtype=s.dtype) - ρ * torch.outer(s, y)
    return left @ H @ left.T + ρ * torch.outer(s, s)


def dense_inverse(S, Y, scale):
    """The matrix H that BFGS builds from the pairs, oldest first, on the diagonal `scale`."""
    H = torch.diag(scale)
    for s, y in zip(S, Y, strict=True):
        H = update_matrix(H, s, y)
    return H


def explicit_fisher(F, s, mean=True):
    """(1/|F|) Σ F_i F_iᵀ s, with the matrix written out."""
    matrix = torch.zeros(len(s), len(s), dtype=s.dtype)
    for f in F:
        matrix += torch.outer(f, f)
    return matrix @ s / (len(F) if mean else 1)


class Averaged:
    """What ASNAQ and AdaQN share; v stays zero in AdaQN."""

    def __init__(self, w, **options):
        unknown = options.keys() - DEFAULTS.keys()
        assert not unknown, unknown
        self.option = DEFAULTS | options
        self.w, self.v = w.clone(), torch.zeros_like(w)
        self.w_s, self.v_s = torch.zeros_like(w), torch.zeros_like(w)
        self.w_o, self.v_o = w.clone(), torch.zeros_like(w)
        self.G = torch.zeros_like(w)  # Σ g², of all gradients that ever were in F
        self.any = False  # whether there was one
        self.S, self.Y, self.F = [], [], []
        self.μ = self.option["momentum_range"][0]
        self.count = self.t = self.rejections = self.skipped = 0

    def scale(self):
        ε = self.option["scaling_epsilon"]
        if self.option["scaling"] == "history" and self.any:
            return 1 / (self.G + ε).sqrt()
        if self.option["scaling"] == "window" and self.F:
            return 1 / (sum(f * f for f in self.F) + ε).sqrt()
        return torch.ones_like(self.w)

    def direction(self, g):
        d = -two_loops(g, self.S, self.Y, self.scale())
        length = math.sqrt(float(d @ d))
        if not 0 < length < math.inf:
            if float(g @ g) == 0:
                return torch.zeros_like(g)
            self.S, self.Y = [], []
            return -g / math.sqrt(float(g @ g))
        return d / length if self.option["normalize"] else d

    def push_gradient(self, g):
        self.F = (self.F + [g])[-self.option["fisher_memory"] :]
        if self.option["fisher_memory"] == 0:
            self.F = []
        self.G = self.G + g * g
        self.any = True

    def push_pair(self, s, y):
        sy, yy = float(s @ y), float(y @ y)
        if self.option["memory"] == 0 or not (
            sy > 0 and sy > self.option["curvature_epsilon"] * yy
        ):
            return False
        self.S = (self.S + [s])[-self.option["memory"] :]
        self.Y = (self.Y + [y])[-self.option["memory"] :]
        return True

    def move(self, d):
        """Steps 3 and 4."""
        before = self.option["average_of"] == "before"
        if before:
            self.w_s, self.v_s = self.w_s + self.w, self.v_s + self.v
        self.v = self.next_velocity(d)
        self.w = (1 - self.option["lr"] * self.option["weight_decay"]) * self.w + self.v
        if not before:
            self.w_s, self.v_s = self.w_s + self.w, self.v_s + self.v
        self.count += 1

    def average(self, E):
        """Steps 6 to 12; `E` is the loss to compare with."""
        L = self.option["update_every"]
        if self.count < L:
            return
        w_n, v_n = self.w_s / L, self.v_s / L
        if self.t > 0 and self.option["error_control"]:
            new, old = E(w_n), E(self.w_o)
            if not new <= old + (self.option["tolerance"] - 1) * abs(old):
                self.reject()
                return
        self.clear_sums()
        stored = False
        if self.t > 0:
            φ, μ_max = self.option["momentum_factor"], self.option["momentum_range"][1]
            self.μ = min(self.μ * φ, μ_max)
            if self.option["curvature"] == "fisher" and self.F:
                s = w_n - self.w_o
                y = sum(f * float(f @ s) for f in self.F)
                if self.option["fisher_mean"]:
                    y = y / len(self.F)
                stored = self.push_pair(s, y)
        if self.t == 0 or stored or self.option["anchor_moves"] == "always":
            self.w_o, self.v_o = w_n, v_n
        self.t += 1

    def reject(self):
        self.w, self.v = self.w_o.clone(), self.v_o.clone()
        self.S, self.Y, self.F = [], [], []
        self.μ = max(self.μ / self.option["momentum_factor"], self.option["momentum_range"][0])
        self.clear_sums()
        self.rejections += 1

    def clear_sums(self):
        self.w_s, self.v_s = torch.zeros_like(self.w), torch.zeros_like(self.w)
        self.count = 0


class ASNAQ(Averaged):
    """Algorithm 2."""

    def next_velocity(self, d):
        return self.μ * self.v + self.option["lr"] * d

    def step(self, E, gradient):
        """One minibatch: its loss and its gradient, each a function of the weights."""
        ahead = self.μ if self.option["lookahead"] else 0.0
        g = gradient(self.w + ahead * self.v)
        if not g.isfinite().all():
            self.skipped += 1
            return
        d = self.direction(g)
        self.move(d)
        after = gradient(self.w) if self.option["second_gradient"] else g
        if not after.isfinite().all():
            self.reject()
            return
        self.push_gradient(after)
        if self.option["curvature"] == "difference":
            s = self.option["lr"] * d
            self.push_pair(s, after - g + s)
        self.average(E)

    def streaming_step(self, g):
        """One gradient in both parts, and no loss."""
        d = self.direction(g)
        self.move(d)
        self.push_gradient(g)
        if self.option["curvature"] == "difference":
            s = self.option["lr"] * d
            self.push_pair(s, s)
        control, self.option["error_control"] = self.option["error_control"], False
        self.average(None)
        self.option["error_control"] = control


class AdaQN(Averaged):
    """adaQN: one gradient, no velocity, no normalisation, a monitoring loss."""

    def __init__(self, w, **options):
        super().__init__(w, **dict(normalize=False) | options)

    def next_velocity(self, d):
        return self.option["lr"] * d

    def step(self, monitor, gradient):
        g = gradient(self.w)
        if not g.isfinite().all():
            self.skipped += 1
            return
        self.push_gradient(g)
        self.move(self.direction(g))
        self.average(monitor)


class NAQ:
    """NAQ with the matrix, or with pairs, and steps of length `lr`, or halved until low enough.

    Before its first pair H is the identity, and the first length is lr / max(1, ‖g‖₁); the first
    pair (with `memory`: the last) scales it by s·y / y·y. With `restart` a step that ends above
    E(w) is taken back, and v = 0.
    """

    def __init__(self, w, lr=1.0, momentum=0.0, memory=None, halve=0, epsilon=1e-10, restart=False):
        self.restart, self.restarts = restart, 0
        self.w, self.v = w.clone(), torch.zeros_like(w)
        self.lr, self.μ, self.memory, self.halve, self.ε = lr, momentum, memory, halve, epsilon
        self.S, self.Y = [], []

    def matrix(self):
        if not self.S:
            return torch.eye(len(self.w), dtype=self.w.dtype)
        S, Y = self.S, self.Y
        scaling = 0 if self.memory is None else -1
        scale = float(S[scaling] @ Y[scaling]) / float(Y[scaling] @ Y[scaling])
        return dense_inverse(S, Y, scale * torch.ones_like(self.w))

    def step(self, E, gradient):
        x = self.w + self.μ * self.v
        g = gradient(x)
        d = -self.matrix() @ g
        α = self.lr if self.S else self.lr * min(1.0, 1 / float(g.abs().sum()))
        for _ in range(self.halve):
            if E(x + α * d) <= E(x) + 1e-4 * α * float(g @ d):
                break
            α /= 2
        s, y = α * d, gradient(x + α * d) - g
        if self.restart and E(x + α * d) > E(self.w):
            self.v, self.restarts = torch.zeros_like(self.v), self.restarts + 1
        else:
            self.v = self.μ * self.v + α * d
            self.w = self.w + self.v
        if float(s @ y) > max(0.0, self.ε * float(y @ y)) and self.memory != 0:
            self.S, self.Y = self.S + [s], self.Y + [y]
            if self.memory is not None:
                self.S, self.Y = self.S[-self.memory :], self.Y[-self.memory :]
