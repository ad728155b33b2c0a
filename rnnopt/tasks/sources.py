"""The source of each task's data, in words."""

FOLDER = "in the folder that RNNOPT_DATA names"
DRAWN = "generated for every batch, without files"
DIGITS = "part of scikit-learn, without a download"
MNIST = f"mnist/*.gz {FOLDER}, else downloaded once (11 MB)"
HAPT = f"har/ {FOLDER}; not downloaded: `rnnopt train` prints what to put there"
HAR = f"har/UCI HAR Dataset.zip {FOLDER}, or unpacked there, else downloaded once (61 MB)"
TEXT = f"text/{{}}.txt {FOLDER}; not downloaded"
SOURCES = {
    "adding": DRAWN,
    "counting": DRAWN,
    "digits-rows": DIGITS,
    "digits-pixels": DIGITS,
    "mnist-rows": MNIST,
    "mnist-pixels": MNIST,
    "mnist-permuted": MNIST,
    **{f"{noise}hapt{classes}": HAPT for noise in ("", "noisy-") for classes in (2, 6)},
    **{f"{noise}har{classes}": HAR for noise in ("", "noisy-") for classes in (2, 6)},
    **{name: TEXT.format(name) for name in ("metamorphosis", "tinyshakespeare")},
}
