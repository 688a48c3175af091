"""One run of ``camscribe bench`` of an enhancer; see ``session.py``, whose ways it shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from camscribe.benchmarks import child, enhancers, machine, plugs, protocol, statistics
from camscribe.benchmarks.enhancer_schema import (
    KIND,
    EnhancerPeer,
    EnhancerProtocol,
    EnhancerReport,
    EnhancerVariant,
    Fidelity,
)
from camscribe.benchmarks.enhancers import OpenedEnhancer
from camscribe.benchmarks.peers import enhancer as peer
from camscribe.benchmarks.schema import SCHEMA, Missing, Stage
from camscribe.benchmarks.session import NOT_YET
from camscribe.benchmarks.stages import Recorder
from camscribe.runtime.enhancer import Enhancer
from camscribe.runtime.errors import OptionError
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.threads import physical_cores

PEER = "pytorch"
_DESCRIPTION = "the same network and weights in PyTorch: eager, float32, inference mode, as many threads"
_PAUSE_S = 0.05
"""Threads of PyTorch spin for a while after its run, and would slow the next one down."""


@dataclass(frozen=True)
class EnhancerPlan:
    """What to measure."""

    images: dict[str, Pixels]
    """Small images by their size, ``320x180``."""
    photograph: str
    """Name of what they were cut from."""
    rounds: int
    seconds: float | None
    warm_up: int
    seed: int
    threads: int | None
    stage_rounds: int
    builds: bool
    energy: bool = True
    peer: bool = True


@dataclass
class EnhancerSession:
    """Measures ``opened`` by ``plan``. ``run`` may be interrupted at any time; ``report`` says what there is."""

    plan: EnhancerPlan
    opened: list[OpenedEnhancer]
    left_out: dict[str, str]
    command: tuple[str, ...]
    tell: Callable[[str], None]
    samples: protocol.Samples = field(default_factory=protocol.Samples)
    finished: bool = False
    _parts: dict[tuple[str, str, str], Any] = field(default_factory=dict)
    """By part, variant and size."""
    _peer: peer.TorchEnhancer | None = None
    _warnings: list[str] = field(default_factory=list)
    _environment: dict[str, Any] = field(default_factory=dict)

    def run(self) -> None:
        """Measures everything."""
        with machine.watch() as clocks:
            try:
                self._environment = machine.environment()
                self._open_peer()
                self._fidelity()
                self._single_stream()
                self._stages()
                self._apart()
                self.finished = True
            finally:
                self._warnings += clocks.warnings()

    @property
    def _threads(self) -> int:
        return self.plan.threads or physical_cores()

    def _open_peer(self) -> None:
        """The network in PyTorch, where that can be run; it must make the same picture."""
        first = self.opened[0]
        reason = peer.why_not() if self.plan.peer else "not asked for (--peers none)"
        if reason is None:
            try:
                self._peer = peer.TorchEnhancer(first.bundle, first.enhancer.variant, self._threads)
            except OptionError as error:
                reason = str(error)
        if reason is not None:
            self.left_out[f"peer {PEER}"] = reason

    def _fidelity(self) -> None:
        first = self.opened[0]
        with Enhancer.load(
            first.bundle.path, "cpu", "float32", self.plan.threads, variant=first.enhancer.variant
        ) as reference:
            for size, image in self.plan.images.items():
                expected = reference.enlarge(image)
                for variant in self.opened:
                    made = variant.enhancer.enlarge(image)
                    self._parts["fidelity", variant.name, size] = enhancers.fidelity(made, expected)
                if self._peer is not None:
                    found = enhancers.fidelity(self._peer.enlarge(image), expected)
                    if found.largest > 1:
                        raise OptionError(
                            f"PyTorch's picture is {found.largest} levels off; it is not the same network"
                        )
                    self._parts["fidelity", PEER, size] = found

    def _single_stream(self) -> None:
        images = list(self.plan.images.values())
        work: dict[str, protocol.Work] = {
            variant.name: partial(_enhance, variant.enhancer, images) for variant in self.opened
        }
        if self._peer is not None:
            work[PEER] = partial(_enlarge, self._peer, images)
        self.tell(f"single stream: {len(work)} in turn, {', '.join(self.plan.images)}")
        protocol.in_turn(
            work,
            range(len(images)),
            self.plan.rounds,
            self.plan.seed,
            self.samples,
            warm_up=self.plan.warm_up,
            seconds=self.plan.seconds,
            pause_s=_PAUSE_S if self._peer is not None else 0.0,
        )

    def _stages(self) -> None:
        self.tell("stages")
        for size, image in self.plan.images.items():
            for variant in self.opened:
                recorder = Recorder()
                for turn in range(self.plan.stage_rounds + 1):
                    if turn == 1:
                        recorder.clear()
                    variant.enhancer.enlarge(image, recorder.stage)
                self._parts["stages", variant.name, size] = {
                    name: Stage(statistics.spread(each), len(each) / self.plan.stage_rounds, "host")
                    for name, each in recorder.samples.items()
                }

    def _apart(self) -> None:
        """What is measured of one variant at a time."""
        for variant in self.opened:
            self.tell(f"memory, energy: {variant.name}")
            build: Any = Missing("has no engines")
            if variant.backend == "tensorrt":
                build = Missing("takes minutes; asked for with --builds")
            for size, image in self.plan.images.items():
                self._parts["memory", variant.name, size] = child.enhancer_memory(variant, size, self.plan.threads)
                if variant.backend == "tensorrt" and self.plan.builds:
                    build = child.enhancer_build(variant, size)
                self._parts["build", variant.name, size] = build
                energy: Any = Missing("not asked for (--no-energy)")
                if self.plan.energy:
                    energy = plugs.energy(partial(_enhance, variant.enhancer, [image]), 1)
                self._parts["energy", variant.name, size] = energy

    def report(self) -> EnhancerReport:
        """What was measured up to now."""
        sizes = list(self.plan.images)
        rows = [
            self._row(variant, size, index)
            for index, size in enumerate(sizes)
            for variant in self.opened
            if self.samples.of(variant.name, index)
        ]
        peers = [self._peer_row(size, index, rows) for index, size in enumerate(sizes) if self.samples.of(PEER, index)]
        return EnhancerReport(
            schema=SCHEMA,
            kind=KIND,
            command=self.command,
            partial=not self.finished,
            environment=self._environment or machine.environment(),
            protocol=EnhancerProtocol(
                tuple(f"{self.plan.photograph} {size}" for size in sizes),
                self.plan.warm_up,
                self.samples.rounds,
                self.plan.seconds,
                self.plan.seed,
                self._threads,
            ),
            bundles=(enhancers.facts(self.opened[0]),),
            variants=tuple(rows),
            left_out=self.left_out,
            peers=tuple(peers),
            warnings=tuple(self._warnings),
        )

    def _row(self, variant: OpenedEnhancer, size: str, index: int) -> EnhancerVariant:
        latencies = self.samples.of(variant.name, index)
        latency = statistics.spread(latencies)
        found: Fidelity = self._parts["fidelity", variant.name, size]

        def part(name: str) -> Any:
            return self._parts.get((name, variant.name, size), NOT_YET)

        return EnhancerVariant(
            name=f"{variant.name} {size}",
            bundle=variant.bundle.manifest.name,
            variant=variant.enhancer.variant,
            backend=variant.backend,
            precision=variant.precision,
            size=size,
            notes=variant.enhancer.choice.reasons[1:],
            size_bytes=variant.size_bytes(),
            latency_ms=latency,
            samples_ms=tuple(round(value, 4) for value in latencies),
            images_per_s=1e3 / latency.median,
            stages=part("stages"),
            fidelity=found,
            memory=part("memory"),
            build=part("build"),
            energy=part("energy"),
            warnings=tuple(statistics.latency_warnings(latencies, [0] * len(latencies), "picture")),
        )

    def _peer_row(self, size: str, index: int, rows: list[EnhancerVariant]) -> EnhancerPeer:
        each = self.samples.of(PEER, index)
        ratios = {row.name: statistics.paired_ratio(each, row.samples_ms) for row in rows if row.size == size}
        found: Fidelity = self._parts["fidelity", PEER, size]
        latency, samples = statistics.spread(each), tuple(round(value, 4) for value in each)
        return EnhancerPeer(f"{PEER} {size}", size, _DESCRIPTION, latency, samples, ratios, found)


def _enhance(enhancer: Enhancer, images: list[Pixels], index: int) -> object:
    return enhancer.enhance(images[index], "rgb")


def _enlarge(network: peer.TorchEnhancer, images: list[Pixels], index: int) -> object:
    return network.enlarge(images[index])
