"""Where the data of each task come from, in words."""

FOLDER = "in the folder that RNNOPT_DATA names"
DRAWN = "drawn anew for every batch: there are no files"
DIGITS = "scikit-learn brings them: there is nothing to download"
MNIST = f"mnist/*.gz {FOLDER}, else downloaded once (11 MB)"
HAPT = f"har/ {FOLDER}; not downloaded: `rnnopt train` says what to put there"
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
