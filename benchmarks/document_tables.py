"""What each table of the documents says, from which result. Figures stand nowhere else.

Every function takes the results and gives the lines that stand in the document; ``tables.py`` puts them there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from camscribe.benchmarks import enhancer_schema, projection, schema
from camscribe.benchmarks.enhancer_document import beside_pytorch
from camscribe.benchmarks.enhancer_schema import EnhancerReport
from camscribe.benchmarks.report_markdown import table
from camscribe.benchmarks.report_tables import limits as limits_table
from camscribe.benchmarks.report_tables import tables as report_tables
from camscribe.benchmarks.scaling_results import Scaling, read_scaling
from camscribe.benchmarks.schema import Missing, Report
from camscribe.runtime import typed_json
from camscribe.runtime.errors import DataError

_PERCENT = ("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l")
_NAMES = {"float32": "float32", "int8": "int8"}


class Results:
    """The kept results, read when they are first asked for.

    Args:
        folder: ``benchmarks/results``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.load = cache(self._load)

    def _load(self, name: str) -> Any:
        """One file by its name without ``.json``.

        Raises:
            DataError: it is missing or no JSON.
        """
        try:
            return typed_json.parse(self._text(name))
        except ValueError as error:
            raise DataError(f"{self._folder / name}.json: is not JSON ({error})") from error

    def _text(self, name: str) -> str:
        path = self._folder / f"{name}.json"
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error}); benchmarks/README.md says how it is made") from error

    def missing(self, name: str) -> list[str] | None:
        """What stands where a study was not made yet; None where it was."""
        if (self._folder / f"{name}.json").exists():
            return None
        return [f"Not measured yet: there is no `benchmarks/results/{name}.json`."]

    @cached_property
    def scaling(self) -> Scaling:
        """The scaling study."""
        return read_scaling(self._text("scaling"))

    @cached_property
    def bench(self) -> Report:
        """``camscribe bench`` on the shipped bundle."""
        return schema.parse(self._text("bench-cpu"), "bench-cpu.json")

    @cached_property
    def enhancer_speed(self) -> EnhancerReport:
        """``camscribe bench`` on the shipped enhancer."""
        return enhancer_schema.parse(self._text("enhancer_speed"), "enhancer_speed.json")

    def ratio(self, section: str, name: str) -> dict[str, Any]:
        """One ratio of ``caption_speed.json``."""
        (found,) = [item for item in self.load("caption_speed")["sections"][section]["ratios"] if item["name"] == name]
        return dict(found)

    def details(self, section: str, part: str) -> dict[str, Any]:
        """The details of a section of ``caption_speed.json``."""
        return dict(self.load("caption_speed")["sections"][section]["details"][part])


def quality(results: Results) -> list[str]:
    """README: scores on the half that was never looked at."""
    rows = []
    for precision, name in (("int8", "camscribe, int8"), ("float32", "camscribe, float32")):
        rows.append((name, *_scores(results.load(f"quality-{precision}-test"), ("bleu1", "bleu4", "meteor"))))
    published = ("Show, Attend and Tell (VGG19, test split, as published)", "67", "19.5 to 21.3", "18.9 to 20.3", "")
    return table(("", "BLEU-1", "BLEU-4", "METEOR", "CIDEr"), [*rows, published])


def quality_all(results: Results) -> list[str]:
    """Model card: all scores in all precisions."""
    head = ("precision", "split", "B1", "B2", "B3", "B4", "METEOR", "ROUGE-L", "CIDEr", "different", "bad endings")
    rows = []
    for precision in ("float32", "int8", "fp16"):
        for part in ("test", "all"):
            report = results.load(f"quality-{precision}-{part}")
            counts, data = report["quality"], report["data"]
            row = (precision, f"{data['split']} ({data['scored']:,} images)", *_scores(report, _PERCENT))
            different = f"{counts['different']} of {counts['captions']}"
            rows.append((*row, different, str(counts["bad_endings"]), str(counts["stuttered"])))
    return table((*head, "stuttered"), rows)


