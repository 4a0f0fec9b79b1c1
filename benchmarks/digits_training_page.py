"""The page of `benchmarks.digits_training`: accuracies, the comparison at 8 ×, spectra and the settings chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from torch import nn

from benchmarks import machine
from benchmarks.digits_training_networks import CHOICE, VALIDATION, Study, studies
from benchmarks.digits_training_ways import RATIOS
from benchmarks.tables import table

Figures = Mapping[str, Any]
TITLES = {
    "dense": "dense",
    "ring": "ring from scratch",
    "expanded": "expand + decay + fold, one tol",
    "expanded, by budget": "expand + decay, ranks by compress",
    "decayed": "dense + its best decay for this, one tol",
    "decayed, by budget": "dense + its best decay, ranks by compress",
    "plain": "plain cut, one tol",
    "plain, by budget": "plain cuts, ranks by compress",
    "plain, any form": "plain compress, any form",
    "aware": "data-aware compress",
    "tuned": "data-aware compress + fine-tuning",
    "orthogonal": "expand + orthogonality + VBMF",
    "orthogonal, trained on": "expand + orthogonality + VBMF, trained on",
}
PLAIN = ("plain", "plain, by budget", "plain, any form")
EXPANDED, DECAYED = (("expanded", "expanded, by budget"), ("decayed", "decayed, by budget"))
JUDGED = 8
# What is told of: the row of the network before the cut, and the one with the tol of the cut.
SPECTRA = (
    ("dense", ("dense", 1), ("plain", JUDGED)),
    ("dense + its best decay", ("decayed", JUDGED), ("decayed", JUDGED)),
    ("expand + decay", ("expanded", JUDGED), ("expanded", JUDGED)),
    ("expand + orthogonality", ("orthogonal", None), None),
)
WAYS = """\
All rows train for the number of epochs of their network: SGD with momentum or AdamW, one cycle of the learning rate,
gradients clipped at 1.

- **dense**: with the rate and decay with which it scores best. **Plain cut**, without data: `fold(expand(dense), tol)`
  at the least tol, one for all layers, that keeps the budget; or `compress(dense, budget, formats="cut")`, which gives
  each layer its rank by the errors of weights; or `compress(dense, budget)`, which may take CP and Tucker forms too.
- **dense + its best decay**: a dense network whose rate and decay were chosen for how well it is cut at this ratio, cut
  in the first two of these ways. It is what `expand` has to beat: weight decay by itself lowers ranks.
- **expand + decay + fold**: trained as products of two or three layers, merged, cut in the same two ways. Factors, rate
  and decay were chosen for how well it is cut at this ratio. No training after the cut.
- **ring from scratch**: `factorize_like(format="tr", budget)`, matrices as products of two; rate chosen.
- **data-aware compress**: `compress(dense, budget, calibration)`, with the training images without labels.
  **+ fine-tuning**: a third of the epochs more, half labels, half agreement with the dense network; nothing chosen.
