"""rnnopt export: a run's network as a file for other programs."""

from dataclasses import replace
from pathlib import Path

from rich.table import Table
from torch import Tensor

from rnnopt.cli.outputs import check_output
from rnnopt.cli.tables import column_of
from rnnopt.cli.terminal import console, print_line, progress_bars
from rnnopt.config.data_files import inputs_in
from rnnopt.config.errors import UserError, writing
from rnnopt.runs.export.c_comment import MARK, identifier
from rnnopt.runs.export.comparison import (
    VARIANTS,
    Comparison,
    caption,
    cells,
    compare_formats,
)
from rnnopt.runs.export.export import ALLOWED, Checked, export, open_run
from rnnopt.runs.export.formats import ENDINGS, Format, Weights
from rnnopt.runs.export.int8 import metric_of_int8
from rnnopt.runs.export.model_card import model_card
from rnnopt.runs.export.source import Source
from rnnopt.runs.folder import write_atomically


def export_run(
    run: Path,
    /,
    *,
    format: Format = "onnx",
    out: Path | None = None,
    streaming: bool = False,
    weights: Weights = "float32",
    compare: bool = False,
) -> int:
    """Write a trained network as a file for other programs.

    The file has the best weights of a run; a model card is written beside it. ONNX, OpenVINO and
    TorchScript files take raw series (batch, time, channel) with their lengths and hold the
    normalisation; ExecuTorch programs do so too, for one series of a fixed length; a C header takes
    raw steps one after another; safetensors holds the weights alone. Each is loaded (a header:
    compiled, if there is a C compiler) and run on the run's own data first, and written only if it
    answers as the run's network does.

    Args:
        run: Folder of the run.
        format: Format of the file.
        out: File to write: .onnx, .pt, .safetensors, .h, .pte of ExecuTorch, or .xml of OpenVINO,
            whose weights are a .bin file beside it. The model card gets its name and .md; the
            functions of a header begin with its name. Unset: model and that ending in RUN; with
            --streaming stream.onnx.
        streaming: Graph of one step, for ONNX: from raw inputs (batch, channel) and states to
            answers and the next states. A C header is always of one step.
        weights: Type of the stored weights. int8, for ONNX and C: a whole number of eight bits for
            each and a scale for each row; what that costs is measured on the run's test data.
        compare: Measure all formats too, with one thread: sizes, times of a series and of a step,
            the metric on the test data. The table is printed and stands in the model card.

    Examples:
        rnnopt export runs/first
        rnnopt export runs/first --streaming --out step.onnx
        rnnopt export runs/first --format c --weights int8 --out gestures.h
        rnnopt export runs/first --compare
    """
    streaming = streaming and format != "c"  # which is
    out = out or run / f"{'stream' if streaming else 'model'}{ENDINGS[format]}"
    card_file = out.with_name(f"{out.name}.md")
    source, raw, on = open_run(run)
    weights_file = out.with_suffix(".bin")
    check_files(run, source, format, out, weights_file)
    checked = export(source, format, raw, on, streaming, weights, identifier(out.stem))
    if weights == "int8":
        checked = replace(checked, facts=checked.facts + metric_of_int8(source))
    compared = measured(source, raw, on) if compare else None
    card = model_card(source, format, out.name, checked, streaming, weights, compared)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if checked.weights is not None:  # first: what is whole without them is a wrong network
            write_atomically(weights_file, checked.weights)
        write_atomically(out, checked.content)
        write_atomically(card_file, card.encode())
    print_line(verdict(checked, streaming or format == "c", weights))
    if checked.rounding > ALLOWED:
        print_line(f"it takes and gives float32: that can move an answer by {checked.rounding:.2g}")
    for what, figure in checked.facts:
        print_line(f"{what}: {figure}")
    sizes = {out: checked.content, weights_file: checked.weights}
    for file, content in sizes.items():
        if content is not None:
            print_line(f"wrote {file} ({len(content)} bytes)")
    print_line(f"wrote {card_file}")
    if compared is not None:
        print_comparison(compared)
    return 0


def check_files(run: Path, source: Source, form: Format, out: Path, weights_file: Path) -> None:
    """Raises UserError if the files cannot be written, or would go over others."""
    config = source.config
    inputs = [*inputs_in(config.data), *inputs_in(config.test)]
    own: list[str | Path] = [*inputs, run / "best.pt", run / "checkpoint.pt"]
    check_output(out, ENDINGS[form], own)
    if form == "c":
        refuse_other_header(out)
    if form == "openvino":
        check_output(weights_file, ".bin", own)
        refuse_other_weights(out, weights_file)


def measured(source: Source, raw: tuple[Tensor, Tensor], on: str) -> Comparison:
    """All formats, with a bar."""
    with progress_bars() as bars:
        bar = bars.add_task("measuring", total=1 + len(VARIANTS), completed=-1)
        return compare_formats(source, raw, on, lambda name: bars.update(bar, advance=1, note=name))


def print_comparison(compared: Comparison) -> None:
    """The table of all formats, and why some have no row."""
    headings, lines = cells(compared)
    table = Table(column_of([line[0] for line in lines], "format"), title_justify="left")
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    for line in lines:
        table.add_row(*line)
    console.print(table)
    print_line(caption(compared))
    for name, why in compared.refused:
        print_line(f"not {name}: {why}")


def verdict(checked: Checked, steps: bool, weights: Weights) -> str:
    """What the check found, in a line."""
    if checked.difference is None:
        return "not checked: no C compiler whose programs run here ($CC, cc, gcc, clang)"
    return (
        f"checked on {checked.series} {checked.on}{', step by step' if steps else ''}:"
        f" answers differ by {checked.difference:.2g} at most"
        f"{' from those with weights rounded to int8' if weights == 'int8' else ''}"
    )


def refuse_other_header(out: Path) -> None:
    """Refuses to write over a header that is not an exported one."""
    if not out.exists():
        return
    with writing(out), out.open("rb") as file:
        known = file.read(len(MARK)) == MARK.encode()
    if not known:
        raise UserError(f"--out must not be a header of another origin, got {out}.")


def refuse_other_weights(out: Path, weights_file: Path) -> None:
    """Refuses to write over weights of OpenVINO that are not of `out`."""
    if weights_file.exists() and not out.exists():
        raise UserError(
            f"{out} needs its weights in {weights_file}, which is there already and is not its own:"
            " choose another --out."
        )