def speed(results: Results) -> list[str]:
    """README: ratios of ``caption_speed.json`` with what was asked."""
    rows = []
    for text, section, name, form in (
        (
            "a caption, against the tutorial's loop in PyTorch with the same weights",
            "tutorial",
            "tutorial's loop / caption",
            "{:.1f} times as fast",
        ),
        (
            "a caption, against its encoder run and its decoder steps without selection",
            "overhead",
            "caption / raw graphs",
            "{:.2f} times as long",
        ),
        (
            "a step with 5 beams, against one with 1",
            "beams",
            "step of beam 5 / step of beam 1",
            "{:.2f} times as long",
        ),
    ):
        found = [results.ratio(section, f"{name}, {precision}") for precision in _NAMES]
        rows.append((text, *(form.format(item["median"]) for item in found), _asked(found)))
    return table(("", *_NAMES.values(), "asked"), rows)


def speed_text(results: Results) -> list[str]:
    """README: what stands below that table."""
    first = results.ratio("startup", "first caption / imports and opening sessions")
    (startup,) = results.load("caption_speed")["sections"]["startup"]["details"].values()
    resnet = results.load("caption_speed")["sections"]["resnet"]["ratios"][0]
    mobile = [results.ratio("mobilenet", f"tutorial's loop / caption, {precision}") for precision in _NAMES]
    alone = results.details("resnet", "grid of 14")["encoder_alone"]["float32"]["encode_ms"]
    parts = results.details("overhead", "int8")["overhead_ms"]
    selection = parts["selection, and gathering of states, in the graph"]
    pixels, around = parts["of which reducing pixels"], parts["around the graphs"]
    whole, ours = resnet["numerator_ms"], resnet["denominator_ms"]
    return [
        f"A first caption in a fresh process took {first['median']:.2f} times as long as importing the libraries and "
        f"opening the graphs ({_asked([first])} asked),",
        f"and {startup['peak_memory_mb']:.0f} MB of memory. With MobileNetV2 (random weights, 2,000 words, as many "
        f"steps) a caption was {mobile[0]['median']:.1f} times as fast as the tutorial's loop in float32",
        f"and {mobile[1]['median']:.1f} in int8 ({_asked(mobile)} asked). With ResNet-101 at 256x256 a caption was "
        f"{resnet['median']:.1f} times as fast as the tutorial's loop ({_asked([resnet])} asked):",
        f"the ResNet alone takes {alone:.0f} of our {ours:.0f} ms, and that whole loop {whole:.0f}, so that a decoder "
        f"for nothing would make it {whole / alone:.1f} times as fast.",
        f"What the second row has above 1 is, in int8, the selection inside the graph ({selection:.1f} ms: a few µs "
        f"for each of its small nodes),",
        f"reducing the photograph ({pixels:.1f} ms), and the search around the steps ({around - pixels:.1f} ms).",
    ]


def peers(results: Results) -> list[str]:
    """README: how many times as long the peers take, by ``camscribe bench``."""
    report = results.bench
    variants = [row for row in report.variants if row.backend == "cpu" and row.precision in _NAMES]
    rows = [
        (
            f"`{peer.name}`",
            peer.description,
            *(f"{peer.ratios[row.name]:.1f}" for row in variants),
            _share(peer.same_as_float32),
        )
        for peer in report.peers
    ]
    head = ("peer", "what it is", *(f"its time / ours, {_NAMES[row.precision]}" for row in variants), "same captions")
    return table(head, rows)


def bench(results: Results) -> list[str]:
    """docs/bench.md: the tables of the kept report that say most."""
    lines: list[str] = []
    for each in report_tables(results.bench):
        if each.title in ("Variants", "Peers", "Sweep of batch"):
            lines += [f"**{each.title}**", "", *table(each.head, each.rows), ""]
    return lines[:-1]