- **expand + orthogonality + VBMF**: `expand(3)` but for the last layer, `orthogonality_penalty`, `fold(ranks="vbmf")`;
  penalty and decay chosen. The ratio is what VBMF finds. **Trained on**: as in fine-tuning, the large network for a
  teacher."""


def page(units: Sequence[Figures]) -> str:
    """The whole page, of what is there."""
    return "\n\n".join(_parts(units))


def _parts(units: Sequence[Figures]) -> Iterator[str]:
    rows, every = rows_of(units), studies()
    known = {name: every[name] for name in every if any(row["network"] == name for row in rows)}
    yield "# Trained small, cut, or trained to be cut: the digits"
    yield _images(rows, known)
    yield WAYS
    minutes = sum(unit["seconds"] for unit in units) / 60
    yield f"{machine.describe(('torch', 'tensorring'))} {minutes:.0f} minutes of one thread, choices included."
    yield "![Accuracy against the ratio, and norm loss against rank](../images/digits_training.svg)"
    for name, study in known.items():
        yield from _network(study.case.title, [row for row in rows if row["network"] == name])
    yield from _comparison(rows, known)
    yield from _spectra(rows, known)
    yield from _settings(rows, known)


def _images(rows: Sequence[Figures], known: Mapping[str, Study]) -> str:
    """What the figures are of."""
    case = next(iter(known.values())).case
    described = "; ".join(_described(rows, name, study) for name, study in known.items())
    excess = max(row["dense_parameters"] / row["parameters"] / row["ratio"] - 1 for row in rows if row["ratio"])
    return (
        "Written by `python -m benchmarks.digits_training --cache DIR --write digits_training.md`. Networks on "
        f"scikit-learn's digits: {described}. The transformer's attention is made of linear layers: nothing can be "
        "replaced in nn.MultiheadAttention.\n\n"
        f"Accuracy in per cent of {len(case.y) - case.training} test images (one standard error is 0.6 points at 98 %, "
        f"2 at 50 %): the mean of {len({row['seed'] for row in rows})} seeds, in brackets the least and the most. "
        "Seeds are of first weights and of the order of batches; which images are for training and for tests is always "
        "the same. Each row looked at the test images once, last. Settings were chosen for each row and ratio by "
        f"{VALIDATION} of the {case.training:,} training images, with {len(CHOICE)} other seeds, out of what is listed "
        f"at the end; then networks were trained again on all {case.training:,}. Ratios are of all parameters; those "
        f"reached are at least as high as asked, at most {100 * excess:.0f} % higher."
    )


def rows_of(units: Sequence[Figures]) -> list[dict[str, Any]]:
    """All rows but those of the choice, with network, seed and settings."""
    return [
        {**row, **{key: unit[key] for key in ("network", "seed", "settings")}}
        for unit in units
        if unit["seed"] not in CHOICE
        for row in unit["rows"]
    ]


def percent(rows: Sequence[Figures], key: str = "right") -> float:
    """The mean of a share."""
    return 100 * mean(row[key] for row in rows)


def at(rows: Sequence[Figures], row: str, ratio: float | None) -> list[Figures]:
    """All seeds of a row."""
    return [each for each in rows if (each["row"], each["ratio"]) == (row, ratio)]


def _described(rows: Sequence[Figures], name: str, study: Study) -> str:
    count = next(row["dense_parameters"] for row in rows if row["network"] == name)
    return f"{study.case.title}, {count:,} parameters, {study.case.epochs} epochs"


def _cell(rows: Sequence[Figures]) -> str:
    if not rows:
        return ""
    ends = [100 * end(row["right"] for row in rows) for end in (min, max)]
    return f"{percent(rows):.1f} ({ends[0]:.1f}–{ends[1]:.1f})"


def _network(title: str, rows: Sequence[Figures]) -> Iterator[str]:
    yield f"## {title[0].upper()}{title[1:]}"
    yield f"Dense: {_cell(at(rows, 'dense', 1))}."
    made = [row for row in TITLES if any(at(rows, row, ratio) for ratio in RATIOS)]
    yield table(
        ("", *(f"{ratio} ×" for ratio in RATIOS)),
        [(TITLES[row], *(_cell(at(rows, row, ratio)) for ratio in RATIOS)) for row in made],
    )
    found = [row for row in TITLES if at(rows, row, None)]
    lines = []
    for row in found:
        same = at(rows, row, None)
        ratios = [each["dense_parameters"] / each["parameters"] for each in same]
        lines.append((TITLES[row], f"{mean(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f})", _cell(same)))
    yield table(("", "ratio found", "accuracy, %"), lines)


def _comparison(rows: Sequence[Figures], known: Mapping[str, Study]) -> Iterator[str]:
    yield f"## Expand against plain truncation at {JUDGED} ×"
    lines = []
    for name, study in known.items():
        own = [row for row in rows if row["network"] == name]
        ours = [percent(at(own, row, JUDGED)) for row in EXPANDED]
        theirs = [max(percent(at(own, row, JUDGED)) for row in group) for group in (PLAIN, DECAYED)]
        ahead = [f"{mine - best:+.1f}" for best in theirs for mine in ours]
        lines.append((study.case.title, *(f"{score:.1f}" for score in (*ours, *theirs)), *ahead))
    rivals = "best plain row", "best of dense + its best decay"
    differences = [f"{mine} − {best}" for best in rivals for mine in ("one tol", "by compress")]
    yield table(("", *(TITLES[row] for row in EXPANDED), *rivals, *differences), lines)


def _spectra(rows: Sequence[Figures], known: Mapping[str, Study]) -> Iterator[str]:
    yield "## Spectra"
    yield (
        f"Of the networks that were cut to {JUDGED} × with one tol, before the cut: accuracy, the rank of each weight "
        "(O, rest) at a norm loss of 10 %, mean of the seeds, and that tol, from the least to the most."
    )
    lines = []
    for name, study in known.items():
        own = [row for row in rows if row["network"] == name]
        for title, whole, cut in SPECTRA:
            tols = [each["tol"] for each in at(own, *cut)] if cut else []
            ends = f"{min(tols):.2f}–{max(tols):.2f}" if tols else ""
            told = at(own, *whole)
            ranks = " ".join(f"{mean(each['ranks'][layer] for each in told):.0f}" for layer in told[0]["ranks"])
            lines.append((study.case.title, title, f"{percent(told, 'before'):.1f}", ranks, ends))
        shapes = [
            layer.weight.shape for layer in study.case.make().modules() if isinstance(layer, (nn.Conv2d, nn.Linear))
        ]
        full = " ".join(str(min(shape[0], shape[1:].numel())) for shape in shapes)
        lines.append((study.case.title, "full rank", "", full, ""))
    yield table(("", "trained", "accuracy, %", "ranks at 10 %", f"tol at {JUDGED} ×"), lines)


def _settings(rows: Sequence[Figures], known: Mapping[str, Study]) -> Iterator[str]:
    yield "## Settings chosen"
    tried = "; ".join(
        f"{study.case.title} (batches of {study.recipe['batch_size']}, {study.recipe['optimizer']}): rates "
        f"{', '.join(f'{rate:g}' for rate in study.rates)}, decays {', '.join(f'{each:g}' for each in study.decays)}"
        for study in known.values()
    )
    yield (
        f"Tried for dense and expanded networks: {tried}; two and three factors (N). Rings: twice and four times the "
        "lowest of the rates, the lowest decay. Orthogonality: multiples of 0.001 and 0.01, the lowest rate, the lower "
        "two decays. Where several score alike, the first; where all fail, the choice means nothing."
    )
    lines = []
    for name, study in known.items():
        own = [row for row in rows if row["network"] == name and row["settings"]]
        for row in (row for row in TITLES if any(each["row"] == row for each in own)):
            cells = [_words(at(own, row, ratio)) for ratio in RATIOS]
            single = [_words(at(own, row, 1) or at(own, row, None)), *[""] * (len(RATIOS) - 1)]
            lines.append((study.case.title, TITLES[row], *(cells if any(cells) else single)))
    yield table(("", "", *(f"{ratio} ×" for ratio in RATIOS)), lines)


def _words(rows: Sequence[Figures]) -> str:
    short = {"factors": "N", "lr": "rate", "weight_decay": "decay", "penalty": "penalty"}
    return ", ".join(f"{short[key]} {value:g}" for key, value in rows[0]["settings"].items()) if rows else ""
