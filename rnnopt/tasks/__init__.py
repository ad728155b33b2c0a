"""Tasks by name: data, loss, metric and target; `user_data/` builds a task from the user's data.

Listing names and summaries is cheap: data are loaded when a task is built. Nothing here trains.
"""

from collections.abc import Callable

from rnnopt.config.errors import unknown_name
from rnnopt.config.specs import call_with, parse
from rnnopt.tasks.activity import hapt2 as hapt2
from rnnopt.tasks.activity import hapt6 as hapt6
from rnnopt.tasks.activity import har2 as har2
from rnnopt.tasks.activity import har6 as har6
from rnnopt.tasks.activity import noisy_hapt2 as noisy_hapt2
from rnnopt.tasks.activity import noisy_hapt6 as noisy_hapt6
from rnnopt.tasks.activity import noisy_har2 as noisy_har2
from rnnopt.tasks.activity import noisy_har6 as noisy_har6
from rnnopt.tasks.adding import adding as adding
from rnnopt.tasks.batches import Batches as Batches
from rnnopt.tasks.counting import counting as counting
from rnnopt.tasks.digits import digits_pixels as digits_pixels
from rnnopt.tasks.digits import digits_rows as digits_rows
from rnnopt.tasks.mnist import mnist_permuted as mnist_permuted
from rnnopt.tasks.mnist import mnist_pixels as mnist_pixels
from rnnopt.tasks.mnist import mnist_rows as mnist_rows
from rnnopt.tasks.task import Task as Task
from rnnopt.tasks.text import metamorphosis as metamorphosis
from rnnopt.tasks.text import tinyshakespeare as tinyshakespeare
from rnnopt.tasks.user_data.arrays import from_arrays as from_arrays

TASKS: dict[str, Callable[..., Task]] = {
    "adding": adding,
    "counting": counting,
    "digits-rows": digits_rows,
    "digits-pixels": digits_pixels,
    "mnist-rows": mnist_rows,
    "mnist-pixels": mnist_pixels,
    "mnist-permuted": mnist_permuted,
    "hapt2": hapt2,
    "hapt6": hapt6,
    "har2": har2,
    "har6": har6,
    "noisy-hapt2": noisy_hapt2,
    "noisy-hapt6": noisy_hapt6,
    "noisy-har2": noisy_har2,
    "noisy-har6": noisy_har6,
    "metamorphosis": metamorphosis,
    "tinyshakespeare": tinyshakespeare,
}


def build_task(specification: str) -> Task:
    """Builds the task "name" or "name:option=value,…", such as "adding:length=400"."""
    name, options = parse(specification)
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return call_with("task", name, TASKS[name], options)