def targets(results: Results) -> list[str]:
    """docs/bench.md: what was asked of the shipped bundle in int8 with the bundle's beams, and what was measured."""
    report = results.bench
    (row,) = [row for row in report.variants if (row.backend, row.precision) == ("cpu", "int8")]
    peers = {peer.name: peer for peer in report.peers}
    found: list[tuple[str, float | None, float, bool]] = [
        (f"time of `{name}` / ours", peers[name].ratios.get(row.name) if name in peers else None, least, True)
        for name, least in (("tutorial", 5.0), ("onnxruntime-by-hand", 2.0))
    ]
    batch = (
        {} if isinstance(row.batch_sweep, Missing) else {point.value: point.images_per_s for point in row.batch_sweep}
    )
    gain = batch[16] / batch[1] if {1, 16} <= batch.keys() else None
    found.append(("images a second, batch of 16 / batch of 1", gain, 1.5, True))
    floor = None if isinstance(row.floor, Missing) else row.floor.ratio
    found.append(("a caption / its floor", floor, 1.10, False))
    rows = []
    for what, value, limit, at_least in found:
        met = "" if value is None else "met" if (value >= limit if at_least else value <= limit) else "missed"
        asked = f"at {'least' if at_least else 'most'} {limit:g}"
        rows.append((what, "not measured" if value is None else f"{value:.2f}", asked, met))
    return table(("int8, two CPU cores", "measured", "asked", ""), rows)


def limits(results: Results) -> list[str]:
    """docs/bench.md: what loses the rest, by the roofline of the kept report."""
    made = limits_table(results.bench)
    return table(made.head, made.rows)


def scaling(results: Results) -> list[str]:
    """docs/scaling.md: the fitted lines with their errors."""
    rows = []
    for name, study in results.scaling.studies.items():
        line, unit = study.line, "a / threads" if study.line.x == "1 / value" else "each"
        r2 = "" if line.r2 is None else f"{line.r2:.3f}"
        values = ", ".join(f"{point.value} ({point.median_ms:.2f})" for point in study.points)
        fixed, slope = _with_error(line.fixed_ms, line.fixed_95), _with_error(line.slope_ms, line.slope_95)
        rows.append((name, study.cost, values, fixed, f"{slope} {unit}", r2))
    rows += [(name, f"left out: {why}", "", "", "", "") for name, why in results.scaling.left_out.items()]
    return table(("varied", "cost", "values (ms)", "fixed, ms", "slope, ms", "r2"), rows)


def scaling_where(results: Results) -> list[str]:
    """docs/scaling.md: on what the lines were measured."""
    made = results.scaling
    where, packages = made.environment, made.environment.packages
    runs = [point.runs for study in made.studies.values() for point in study.points]
    if not runs:
        return ["No lines were measured in the kept run; operations and bytes below are counted."]
    return [
        f"Measured on {where.cores} cores of {where.cpu}, ONNX Runtime {packages.get('onnxruntime', 'unknown')}, "
        f"precision {made.precision}, {min(runs)} runs of each value, on {where.date[:10]} "
        f"(load average before: {where.load_average:g})."
    ]


def projected(results: Results) -> list[str]:
    """docs/scaling.md: floors on machines that we do not have."""
    made = results.scaling
    return table(projection.HEAD, projection.rows(*projection.costs(made.graphs), made.steps))


def projected_text(results: Results) -> list[str]:
    """docs/scaling.md: the counts that the projection goes out from."""
    made = results.scaling
    encoder, step = projection.costs(made.graphs)
    nodes = [made.graphs[name].nodes for name in ("encoder", "decoder")]
    return [
        f"- For {made.beams} beams and {made.steps} steps. The encoder's weights are {encoder.bytes / 1e6:.1f} MB, its "
        f"products {encoder.operations / 1e6:.0f} million operations. The lower figure takes what its",
        f"  products read and write besides to stay in caches; the upper one moves all of that, "
        f"{encoder.passed_bytes / 1e6:.0f} MB, through the memory.",
        f"- A step reads {step.bytes / 1e6:.1f} MB (weights of the decoder, and the image's features) for "
        f"{step.operations / 1e6:.0f} million operations. The fp16 graphs have {nodes[0]} and {nodes[1]} nodes.",
    ]


