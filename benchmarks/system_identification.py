"""How well does a network simulate a plant that it knows from measurements, beside jax-sysid?

The plant is a cascade of two tanks, simulated by scipy: a pump fills the upper one, which drains
into the lower one, by h1' = u - √h1 (what overflows at 1.5 is lost) and h2' = √h1 - √h2; u is
constant for some steps at a time. The measured output is h2 with noise of 0.02. Two experiments of
1,000 steps are for training, one of 500 for validation, two of 1,000 for the test. All begin with
empty tanks. A contender gets u alone (a free run); its fit, 100 (1 - ‖y - ŷ‖ / ‖y - ȳ‖) percent, is
that to the output without noise after the first 50 steps.

Tuning: two settings for each contender, on the first seed, by the fit to the validation data as
measured; then all seeds with the better. rnnopt: a GRU of 8 or 16 units, 600 gradient evaluations
of its default optimizer. jax-sysid: its RNN of 2 or 4 states with two hidden layers of 10 tanh
units for the state and one of 10 for the output, 1,000 epochs of Adam, then at most 1,000
iterations of L-BFGS, as in its examples; and its linear model of 2 or 4 states, at most 1,000
iterations. The initial state is zero for all. Seconds are those of the processor, of one run with
compilation.

    pip install jax-sysid jax flax     without them rnnopt stands alone
    python benchmarks/system_identification.py
    python benchmarks/system_identification.py --quick
"""

import argparse
import io
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

from rnnopt.config.run_config import RunConfig
from rnnopt.report.statistics import mean_and_width
from rnnopt.runs.prediction import TrainedModel
from rnnopt.runs.runner import run
from rnnopt.tasks.user_data.recordings import recordings

STEP, NOISE, WASHOUT, SEEDS = 0.5, 0.02, 50, 3
Series = list[np.ndarray]
Data = dict[str, tuple[Series, Series]]  # inputs and outputs, each (time, 1)
Simulate = Callable[[Series], Series]


