"""BFGS and its limited-memory form: quasi-Newton on the whole data, with a line search.

The step is that of `line_search_quasi_newton` with μ = 0. Broyden, Fletcher, Goldfarb and Shanno,
1970; limited memory: Liu and Nocedal, Mathematical Programming 45, 1989.
"""

from typing import Any, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from rnnopt.distributed import Group
from rnnopt.optimizers.quasi_newton.line_search import LineSearchQuasiNewton
from rnnopt.optimizers.shared_options import StepOptions


class BFGS(LineSearchQuasiNewton):
    """Quasi-Newton with the whole matrix: for up to a few thousand weights, and full batches.

    Args:
        params: tensors to train, one group, all of one type on one device.
        lr: first length that the line search tries.
        line_search: "strong-wolfe" (torch's), "armijo" (halving until the loss falls enough),
            "fixed" (lr, but for the first step).
        max_evaluations: most losses with gradients a line search may ask for.
        curvature_epsilon: ε of the test s·y > ε y·y that a pair must pass to enter H.
        maximize: climb the loss that the closure returns.
        process_group: the processes whose mean loss decides; None is torch.distributed's default
            group, where one is up. A copy of the optimizer has None.
        options: foreach, capturable, differentiable and fused, as long as they ask for nothing.

    Raises:
        ValueError: for an option outside its range, a second group, tensors of several types.

    Example:
        >>> optimizer = BFGS(model.parameters())
        >>> loss = optimizer.step(closure)  # closure: zero_grad, loss of all data, backward
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        *,
        line_search: str = "strong-wolfe",
        max_evaluations: int = 20,
        curvature_epsilon: float = 1e-10,
        maximize: bool = False,
        process_group: Group = None,
        **options: Unpack[StepOptions],
    ):
        defaults: dict[str, Any] = dict(
            lr=lr, memory=None, line_search=line_search, 
            max_evaluations=max_evaluations, curvature_epsilon=curvature_epsilon, maximize=maximize,
        )  # fmt: skip
        super().__init__(params, defaults, process_group, options)


class LBFGS(LineSearchQuasiNewton):
    """BFGS from the last `memory` pairs: for full batches and any number of weights.

    One step is one direction and one line search, where torch.optim.LBFGS takes up to 20.

    Args:
        params: tensors to train, one group, all of one type on one device.
        lr: first length that the line search tries.
        memory: pairs kept.
        line_search, max_evaluations, curvature_epsilon, maximize, process_group, options: as in
            `BFGS`.

    Raises:
        ValueError: for an option outside its range, a second group, tensors of several types.

    Example:
        >>> optimizer = LBFGS(model.parameters())
        >>> loss = optimizer.step(closure)  # closure: zero_grad, loss of all data, backward
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        memory: int = 10,
        *,
        line_search: str = "strong-wolfe",
        max_evaluations: int = 20,
        curvature_epsilon: float = 1e-10,
        maximize: bool = False,
        process_group: Group = None,
        **options: Unpack[StepOptions],
    ):
        defaults: dict[str, Any] = dict(
            lr=lr, memory=memory, line_search=line_search, 
            max_evaluations=max_evaluations, curvature_epsilon=curvature_epsilon, maximize=maximize,
        )  # fmt: skip
        super().__init__(params, defaults, process_group, options)
