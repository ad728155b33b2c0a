"""NAQ and its limited-memory form: BFGS with Nesterov's look-ahead, on the whole data.

The step is that of `line_search_quasi_newton` with μ > 0: gradient and curvature are taken at
w + μ v. Ninomiya, "A novel quasi-Newton-based optimization for neural network training
incorporating Nesterov's accelerated gradient", NOLTA 2017; limited memory: Mahboubi and Ninomiya,
2018; both as described in section 2.1 of https://arxiv.org/abs/1909.03620.
"""

from typing import Any, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from rnnopt.distributed import Group
from rnnopt.optimizers.quasi_newton.line_search import LineSearchQuasiNewton
from rnnopt.optimizers.shared_options import StepOptions


class NAQ(LineSearchQuasiNewton):
    """Quasi-Newton with look-ahead and the whole matrix: up to a few thousand weights, full batch.

    Args:
        params: tensors to train, one group, all of one type on one device.
        lr: first length that the line search tries.
        momentum: μ, in [0, 1); 0 is BFGS.
        restart: whether a step that ends above the loss at the present weights is taken back, and
            the velocity lost. Without, the momentum carries the weights out of a minimum they
            found, further at each step. With line_search="fixed" it changes nothing.
        line_search, max_evaluations, curvature_epsilon, maximize, process_group, options: as in
            `BFGS`.

    Raises:
        ValueError: for an option outside its range, a second group, tensors of several types.

    Example:
        >>> optimizer = NAQ(model.parameters(), momentum=0.85)
        >>> loss = optimizer.step(closure)  # closure: zero_grad, loss of all data, backward
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        momentum: float = 0.85,
        *,
        line_search: str = "strong-wolfe",
        max_evaluations: int = 20,
        curvature_epsilon: float = 1e-10,
        restart: bool = True,
        maximize: bool = False,
        process_group: Group = None,
        **options: Unpack[StepOptions],
    ):
        defaults: dict[str, Any] = dict(
            lr=lr, memory=None, momentum=momentum, line_search=line_search, restart=restart, 
            max_evaluations=max_evaluations, curvature_epsilon=curvature_epsilon, maximize=maximize,
        )  # fmt: skip
        super().__init__(params, defaults, process_group, options)


class LNAQ(LineSearchQuasiNewton):
    """NAQ from the last `memory` pairs: for full batches and any number of weights.

    Args:
        params: tensors to train, one group, all of one type on one device.
        lr: first length that the line search tries.
        memory: pairs kept.
        momentum: μ, in [0, 1); 0 is LBFGS.
        restart: as in `NAQ`.
        line_search, max_evaluations, curvature_epsilon, maximize, process_group, options: as in
            `BFGS`.

    Raises:
        ValueError: for an option outside its range, a second group, tensors of several types.

    Example:
        >>> optimizer = LNAQ(model.parameters(), momentum=0.85)
        >>> loss = optimizer.step(closure)  # closure: zero_grad, loss of all data, backward
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        memory: int = 10,
        momentum: float = 0.85,
        *,
        line_search: str = "strong-wolfe",
        max_evaluations: int = 20,
        curvature_epsilon: float = 1e-10,
        restart: bool = True,
        maximize: bool = False,
        process_group: Group = None,
        **options: Unpack[StepOptions],
    ):
        defaults: dict[str, Any] = dict(
            lr=lr, memory=memory, momentum=momentum, line_search=line_search, restart=restart, 
            max_evaluations=max_evaluations, curvature_epsilon=curvature_epsilon, maximize=maximize,
        )  # fmt: skip
        super().__init__(params, defaults, process_group, options)