def experiment(steps: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The input (time, 1) and the output without noise (time, 1) of a run from empty tanks."""
    u = np.repeat(rng.uniform(0.1, 1.6, steps), rng.integers(5, 30, steps))[:steps]

    def change(t: float, h: np.ndarray) -> list[float]:
        upper, lower = np.sqrt(np.maximum(h, 0))
        inflow = u[min(int(t / STEP), steps - 1)]
        rise = inflow - upper
        return [min(rise, 0.0) if h[0] >= 1.5 else rise, upper - lower]

    times = STEP * np.arange(1, steps + 1)
    found = solve_ivp(change, (0, times[-1]), [0.0, 0.0], t_eval=times, max_step=STEP / 2)
    return u[:, None], found.y[1][:, None]


def make_data(quick: bool) -> Data:
    """The experiments of each part; outputs with noise, except for the test."""
    rng = np.random.default_rng(0)
    parts = {"train": (2, 1000), "validation": (1, 500), "test": (2, 1000)}
    data = {}
    for name, (count, steps) in parts.items():
        pairs = [experiment(steps // (5 if quick else 1), rng) for _ in range(count)]
        noise = 0.0 if name == "test" else NOISE
        outputs = [y + noise * rng.normal(size=y.shape) for _, y in pairs]
        data[name] = ([u for u, _ in pairs], outputs)
    return data


def fit(simulate: Simulate, part: tuple[Series, Series]) -> float:
    """Fit in percent to all experiments of a part, after the washout."""
    inputs, outputs = part
    true = np.concatenate([y[WASHOUT:] for y in outputs])
    given = np.concatenate([y[WASHOUT:] for y in simulate(inputs)])
    return float(100 * (1 - np.linalg.norm(true - given) / np.linalg.norm(true - true.mean())))


def with_rnnopt(data: Data, units: int, seed: int, quick: bool) -> Simulate:
    """A GRU trained by `rnnopt`'s run; what simulates with it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tanks.npz")
        arrays: dict[str, Any] = {}
        for part, name in (("train", "train"), ("validation", "val"), ("validation", "test")):
            arrays |= {f"X_{name}": np.stack(data[part][0]), f"y_{name}": np.stack(data[part][1])}
        np.savez(file, **arrays)
        budget = "10gradients" if quick else "600gradients"
        config = RunConfig(
            data=str(file),
            model="gru",
            hidden=units,
            budget=budget,
            seed=seed,
            ignore_first=WASHOUT,
        )
        run(config, Path(folder, "run"))
        trained = TrainedModel.open(Path(folder, "run"))
    return lambda inputs: trained.answer_steps(recordings(inputs))[0]


def in_double() -> None:
    """Doubles in jax, which jax-sysid computes in; before a model is made."""
    import jax

    jax.config.update("jax_enable_x64", True)


def scaled(data: Data) -> tuple[Series, Series, Callable[[Any], Simulate]]:
    """Standardised training series, and what makes a simulation of a model of such series."""
    inputs, outputs = data["train"]
    u, y = np.concatenate(inputs), np.concatenate(outputs)

    def simulation(model: Any) -> Simulate:
        zero = np.zeros(model.nx)
        return lambda given: [
            np.asarray(model.predict(zero, (one - u.mean()) / u.std())[0]).reshape(-1, 1) * y.std()
            + y.mean()
            for one in given
        ]

    standard = [(one - u.mean()) / u.std() for one in inputs]
    return standard, [(one - y.mean()) / y.std() for one in outputs], simulation


def with_jax_rnn(data: Data, states: int, seed: int, quick: bool) -> Simulate:
    """The RNN of jax-sysid."""
    from flax import linen
    from jax_sysid.models import RNN

    in_double()

    class State(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            x = linen.tanh(linen.Dense(features=10)(x))
            x = linen.tanh(linen.Dense(features=10)(x))
            return linen.Dense(features=states)(x)

    class Output(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            return linen.Dense(features=1)(linen.tanh(linen.Dense(features=10)(x)))

    inputs, outputs, simulation = scaled(data)
    model = RNN(states, 1, 1, FX=State, FY=Output, x_scaling=0.1, seed=seed)
    model.loss(rho_x0=1e-4, rho_th=1e-4, train_x0=False)
    epochs = 10 if quick else 1000
    model.optimization(adam_epochs=epochs, lbfgs_epochs=epochs, iprint=-1)
    model.fit(outputs, inputs)
    return simulation(model)


def with_jax_linear(data: Data, states: int, seed: int, quick: bool) -> Simulate:
    """The linear model of jax-sysid."""
    from jax_sysid.models import LinearModel

    in_double()

    inputs, outputs, simulation = scaled(data)
    model = LinearModel(states, 1, 1, feedthrough=True, seed=seed)
    model.loss(rho_x0=1e-4, rho_th=1e-4, train_x0=False)
    model.optimization(adam_epochs=0, lbfgs_epochs=10 if quick else 1000, iprint=-1)
    model.fit(outputs, inputs)
    return simulation(model)


CONTENDERS: dict[str, tuple[Callable[[Data, int, int, bool], Simulate], tuple[int, ...], str]] = {
    "rnnopt, GRU": (with_rnnopt, (8, 16), "units"),
    "jax-sysid, linear": (with_jax_linear, (2, 4), "states"),
    "jax-sysid, RNN": (with_jax_rnn, (2, 4), "states"),
}


def row(name: str, data: Data, seeds: int, quick: bool) -> str:
    """A line of the table: the best setting on validation data, fits to the test data, seconds."""
    learn, sizes, what = CONTENDERS[name]
    tried, fits, seconds = {}, [], []
    for size in sizes[:1] if quick else sizes:
        tried[size] = fit(learn(data, size, 0, quick), data["validation"])
    best = max(tried, key=lambda size: tried[size])
    for seed in range(seeds):
        start = time.process_time()
        simulate = learn(data, best, seed, quick)
        seconds.append(time.process_time() - start)
        fits.append(fit(simulate, data["test"]))
    mean, half = mean_and_width(fits)
    spread = f"{mean:.1f} ± {half:.1f}" if len(fits) > 1 else f"{mean:.1f}"
    middle = np.median(seconds)
    return f"| {name} | {best} {what} | {spread} | {min(fits):.1f} | {middle:.0f} |"


def main() -> None:
    """Reads the arguments, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="little data, one seed, no figures")
    parser.add_argument("--only", help="one contender")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    data = make_data(chosen.quick)
    print("| | setting | fit to the test, % | worst seed | seconds |")
    print("|---|---|---|---|---|", flush=True)
    for name in [chosen.only] if chosen.only else CONTENDERS:
        try:
            with redirect_stdout(io.StringIO()):  # jax-sysid says how it goes on
                line = row(name, data, 1 if chosen.quick else SEEDS, chosen.quick)
            print(line, flush=True)
        except ModuleNotFoundError as error:
            print(f"| {name} | needs {error.name} | – | – | – |", flush=True)


if __name__ == "__main__":
    main()
