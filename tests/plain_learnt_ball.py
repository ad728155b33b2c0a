"""The learnt ball once more, slowly: the equations of learnt_ball.py, one gate at a time.

Letters are those of that docstring. Nothing is changed in place, and nothing of rnnopt is imported.
"""

import math

import torch

β, β_SIZE = 0.95, 0.9


class PlainBall:
    """A block of (n, k) matrices, one per gate, in double precision.

    Args:
        gates, n, k: shape of the gradients.
        bases: whether the box may turn.
    """

    def __init__(self, gates, n, k, bases=True):
        self.t, self.gates, self.n, self.k = 0, gates, n, k
        self.left_turns, self.right_turns = bases and n > 1, bases and k > 1
        zeros = [torch.zeros(n, k, dtype=torch.float64) for _ in range(gates)]
        self.M, self.V = list(zeros), list(zeros)
        self.weight = 0.0  # of all gradients in M
        self.mean_size2 = [0.0] * gates
        self.log_ρ = [0.0] * gates
        self.L = [torch.zeros(n, n, dtype=torch.float64) for _ in range(gates)]
        self.R = torch.zeros(k, k, dtype=torch.float64)
        self.Q_L = [torch.eye(n, dtype=torch.float64) for _ in range(gates)]
        self.Q_R = torch.eye(k, dtype=torch.float64)

    def vertex(self, gradient, momentum=0.9, nesterov=True, adapt=0.03):
        """S of the oracle for a (gates, n, k) gradient."""
        self.t += 1
        G = [self.in_units(h, g) for h, g in enumerate(gradient)]
        self.learn_bases(G)
        X = [self.Q_L[h].T @ G[h] @ self.Q_R for h in range(self.gates)]
        before, self.weight = self.weight, momentum * self.weight + 1 - momentum
        S = []
        for h in range(self.gates):
            self.log_ρ[h] += adapt * min(1, 100 / self.t) * cosine(X[h], self.M[h]) ** 3
            self.log_ρ[h] = min(max(self.log_ρ[h], -2.8), 2.8)
            self.M[h] = momentum * self.M[h] + (1 - momentum) * X[h]
            N = self.M[h] / (momentum * before + 1 - momentum)
            if nesterov:
                N = momentum * self.M[h] + (1 - momentum) * X[h]
                N = N / (momentum * self.weight + 1 - momentum)
            self.V[h] = β * self.V[h] + (1 - β) * X[h] ** 2
            V = self.V[h] / (1 - β**self.t)
            root = V.sqrt() + 1e-3 * math.sqrt(V.mean())
            c = torch.where(N == 0, 0.0, N.abs() / root).clamp(max=3.0)
            s = -math.exp(self.log_ρ[h]) * self.Q_L[h] @ (N.sign() * c) @ self.Q_R.T
            moves = gradient[h].any(1, keepdim=True) & gradient[h].isfinite().all()
            S.append(torch.where(moves, s, 0.0))
        return torch.stack(S)

    def in_units(self, h, g):
        """The gradient in units of its running size, so that its entries are near 1."""
        size = math.sqrt(float((g**2).sum())) if g.isfinite().all() else 0.0
        usual = 0.0
        if self.t > 1:
            usual = math.sqrt(self.mean_size2[h] / (1 - β_SIZE ** (self.t - 1)))
        kept = min(size, 3 * usual) if usual > 0 else size
        self.mean_size2[h] = β_SIZE * self.mean_size2[h] + (1 - β_SIZE) * kept**2
        if size == 0:
            return torch.zeros_like(g)
        unit = math.sqrt(self.mean_size2[h] / (1 - β_SIZE**self.t))
        return g / size * (kept / unit) * math.sqrt(self.n * self.k)

    def learn_bases(self, G):
        """L at odd t and R at even t; at t = 1 both, whose eigenvectors the first bases are."""
        t, keep = self.t, β if self.t == 1 else β**2
        turns = t > 1 and (t <= 200 or (t // 2) % 4 == 0)
        if self.left_turns and t % 2 == 1:
            for h in range(self.gates):
                self.L[h] = keep * self.L[h] + (1 - keep) * G[h] @ G[h].T / self.k
                if t == 1:
                    self.Q_L[h] = eigenvectors(self.L[h])
                if turns:
                    old = self.Q_L[h]
                    self.Q_L[h] = iterated(self.L[h], old)
                    P = self.Q_L[h].T @ old
                    self.M[h], self.V[h] = P @ self.M[h], P**2 @ self.V[h]
        if self.right_turns and (t % 2 == 0 or t == 1):
            mean = sum(g.T @ g for g in G) / (self.n * self.gates)
            self.R = keep * self.R + (1 - keep) * mean
            if t == 1:
                self.Q_R = eigenvectors(self.R)
            if turns:
                old, self.Q_R = self.Q_R, iterated(self.R, self.Q_R)
                P = self.Q_R.T @ old
                for h in range(self.gates):
                    self.M[h], self.V[h] = self.M[h] @ P.T, self.V[h] @ (P**2).T


def mean_eigenvalue(A):
    return float(A.trace()) / len(A)


def eigenvectors(A):
    """Of the largest eigenvalue first; those of 0 are chosen by a slight diagonal."""
    slope = torch.diag(torch.linspace(0, 1, len(A)).double())
    _, Q = torch.linalg.eigh(A + 1e-5 * mean_eigenvalue(A) * slope)
    return torch.stack([Q[:, i] for i in reversed(range(len(A)))], 1)


def iterated(A, Q):
    """A step of orthogonal iteration of the shifted matrix."""
    return torch.linalg.qr((A + 1e-5 * mean_eigenvalue(A) * torch.eye(len(A)).double()) @ Q).Q


def cosine(a, b):
    """Of the angle between two matrices; 0 where one of them is zero."""
    sizes = math.sqrt(float((a**2).sum())) * math.sqrt(float((b**2).sum()))
    return float((a * b).sum()) / sizes if sizes > 0 else 0.0
