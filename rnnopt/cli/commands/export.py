"""rnnopt export: a run's network as a file for other programs."""

from pathlib import Path
from typing import Annotated

import tyro

from rnnopt.cli.outputs import check_output
from rnnopt.cli.terminal import say
from rnnopt.config.errors import writing
from rnnopt.runs.export.export import ALLOWED, export, open_run
from rnnopt.runs.export.formats import ENDINGS, Format
from rnnopt.runs.export.model_card import model_card
from rnnopt.runs.folder import write_atomically


def export_run(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    format: Format = "onnx",
    out: Path | None = None,
) -> int:
    """Write the best weights of a run as a file for other programs, and a model card beside it.

    ONNX and TorchScript files take raw series (batch, time, channel) with their lengths and hold
    the normalisation; safetensors holds the weights alone. Each is loaded and run on the run's own
    data first, and written only if it answers as the run's network does.

    Args:
        run: folder of the run.
        format: of the file.
        out: the file to write, .onnx, .pt or .safetensors; the card is called after it. Unset means
            model.onnx, model.pt or model.safetensors in RUN.

    Examples:
        rnnopt export runs/first
        rnnopt export runs/first --format safetensors --out network.safetensors
    """
    out = out or run / f"model{ENDINGS[format]}"
    card_file = out.with_name(f"{out.name}.md")
    source, raw, on = open_run(run)
    own = (source.config.data, source.config.test, run / "best.pt", run / "checkpoint.pt")
    check_output(out, ENDINGS[format], own)
    checked = export(source, format, raw, on)
    card = model_card(source, format, out.name, checked)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, checked.content)
        write_atomically(card_file, card.encode())
    say(
        f"checked on {checked.series} {checked.on}: answers differ by {checked.difference:.2g} at"
        " most"
    )
    if checked.rounding > ALLOWED:
        say(f"it takes and gives float32: that can move an answer by {checked.rounding:.2g}")
    say(f"wrote {out} ({len(checked.content)} bytes)")
    say(f"wrote {card_file}")
    return 0
