"""A bundle proves itself on the device: it captions its own test images, and the words are compared."""

from __future__ import annotations

from typing import Any

from camscribe.runtime.captioner import Captioner


def check_captions(captioner: Captioner) -> dict[str, Any]:
    """Captions the bundle's parity images and counts those whose words are as on the machine that exported it.

    Where the bundle has no expected words for the captioner's precision, float32's stand in; where it has none at all,
    the images are captioned and nothing is compared.

    Returns:
        ``precision``, ``backend``, ``images`` (how many were compared), ``same`` (how many were equal) and
        ``differences``, each with ``image``, ``expected`` and ``found``.

    Raises:
        BundleError: a parity image is damaged.
        EngineError: the device failed.
    """
    bundle, choice = captioner.bundle, captioner.choice
    expected = bundle.manifest.parity.tokens
    wanted = expected.get(choice.precision) or expected.get("float32") or ()
    found = [captioner.caption(image, color="rgb").words for image in bundle.parity_images()]
    differences = []
    for index, (mine, tokens) in enumerate(zip(found, wanted, strict=False)):
        theirs = tuple(bundle.vocabulary.decode(tokens))
        if mine != theirs:
            differences.append({"image": index, "expected": " ".join(theirs), "found": " ".join(mine)})
    return {
        "precision": choice.precision,
        "backend": choice.backend,
        "images": len(wanted),
        "same": len(wanted) - len(differences),
        "differences": differences,
    }
