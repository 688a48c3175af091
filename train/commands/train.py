"""``camscribe train CONFIG.toml``: trains a captioner, an enhancer or a detector, or goes on with an interrupted run.

More than one process: ``torchrun --nproc-per-node N -m camscribe.train.commands.train CONFIG.toml``.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from lightning_fabric import Fabric

from camscribe.runtime.commands.arguments import Parser
from camscribe.runtime.errors import CamscribeError, DataError, OptionError
from camscribe.train.config import Config, load_config, read_table
from camscribe.train.detection.config import Config as DetectionConfig
from camscribe.train.detection.config import load_config as load_detection
from camscribe.train.run import Run
from camscribe.train.superres.config import Config as SuperresConfig
from camscribe.train.superres.config import load_config as load_superres

AnyConfig = Config | SuperresConfig | DetectionConfig
LOADERS: dict[str, Callable[[Path, Sequence[str]], AnyConfig]] = {
    "captioning": load_config,
    "super_resolution": load_superres,
    "detection": load_detection,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = Parser(prog="camscribe train", description=__doc__)
    parser.add_argument("config", type=Path, help="TOML configuration, see docs/training.md and docs/enhance.md")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key, for example model.decoder=updown or stage.fine-tune.epochs=3",
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out, count and name what cannot be read, as data.skip_bad = true does",
    )
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/NAME-OF-THE-CONFIGURATION)")
    parser.add_argument("--cache", type=Path, help="folder of cached features (default: OUT/cache)")
    parser.add_argument("--accelerator", default="auto", help="cpu, cuda, ... (default: auto)")
    parser.add_argument("--threads", type=int, help="CPU threads of a process (default: all cores)")
    options = parser.parse_args(argv)
    task = str(read_table(options.config).get("task", "captioning"))
    if task not in LOADERS:
        raise DataError(f"{options.config}: task is {task!r}; expected one of {', '.join(LOADERS)}")
    if options.skip_bad and task == "super_resolution":
        raise OptionError("--skip-bad is for captions and boxes; an enhancer is trained on photographs alone")
    config = LOADERS[task](options.config, [*options.set, *(["data.skip_bad=true"] if options.skip_bad else [])])
    folder = options.out or Path("runs") / options.config.stem
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made ({error}); name another folder with --out") from error
    if options.threads is not None:
        if options.threads < 1:
            raise OptionError(f"--threads is {options.threads}; expected 1 or more")
        import torch

        torch.set_num_threads(options.threads)
    fabric = _fabric(options.accelerator, config.precision)
    trainer = _trainer(config, folder, fabric, options.cache or folder / "cache")
    best = trainer.run()
    if fabric.is_global_zero:
        print(f"best checkpoint: {best}")
        if isinstance(config, DetectionConfig):
            detector = config.model.detector
            print(f'next: a captioner with encoder = "faster_rcnn", detector = "{detector}" and weights = "{best}"')
        else:
            print(f"next: camscribe export {best} --out BUNDLE")
    return 0


def _trainer(config: AnyConfig, folder: Path, fabric: Fabric, cache: Path) -> Run:
    if isinstance(config, Config):
        from camscribe.train.trainer import Trainer

        return Trainer(config, folder, fabric, cache)
    if isinstance(config, DetectionConfig):
        from camscribe.train.detection.trainer import Trainer as DetectionTrainer

        return DetectionTrainer(config, folder, fabric)
    from camscribe.train.superres.trainer import Trainer as SuperresTrainer

    return SuperresTrainer(config, folder, fabric)


def _fabric(accelerator: str, precision: str) -> Fabric:
    """Fabric over the processes that torchrun started, or over this one."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Advice about data loaders, which are not Fabric's here.
        try:
            fabric = Fabric(
                accelerator=accelerator,
                devices=processes if processes > 1 else 1,
                num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
                strategy="ddp" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "auto",
                precision=precision,  # type: ignore[arg-type]
            )
        except (ValueError, RuntimeError, ImportError) as error:  # the last where a package for it is missing
            reason = " ".join(str(error).split())
            raise OptionError(f"--accelerator {accelerator}, precision {precision}: {reason}") from error
        fabric.launch()
    return fabric


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CamscribeError as error:
        print(f"camscribe train: {error}", file=sys.stderr)
        sys.exit(2)
