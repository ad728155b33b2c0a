"""rnnopt export: a run's network as a file for other programs."""

from pathlib import Path

from rnnopt.cli.outputs import check_output
from rnnopt.cli.terminal import print_line
from rnnopt.config.errors import UserError, writing
from rnnopt.runs.export.export import ALLOWED, export, open_run
from rnnopt.runs.export.formats import ENDINGS, Format
from rnnopt.runs.export.model_card import model_card
from rnnopt.runs.folder import write_atomically


def export_run(
    run: Path,
    /,
    *,
    format: Format = "onnx",
    out: Path | None = None,
    streaming: bool = False,
) -> int:
    """Write a trained network as a file for other programs.

    The file has the best weights of a run; a model card is written beside it. ONNX, OpenVINO and
    TorchScript files take raw series (batch, time, channel) with their lengths and hold the
    normalisation; ExecuTorch programs do so too, for one series of a fixed length. safetensors
    holds the weights alone. Each is loaded and run on the run's own data
    first, and written only if it answers as the run's network does.

    Args:
        run: Folder of the run.
        format: Format of the file.
        out: File to write: .onnx, .pt, .safetensors, .pte of ExecuTorch, or .xml of OpenVINO, whose
            weights are a .bin file beside it. The model card gets its name and .md. Unset: model
            and that ending in RUN; with --streaming stream.onnx.
        streaming: Graph of one step, for ONNX: from raw inputs (batch, channel) and states to
            answers and the next states.

    Examples:
        rnnopt export runs/first
        rnnopt export runs/first --format safetensors --out network.safetensors
        rnnopt export runs/first --streaming --out step.onnx
    """
    out = out or run / f"{'stream' if streaming else 'model'}{ENDINGS[format]}"
    card_file = out.with_name(f"{out.name}.md")
    source, raw, on = open_run(run)
    own = (source.config.data, source.config.test, run / "best.pt", run / "checkpoint.pt")
    check_output(out, ENDINGS[format], own)
    weights_file = out.with_suffix(".bin")
    if format == "openvino":
        check_output(weights_file, ".bin", own)
        if weights_file.exists() and not out.exists():
            raise UserError(
                f"{out} needs its weights in {weights_file}, which is there already and is not"
                " its own: choose another --out."
            )
    checked = export(source, format, raw, on, streaming)
    card = model_card(source, format, out.name, checked, streaming)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if checked.weights is not None:  # first: what is whole without them is a wrong network
            write_atomically(weights_file, checked.weights)
        write_atomically(out, checked.content)
        write_atomically(card_file, card.encode())
    print_line(
        f"checked on {checked.series} {checked.on}{', step by step' if streaming else ''}:"
        f" answers differ by {checked.difference:.2g} at most"
    )
    if checked.rounding > ALLOWED:
        print_line(f"it takes and gives float32: that can move an answer by {checked.rounding:.2g}")
    print_line(f"wrote {out} ({len(checked.content)} bytes)")
    if checked.weights is not None:
        print_line(f"wrote {weights_file} ({len(checked.weights)} bytes)")
    print_line(f"wrote {card_file}")
    return 0