def training(results: Results) -> list[str]:
    """docs/scaling.md: throughput of training."""
    if missing := results.missing("training_speed"):
        return missing
    made = results.load("training_speed")
    if not made["throughput"]:
        return ["The rate was not measured in the kept run (`--rounds 0`)."]
    rows = []
    for item in made["throughput"]:
        setting = item["setting"]
        what = "frozen" if not setting["trained"] else f"last {setting['trained']} stages trained"
        ours, theirs = _median(item["ours_samples_per_s"]), _median(item["tutorial_samples_per_s"])
        row = (what, str(setting["captions"]), f"{ours:.0f}", f"{theirs:.0f}", f"{item['ratio']:.1f}")
        rows.append((*row, f"{item['ours_before_s']:.0f}"))
    head = ("encoder", "captions of an image", "camscribe, samples/s", "tutorial, samples/s", "times as fast")
    return table((*head, "besides, s"), rows)


def training_time(results: Results) -> list[str]:
    """docs/scaling.md: time to a CIDEr."""
    if missing := results.missing("training_speed"):
        return missing
    made = results.load("training_speed")["time_to_cider"]
    if made is None:
        return ["Time to a CIDEr was not measured (`--until-cider`)."]
    rows = []
    for name, side in (("camscribe", made["ours"]), ("tutorial", made["tutorial"])):
        reached = side["why_not"] if side["reached_s"] is None else f"{side['reached_s']:.0f}"
        way = ", ".join(
            f"{cider:.2f} at {at:.0f} s" for cider, at in zip(side["ciders"], side["epochs_s"], strict=True)
        )
        rows.append((name, reached, str(len(side["epochs_s"])), way))
    head = ("", f"s to CIDEr {made['cider']:g}", "epochs", f"CIDEr of {made['tune']} after each epoch")
    ratio = "" if made["ratio"] is None else f" The tutorial took {made['ratio']:.1f} times as long."
    text = f"A new decoder on {made['images']:,} photographs with {made['captions']} captions each.{ratio}"
    return [*table(head, rows), "", text]


def models(results: Results) -> list[str]:
    """docs/models.md: the comparison of captioners."""
    if missing := results.missing("models"):
        return missing
    rows = []
    for item in results.load("models")["models"]:
        test, whole = item["scores"]["test"], item["scores"]["all"]
        rows.append(
            (
                item["name"].replace("-", " + ").replace("_", " "),
                item["stage"] or "see its card",
                f"{100 * test['bleu4']:.1f}",
                f"{100 * test['meteor']:.1f}" if "meteor" in test else "-",
                f"{test['cider']:.3f}",
                f"{whole['cider']:.3f}",
                f"{item['bundle_mb']:.1f}",
                f"{item['encode_ms']:.1f}",
                f"{item['step_ms']:.2f}",
                f"{item['to_shipped']:.2f}",
            )
        )
    head = ("captioner", "after", "B4", "METEOR", "CIDEr", "CIDEr, all of dev", "MB", "encoder, ms", "step, ms")
    return table((*head, "time / shipped"), rows)


def rewards(results: Results) -> list[str]:
    """docs/training.md: captions rewarded a second."""
    if missing := results.missing("reward_speed"):
        return missing
    made = results.load("reward_speed")
    rows = [
        (item["rewarded"], f"{item['captions_per_s']:,}", f"{item['peer_captions_per_s']:,}", _times(item["ratio"]))
        for item in made["rates"]
    ]
    return table(("reward", "captions a second, one core", "by pycocoevalcap", "times as fast"), rows)


