"""A task from the user's arrays: split, and prepared with the statistics of the training part.

In classification the loss is the cross-entropy and the metric the accuracy. In regression both are
the mean squared error of the standardised targets, so that predicting their mean scores 1; without
`normalize` it is that of the unchanged targets.
"""

from dataclasses import replace
from typing import Any

from rnnopt.config.data_config import Kind, Missing
from rnnopt.tasks.examples import Examples
from rnnopt.tasks.task import Task
from rnnopt.tasks.user_data.overview import understood
from rnnopt.tasks.user_data.preparation import OwnData, Preparation, kind_of
from rnnopt.tasks.user_data.recordings import Recordings, recordings
from rnnopt.tasks.user_data.series import check_missing, cut_padding
from rnnopt.tasks.user_data.splits import hold_out
from rnnopt.tasks.user_data.step_targets import check_some


def from_arrays(
    inputs: Any,
    targets: Any,
    *,
    lengths: Any = None,
    test: tuple[Any, ...] | None = None,
    validation: float | tuple[Any, ...] = 0.2,
    test_fraction: float | None = None,
    kind: Kind | None = None,
    missing: Missing = "error",
    padded: bool = False,
    normalize: bool = True,
    subsample: int = 1,
    seed: int = 0,
    target: float | None = None,
    name: str = "data",
    each_step: bool | None = None,
    ignore_first: int = 0,
) -> Task:
    """The task of learning `targets` from `inputs`.

    Args:
        inputs: (count, time), (count, time, features), or a list of (time,) or (time, features).
        targets: (count,) classes (words or whole numbers), or numbers (count,) or (count, outputs).
            With `each_step` (count, time), (count, time, outputs), or a list of (time,) or (time,
            outputs); NaN, None and empty words are missing targets, which do not count.
        lengths: (count,) true steps of series padded at the end; None when all are true.
        test: test series (inputs, targets) or (inputs, targets, lengths); None means that
            `test_fraction` is held out.
        validation: fraction of the training series held out for validation, class by class; 0
            means none, the training series are used instead. Or validation series as in `test`.
        test_fraction: fraction held out for testing if `test` is None, by default 0.2; 0 means
            none, the validation series are used instead.
        kind, missing, padded, normalize, subsample, target: as in `DataConfig`.
        seed: seed of the split.
        name: name of the task.
        each_step: whether each step has a target. None means yes for targets that can be nothing
            else: (count, time, outputs), or a list of arrays as long as their series, of different
            lengths.
        ignore_first: first steps of each series whose targets do not count, while a network's state
            forgets where it began.

    Returns:
        The task. `task.data.preparation` has the class names and statistics, prepares new series
        and scales outputs back. Series of different lengths are stored without padding, see
        `rnnopt.tasks.examples.Examples`.

    Raises:
        ValueError: a wrong shape or value, with its position.

    Example:
        >>> task = from_arrays(np.random.rand(40, 25, 3), ["a", "b"] * 20)
        >>> task.train.inputs.shape
        torch.Size([26, 25, 3])
    """
    if test is not None and test_fraction is not None:
        raise ValueError(
            "test has the test series, and test_fraction would hold out some of inputs: pass only"
            " one of them."
        )
    data = recordings(inputs, targets, lengths, each_step=each_step)
    if not data.labelled:
        raise ValueError("training needs targets, got none.")
    each_step = data.steps is not None
    if isinstance(validation, tuple):
        data = replace(data, validation=_given("validation", validation, each_step))
    return build(
        data,
        None if test is None else _given("test", test, each_step),
        validation=0.0 if isinstance(validation, tuple) else validation,
        test_fraction=0.2 if test_fraction is None else test_fraction,
        seed=seed,
        target=target,
        name=name,
        kind=kind,
        missing=missing,
        padded=padded,
        normalize=normalize,
        subsample=subsample,
        ignore_first=ignore_first,
    )


def _given(part: str, arrays: tuple[Any, ...], each_step: bool) -> Recordings:
    """Series that the user passed separately."""
    found = recordings(*arrays, each_step=each_step)
    if not found.labelled:
        raise ValueError(f"{part} needs (inputs, targets) or (inputs, targets, lengths).")
    return found


