"""One fit of another library's classifier; `classifiers.py`, beside this folder, calls it.

    python fit.py PEER SERIES.npz SEED SECONDS

It runs in the interpreter that has the library, without rnnopt, and prints a line of JSON: test
accuracy, processor seconds, epochs, the time and the versions. The .npz file has X_train, X_test
(count, channel, time) and y_train, y_test (whole numbers from 0). The clock runs while the fit
takes minibatches: neither imports, nor compilation, nor predictions count.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module, metadata
from typing import Any

os.environ |= dict(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1", TF_CPP_MIN_LOG_LEVEL="3")

import numpy as np

Found = tuple[Any, float, float]  # predicted classes, processor seconds, epochs
FOREVER = 100_000  # epochs


class Clock:
    """Processor seconds since the first question, and whether they are over."""

    def __init__(self, seconds: float):
        self.seconds, self.begun, self.batches = seconds, 0.0, 0
        self.spent = 0.0

    def over(self) -> bool:
        """Whether the time is over; asked before each minibatch."""
        now = time.process_time()
        self.begun = self.begun or now
        self.spent = now - self.begun
        return self.spent >= self.seconds

    def until(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Minibatches, as long as there is time."""
        for batch in batches:
            if self.over():
                return
            self.batches += 1
            yield batch


def torch_alone() -> Any:
    """Torch with one thread."""
    torch = import_module("torch")
    torch.set_num_threads(1)
    return torch


def sktime_torch(module: str, name: str, **options: Any) -> Callable[..., Found]:
    """A classifier of sktime in torch, which ends within an epoch when the time is over."""

    def fit(X: Any, y: Any, Xt: Any, seed: int, seconds: float) -> Found:
        torch_alone()
        base: Any = getattr(import_module(f"sktime.classification.deep_learning.{module}"), name)
        clock = Clock(seconds)

        def run_epoch(self: Any, epoch: int, dataloader: Any) -> None:
            if not clock.over():
                self.batches_of_an_epoch = len(dataloader)
                base._run_epoch(self, epoch, clock.until(dataloader))

        kind = type(name, (base,), {"_run_epoch": run_epoch})
        model = kind(num_epochs=FOREVER, random_state=seed, **options)
        model.fit(X, y)
        return model.predict(Xt), clock.spent, clock.batches / model.batches_of_an_epoch

    return fit


def sktime_keras(X: Any, y: Any, Xt: Any, seed: int, seconds: float) -> Found:
    """LSTM-FCN of sktime in Keras; its first minibatch, which compiles, is not counted."""
    tensorflow: Any = import_module("tensorflow")
    tensorflow.config.threading.set_intra_op_parallelism_threads(1)
    tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    lstmfcn: Any = import_module("sktime.classification.deep_learning.lstmfcn")
    clock = Clock(seconds)

    class Stop(tensorflow.keras.callbacks.Callback):
        def __deepcopy__(self, memory: Any) -> "Stop":
            return self

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            clock.batches += 1
            self.model.stop_training = clock.over()

    model = lstmfcn.LSTMFCNClassifier(n_epochs=FOREVER, callbacks=[Stop()], random_state=seed)
    model.fit(X, y)
    return model.predict(Xt), clock.spent, clock.batches / -(-len(X) // 128)


def tsai(name: str, **options: Any) -> Callable[..., Found]:
    """A classifier of tsai: one cycle of as many epochs as fit, by the time of a second epoch."""

    def fit(X: Any, y: Any, Xt: Any, seed: int, seconds: float) -> Found:
        torch_alone()
        library: Any = import_module("tsai.basics")

        def learner() -> Any:
            given = dict(arch=name, arch_config=options, seed=seed, batch_tfms=None)
            return library.TSClassifier(X, y, tfms=[None, library.TSClassification()], **given)

        trial, ends = learner(), []
        for _ in range(2):
            with trial.no_bar(), trial.no_logging():
                trial.fit(1)
            ends.append(time.process_time())
        epochs = max(1, int(seconds / (ends[-1] - ends[-2])))
        model, begun = learner(), time.process_time()
        with model.no_bar(), model.no_logging():
            model.fit_one_cycle(epochs)
        spent = time.process_time() - begun
        _, _, classes = model.get_X_preds(Xt)
        return np.asarray([int(c) for c in classes]), spent, epochs

    return fit


def minirocket(X: Any, y: Any, Xt: Any, seed: int, seconds: float) -> Found:
    """aeon's MiniRocket, compiled on a few series first; it takes what time it takes."""
    convolution_based: Any = import_module("aeon.classification.convolution_based")
    X, Xt = X.astype(np.float64), Xt.astype(np.float64)
    for last in (False, True):
        model = convolution_based.MiniRocketClassifier(random_state=seed, n_jobs=1)
        few = np.concatenate([np.flatnonzero(y == one)[:2] for one in np.unique(y)])
        begun = time.process_time()
        model.fit(*((X, y) if last else (X[few], y[few])))
        spent = time.process_time() - begun
    return model.predict(Xt), spent, 1


GRU, FCN = ("gru", "GRUClassifier"), ("gru", "GRUFCNNClassifier")
PEERS: dict[str, Callable[..., Found]] = {
    "tsai LSTM-FCN": tsai("LSTM_FCN"),
    "tsai GRU-FCN": tsai("GRU_FCN"),
    "tsai LSTM": tsai("LSTM", bidirectional=True),
    "tsai GRU": tsai("GRU", bidirectional=True),
    "sktime LSTM-FCN, Keras": sktime_keras,
    "sktime LSTM-FCN": sktime_torch("lstmfcn", "LSTMFCNClassifierTorch"),
    "sktime GRU-FCN": sktime_torch(*FCN, hidden_dim=256, gru_layers=2, batch_first=True),
    "sktime GRU": sktime_torch(*GRU, batch_first=True),
    "sktime GRU, as it comes": sktime_torch(*GRU),
    "aeon MiniRocket": minirocket,
}
LIBRARIES = (
    "tsai", "fastai", "sktime", "aeon", "torch", "tensorflow", "keras", "numba", "numpy",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of what is installed here."""
    installed = {
        one.name.lower().replace("_", "-"): one.version for one in metadata.distributions()
    }
    return {name: installed[name] for name in LIBRARIES if name in installed}


def main() -> None:
    """Fits, tests and prints."""
    name, path, seed, seconds = sys.argv[1:]
    with np.load(path) as file:
        data = dict(file)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # tsai makes folders where it stands
        X, y, Xt = data["X_train"], data["y_train"], data["X_test"]
        classes, spent, epochs = PEERS[name](X, y, Xt, int(seed), float(seconds))
        os.chdir("/")
    accuracy = float((np.asarray(classes) == data["y_test"]).mean())
    found = dict(accuracy=accuracy, seconds=spent, epochs=epochs, versions=versions())
    print("\n" + json.dumps(found | {"at": time.strftime("%Y-%m-%d %H:%M")}))


if __name__ == "__main__":
    main()
