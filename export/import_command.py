"""``camscribe import``: turns a checkpoint of another project into a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from camscribe.export.bundling import export_bundle
from camscribe.export.importing import import_checkpoint
from camscribe.export.photographs import folder_images, parity_images
from camscribe.runtime.commands.arguments import Parser
from camscribe.runtime.pixels import PixelSpec
from camscribe.runtime.search import SearchOptions


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = Parser(
        prog="camscribe import",
        description="Turns a checkpoint of sgrvinod's a-PyTorch-Tutorial-to-Image-Captioning, or of ruotianluo's "
        "ImageCaptioning.pytorch (self-critical.pytorch), into a bundle, which needs neither PyTorch nor their source. "
        "It searches as they do, but never says <unk>.",
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        help="BEST_checkpoint_*.pth.tar or the state_dicts of its modules (sgrvinod); model*.pth of an updown, att2in2 "
        "or show_attend_tell (ruotianluo)",
    )
    parser.add_argument(
        "--word-map",
        type=Path,
        required=True,
        metavar="FILE",
        help="WORDMAP_*.json (sgrvinod); infos_*.pkl or cocotalk.json (ruotianluo)",
    )
    parser.add_argument(
        "--encoder",
        type=Path,
        metavar="FILE",
        help="resnet101.pth, the network that made the features of ruotianluo's checkpoints, which lack it",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder to write")
    parser.add_argument("--name", help="the bundle's name (default: the folder's)")
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="unpickle more than tensors (sgrvinod's modules, infos_*.pkl): that can run any code of whoever made it",
    )
    parser.add_argument(
        "--side",
        type=int,
        metavar="N",
        help="rows and columns of the encoder's input (default: 256 for sgrvinod's, 448 for ruotianluo's)",
    )
    parser.add_argument("--beams", type=int, default=5, metavar="K", help="the bundle's default (default: 5)")
    parser.add_argument(
        "--calibration", type=Path, metavar="FOLDER", help="photographs for int8 graphs, which are left out without"
    )
    options = parser.parse_args(argv)
    checkpoint = import_checkpoint(
        options.checkpoint,
        options.word_map,
        encoder=options.encoder,
        side=options.side,
        trust_pickle=options.trust_pickle,
    )
    model, validation = checkpoint.config.model, checkpoint.config.validation
    spec = PixelSpec(model.image_height, model.image_width, model.fit)
    search = SearchOptions(
        beams=options.beams,
        length_penalty=validation.length_penalty,
        max_words=validation.max_words,
        ban=("<unk>",),
        # The tutorial stops at the fifth caption; ruotianluo's takes the likeliest of all.
        stop="first_k" if model.decoder == "soft_attention" else "optimal",
    )
    calibration = None if options.calibration is None else folder_images(options.calibration, spec)
    exported = export_bundle(
        checkpoint,
        options.out,
        name=options.name or options.out.name,
        search=search,
        spec=spec,
        parity_images=parity_images(None, spec),
        calibration=calibration,
        quality={},
        cpu_precision="float32",
        int8=calibration is not None,
    )
    same = exported.figures["float32"]
    size = sum(path.stat().st_size for path in options.out.iterdir()) / 1e6
    print(f"wrote {options.out}, {size:.1f} MB: {model.backbone}, {len(checkpoint.vocabulary)} words; parity {same}")
    return 0