def searches(results: Results) -> list[str]:
    """docs/bench.md: what each option of a guided search costs."""
    if missing := results.missing("search_cost"):
        return missing
    made = results.load("search_cost")
    rows = [
        (
            item["name"],
            f"`{item['arguments']}`" if item["arguments"] else "",
            str(item["beams"]),
            "1" if item["name"] == "plain" else f"{_times(item['caption'])}",
            f"{item['word']:.1f}",
            f"{item['select_ms']:.1f}" if item["select_ms"] else "",
            f"{item['words']:.1f}",
            f"{item['other_captions']} of {made['photographs']}",
        )
        for item in made["costs"]
    ]
    head = ("search", "option", "beams", "a caption's time / plain", "a word's decoding / plain", "on the host, ms")
    lines = table((*head, "words", "other captions"), rows)
    return [*lines, *(f"\nLeft out: {name}: {why}" for name, why in made["left_out"].items())]


def ablation(results: Results) -> list[str]:
    """docs/enhance.md: the blocks at equal cost."""
    made = results.load("enhancer-ablation")
    rows = [
        (
            name,
            f"{item['multiply_adds']:,}",
            *(
                f"{item['time_ms'][precision]:.1f} ({item['to_rrdb'][precision]:.2f})"
                for precision in ("float32", "int8")
            ),
            f"{item['tune_psnr_y']:.2f} dB",
            f"{item['set5_psnr_y']:.2f} / {item['set5_ssim_y']:.4f}",
            ", ".join(f"{run['set5_psnr_y']:.2f}" for run in item["runs"]),
        )
        for name, item in made["networks"].items()
    ]
    head = ("block", "multiply-adds", "float32, ms (/ RRDB)", "int8, ms (/ RRDB)", "PSNR, tuning photographs", "Set5")
    seeds = len(next(iter(made["networks"].values()))["runs"])
    timed = f"Timed: {made['timed']}; {made['environment']['cores']} cores, {made['rounds']} rounds."
    return [*table((*head, "Set5 by seed"), rows), "", f"Means of {seeds} seeds. {timed}"]


BLOCKS: dict[str, Callable[[Results], list[str]]] = {
    "quality": quality,
    "quality-all": quality_all,
    "speed": speed,
    "speed-text": speed_text,
    "peers": peers,
    "bench": bench,
    "targets": targets,
    "limits": limits,
    "scaling": scaling,
    "scaling-where": scaling_where,
    "projection": projected,
    "projection-text": projected_text,
    "training": training,
    "training-time": training_time,
    "models": models,
    "rewards": rewards,
    "searches": searches,
    "enhancer-ablation": ablation,
    "enhancer-speed": lambda results: beside_pytorch(results.enhancer_speed),
}
"""By the name in the document."""


def _scores(report: Any, names: Sequence[str]) -> list[str]:
    return [f"{100 * report['scores'][name]:.1f}" for name in names] + [f"{report['scores']['cider']:.3f}"]


def _asked(ratios: Sequence[dict[str, Any]]) -> str:
    """What ratios were asked to be: ``at least 2.5, 4``."""
    limits = list(dict.fromkeys(f"{item['limit']:g}" for item in ratios))
    return f"{ratios[0]['bound']} {' and '.join(limits)}"


def _times(item: dict[str, Any]) -> str:
    return f"{item['median']:.1f} ({item['p10']:.1f} to {item['p90']:.1f})"


def _share(value: float | Missing) -> str:
    return "random weights" if isinstance(value, Missing) else f"{value:.0%}"


def _with_error(value: float, interval: tuple[float, float] | None) -> str:
    digits = 2 if abs(value) >= 1 else 4
    return f"{value:.{digits}f}" + (
        "" if interval is None else f" ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"
    )


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return (ordered[len(ordered) // 2] + ordered[(len(ordered) - 1) // 2]) / 2