def build(
    data: Recordings,
    test: Recordings | None,
    *,
    validation: float,
    test_fraction: float,
    seed: int,
    target: float | None,
    name: str,
    sources: dict[str, dict[str, str]] | None = None,
    **how: Any,
) -> Task:
    """Like `from_arrays`, for labelled recordings; `how` goes to `Preparation.learn`."""
    how["kind"] = kind_of(data, how.get("kind"))
    check_steps(data, how)
    # Before the split, so that errors name the position in the file.
    whole = cut_padding(data.series) if how.get("padded") else data.series
    check_missing(whole, data.channels, how.get("missing", "error"), bool(how.get("padded")))
    parts = _divide(data, test, validation, test_fraction, seed, how["kind"])
    train = parts["training"]
    held_out = {"validation": data.validation is None, "test": test is None}
    preparation, examples = _prepare(parts, how)
    steps = preparation.steps
    classes, width = len(preparation.classes), len(data.channels)
    what = f"{classes} classes" if classes else "regression"
    what += " at every step" * preparation.each_step
    return Task(
        name=name,
        summary=f"{len(train)} training series of up to {steps} steps,"
        f" {width} channel{'s' * (width > 1)}, {what}",
        input_size=width,
        output_size=preparation.outputs,
        loss="cross-entropy" if classes else "mse",
        target=(1.0 if classes else 0.0) if target is None else target,
        train=examples[0],
        validation=examples[1],
        test=examples[2],
        epoch_size=len(train),
        batch_size=batch_size(len(train)),
        data=OwnData(
            preparation,
            understood(parts, preparation, how),
            sources or {},
            frozenset(part for part, was in held_out.items() if was),
        ),
    )


def check_steps(data: Recordings, how: dict[str, Any]) -> None:
    """Raises ValueError for settings that do not go with the targets, and series without any."""
    ignored = how.get("ignore_first", 0)
    if data.steps is None:
        if ignored:
            raise ValueError(f"ignore_first={ignored} needs a target at every step (each_step).")
        return
    if how.get("subsample", 1) > 1:
        raise ValueError(
            f"targets at every step need all steps: leave out subsample={how['subsample']}."
        )
    if ignored < 0:
        raise ValueError(f"ignore_first must be at least 0, got {ignored}.")
    check_some(data.steps, ignored)


def _prepare(
    parts: dict[str, Recordings], how: dict[str, Any]
) -> tuple[Preparation, list[Examples]]:
    """The preparation learnt from the training series, and the prepared examples of each part."""
    preparation = Preparation.learn(parts["training"], **how)
    prepared: dict[int, Examples] = {}  # a part used for another one is prepared once
    for which, part in parts.items():
        if id(part) not in prepared:
            prepared[id(part)] = _examples(preparation, which, part)
    examples = [prepared[id(part)] for part in parts.values()]
    # Training and validation series determine the length of sequences; test series do not.
    return replace(preparation, steps=max(part.steps for part in examples[:2])), examples


def _divide(
    data: Recordings,
    test: Recordings | None,
    validation: float,
    test_fraction: float,
    seed: int,
    kind: Kind,
) -> dict[str, Recordings]:
    """The training, validation and test series; parts that were not passed are held out."""
    apart, rest = data.validation, replace(data, validation=None)
    if test is None and test_fraction > 0:
        rest, test = _split(rest, test_fraction, seed, kind)
    train, valid = rest, rest
    if apart is not None:
        valid = apart
    elif validation > 0:
        train, valid = _split(rest, validation, seed, kind)
    return {"training": train, "validation": valid, "test": test or valid}


def _examples(preparation: Preparation, part: str, data: Recordings) -> Examples:
    """The prepared examples of a part."""
    try:
        inputs, lengths = preparation.stored(data)
        return Examples(inputs, preparation.targets(data), lengths)
    except ValueError as error:
        raise ValueError(f"the {part} data: {error}") from error


def batch_size(count: int) -> int:
    """A power of two from 16 to 128, if possible with at least ten batches per epoch."""
    return next((size for size in (128, 64, 32) if 10 * size <= count), 16)


def _split(
    data: Recordings, fraction: float, seed: int, kind: Kind
) -> tuple[Recordings, Recordings]:
    classes = data.targets if kind == "classification" else None
    kept, held = hold_out(classes, len(data), fraction, seed)
    return data.select(kept), data.select(held)
