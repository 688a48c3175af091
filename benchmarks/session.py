"""One run of ``camscribe bench``: everything it measures, kept as it comes, so that an interruption loses nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from camscribe.benchmarks import captions_quality, child, floors, machine, plugs, protocol, stages, statistics, variants
from camscribe.benchmarks.peer_rows import Running, open_peers, peer_rows
from camscribe.benchmarks.schema import (
    SCHEMA,
    Build,
    FixedRate,
    Floor,
    Memory,
    Missing,
    PeerRow,
    Protocol,
    Quality,
    Report,
    SweepPoint,
    Variant,
)
from camscribe.benchmarks.variants import Opened
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.threads import physical_cores

NOT_YET = Missing("interrupted before it was measured")
_SINGLE = "single stream"


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    images: dict[str, Pixels]
    """Decoded photographs by name."""
    files: tuple[Path, ...]
    rounds: int
    seconds: float | None
    warm_up: int
    seed: int
    threads: int | None
    rate_hz: float
    rate_seconds: float
    """0 leaves the fixed rate out."""
    batches: tuple[int, ...]
    beams: tuple[int, ...]
    stage_rounds: int
    split: captions_quality.Split | None
    builds: bool
    peers: tuple[str, ...]
    checkpoint: Path | None
    roofline: bool = True
    energy: bool = True


@dataclass
class Session:
    """Measures ``opened`` by ``plan``. ``run`` may be interrupted at any time; ``report`` says what there is."""

    plan: Plan
    opened: list[Opened]
    left_out: dict[str, str]
    command: tuple[str, ...]
    tell: Callable[[str], None]
    samples: protocol.Samples = field(default_factory=protocol.Samples)
    finished: bool = False
    _parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By part, by the name of a variant."""
    _floors: dict[str, tuple[floors.Run, str]] = field(default_factory=dict)
    _steps: dict[tuple[str, int], int] = field(default_factory=dict)
    _words: dict[tuple[str, int], int] = field(default_factory=dict)
    _peers: dict[str, Running] = field(default_factory=dict)
    _warnings: list[str] = field(default_factory=list)
    _environment: dict[str, Any] = field(default_factory=dict)
    _limits: dict[str, Any] | Missing = NOT_YET

    def run(self) -> None:
        """Measures everything.

        The quality of the first variant comes first, because it is what bad input spoils; that of the others, which
        takes longest, comes last, so that whoever interrupts it has all the rest.
        """
        with tempfile.TemporaryDirectory() as folder, machine.watch() as clocks:
            try:
                self._environment = machine.environment()
                split = self._first_quality()
                self._open_floors(Path(folder))
                self._peers, missing = open_peers(self.plan, self.opened[0].bundle, Path(folder))
                self.left_out |= missing
                self._single_stream()
                self._stages()
                self._sweeps()
                self._fixed_rate()
                self._apart()
                self._other_qualities(split)
                self.finished = True
            finally:
                self._warnings += clocks.warnings()

    def _work(self, variant: Opened, index: int) -> object:
        return variant.captioner.caption(self._image(index), "rgb")

    def _image(self, index: int) -> Pixels:
        return list(self.plan.images.values())[index]

    def _first_quality(self) -> captions_quality.OnSplit | None:
        part, split = self._part("quality"), None
        if self.plan.split is not None:
            split = captions_quality.OnSplit(self.plan.split, self.plan.threads, self.tell)
            part[self.opened[0].name] = split.of(self.opened[0])
        why = "no split was given (--data and --split)"
        for variant in self.opened:
            reference = variants.reference(self.opened, variant, self.plan.threads)
            quality, texts = captions_quality.on_images(variant, reference, self.plan.images, why)
            if split is None:
                part[variant.name] = quality
            for index, text in enumerate(texts.values()):
                self._words[variant.name, index] = len(text.split())
        return split

    def _other_qualities(self, split: captions_quality.OnSplit | None) -> None:
        if split is not None:
            for variant in self.opened[1:]:
                self._part("quality")[variant.name] = split.of(variant)

    def _open_floors(self, folder: Path) -> None:
        part = self._part("floor")
        for variant in self.opened:
            opened = floors.open_floor(variant, self._image(0), folder, self.plan.threads)
            if isinstance(opened, Missing):
                part[variant.name] = opened
                continue
            self._floors[variant.name] = opened
            for index, file in enumerate(self.plan.files):
                recorder = stages.Recorder()
                with stages.instrumented(variant, recorder):
                    stages.record(variant, file, recorder)
                self._steps[variant.name, index] = max(1, round(recorder.steps()))

    def _single_stream(self) -> None:
        work: dict[str, protocol.Work] = {}
        for variant in self.opened:
            work[variant.name] = partial(self._work, variant)
            if variant.name in self._floors:
                run = self._floors[variant.name][0]
                work[f"floor of {variant.name}"] = partial(self._floor, variant.name, run)
        work |= {f"peer {name}": peer.caption for name, peer in self._peers.items()}
        self.tell(
            f"{_SINGLE}: {len(self.opened)} variants, {len(self._floors)} floors, {len(self._peers)} peers in turn"
        )
        protocol.in_turn(
            work,
            range(len(self.plan.images)),
            self.plan.rounds,
            self.plan.seed,
            self.samples,
            warm_up=self.plan.warm_up,
            seconds=self.plan.seconds,
            pause_s=0.01 if self._peers else 0.0,
        )

    def _floor(self, name: str, run: floors.Run, index: int) -> None:
        run(self._steps[name, index])

    def _stages(self) -> None:
        self.tell("stages")
        recorders = {variant.name: stages.Recorder() for variant in self.opened}
        self._part("recorder").update(recorders)
        stages.measure(self.opened, self.plan.files, self.plan.stage_rounds, recorders)

    def _sweeps(self) -> None:
        for title, values, images in (
            ("batch", self.plan.batches, lambda value: value),
            ("beam", self.plan.beams, lambda value: 1),
        ):
            if not values:
                continue
            self.tell(f"{title} sweep: {', '.join(map(str, values))}")
            samples = protocol.Samples()
            work = {variant.name: partial(self._swept, title, variant) for variant in self.opened}
            part = self._part(f"{title}_sweep")
            for variant in self.opened:
                for value in values:
                    self._swept(title, variant, value)
            try:
                protocol.in_turn(work, values, max(3, self.plan.rounds // 2), self.plan.seed, samples)
            finally:
                for variant in self.opened:
                    part[variant.name] = protocol.sweep(samples, variant.name, values, images) or NOT_YET

    def _swept(self, title: str, variant: Opened, value: int) -> None:
        if title == "beam":
            variant.captioner.caption(self._image(0), "rgb", beams=value)
            return
        images = [self._image(index % len(self.plan.images)) for index in range(value)]
        variant.captioner.caption(images, "rgb", batch=value)

    def _fixed_rate(self) -> None:
        part = self._part("fixed_rate")
        for variant in self.opened:
            if not self.plan.rate_seconds:
                part[variant.name] = Missing("not asked for (--rate-seconds 0)")
                continue
            self.tell(f"{self.plan.rate_hz:g} frames a second: {variant.name}")
            work = partial(self._work, variant)
            for index in range(len(self.plan.images)):
                work(index)
            part[variant.name] = protocol.fixed_rate(
                work, len(self.plan.images), self.plan.rate_hz, self.plan.rate_seconds
            )

    def _apart(self) -> None:
        """What is measured of one variant at a time."""
        for variant in self.opened:
            self.tell(f"memory, energy: {variant.name}")
            self._part("memory")[variant.name] = child.memory(variant, self.plan.files[:3], self.plan.threads)
            if not self.plan.energy:
                self._part("energy")[variant.name] = Missing("not asked for (--no-energy)")
            else:
                self._part("energy")[variant.name] = plugs.energy(partial(self._work, variant), len(self.plan.images))
            if variant.backend == "tensorrt" and not self.plan.builds:
                self._part("build")[variant.name] = Missing("takes minutes; asked for with --builds")
            else:
                self._part("build")[variant.name] = child.build(variant)
        self._limits = Missing("not asked for (--no-roofline)")
        if self.plan.roofline:
            self.tell("what the machine can do at most")
            self._limits = NOT_YET
            self._limits = plugs.limits(self.plan.threads, gpu=any(each.backend != "cpu" for each in self.opened))

    def _part(self, name: str) -> dict[str, Any]:
        return self._parts.setdefault(name, {})

    def _get(self, part: str, name: str, default: Missing = NOT_YET) -> Any:
        return self._part(part).get(name, default)

    def report(self) -> Report:
        """What was measured up to now."""
        rows = tuple(self._row(variant) for variant in self.opened if self.samples.milliseconds.get(variant.name))
        bundles = {str(variant.bundle.path): variants.facts(variant.bundle) for variant in self.opened}
        images = tuple(f"{name} {image.shape[1]}x{image.shape[0]}" for name, image in self.plan.images.items())
        names = [row.name for row in rows]
        peers: tuple[PeerRow, ...] = peer_rows(self._peers, self.samples, names)
        return Report(
            schema=SCHEMA,
            kind="camscribe bench",
            command=self.command,
            partial=not self.finished,
            environment=self._environment or machine.environment(),
            protocol=Protocol(
                images,
                self.plan.warm_up,
                self.samples.rounds,
                self.plan.seconds,
                self.plan.seed,
                self.plan.threads or physical_cores(),
                self.opened[0].bundle.manifest.search.beams,
            ),
            bundles=tuple(bundles.values()),
            variants=rows,
            left_out=self.left_out,
            peers=peers,
            roofline=self._limits,
            scaling=Missing("measured by python -m camscribe.benchmarks.scaling"),
            training=Missing("measured by python -m camscribe.benchmarks.training_speed"),
            warnings=tuple(self._warnings),
        )

    def _row(self, variant: Opened) -> Variant:
        name = variant.name
        latencies = self.samples.milliseconds[name]
        recorder = self._part("recorder").get(name) or stages.Recorder()
        split = recorder.stages()
        found = statistics.latency_warnings(latencies, self.samples.items)
        if not isinstance(split, Missing):
            enqueue = sum(recorder.enqueue_ms) / recorder.captions if recorder.enqueue_ms else None
            found += statistics.stage_warnings(split, enqueue)
        latency = statistics.spread(latencies)
        roofline = plugs.bound(variant, self._limits, recorder.steps(), latency.median, split)
        found += statistics.limit_warnings(roofline)
        quality: Quality | Missing = self._get("quality", name)
        memory: Memory | Missing = self._get("memory", name)
        build: Build | Missing = self._get("build", name)
        rate: FixedRate | Missing = self._get("fixed_rate", name)
        unasked = Missing("not asked for") if self.finished else NOT_YET
        batch: tuple[SweepPoint, ...] | Missing = self._get("batch_sweep", name, unasked)
        beam: tuple[SweepPoint, ...] | Missing = self._get("beam_sweep", name, unasked)
        words = [self._words.get((name, index), 0) for index in range(len(self.plan.images))]
        return Variant(
            name=name,
            bundle=variant.bundle.manifest.name,
            backend=variant.backend,
            precision=variant.precision,
            notes=variant.notes,
            size_bytes=variant.size_bytes(),
            latency_ms=latency,
            samples_ms=tuple(round(value, 4) for value in latencies),
            words=sum(words) / len(words),
            stages=split,
            quality=quality,
            memory=memory,
            build=build,
            energy=self._get("energy", name),
            floor=self._floor_row(name, latencies),
            roofline=roofline,
            fixed_rate=rate,
            batch_sweep=batch,
            beam_sweep=beam,
            warnings=tuple(found),
        )

    def _floor_row(self, name: str, latencies: Sequence[float]) -> Floor | Missing:
        below = self.samples.milliseconds.get(f"floor of {name}")
        if not below:
            missing: Missing = self._get("floor", name)
            return missing
        ratio = statistics.paired_ratio(latencies, below)
        return Floor(statistics.spread(below), ratio, self._floors[name][1])
