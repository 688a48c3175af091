"""Caption scores equal published ones; without Java the rest is still given; counters count."""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed")

from camscribe.runtime.errors import DataError, OptionError
from camscribe.runtime.vocab import SPECIAL_TOKENS, Vocabulary
from camscribe.train.captioning import read_results
from camscribe.train.java_metrics import JavaError, meteor, ptb_tokenize
from camscribe.train.metrics import METRICS, cider, quality, score
from camscribe.train.readers import read_dataset
from camscribe.train.text import words

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR and the PTB tokenizer need Java")


def published(data: Path, case: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((data / "metrics" / "expected.json").read_text(encoding="utf-8"))[case]
    return found


@needs_java
@pytest.mark.data
@pytest.mark.slow  # METEOR takes its time to start
def test_the_published_scores_of_nlg_eval_are_reproduced(data_dir: Path) -> None:
    case = published(data_dir, "pair")
    captions = {str(index): caption for index, caption in enumerate(case["captions"])}
    references = {str(index): texts for index, texts in enumerate(case["references"])}
    result = score(captions, references, tokenizer="spaces")
    assert result.values == pytest.approx(case["scores"], abs=1e-5)
    assert (result.tokenizer, result.images, result.missing) == ("spaces", 2, ())


def val2017(data: Path) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """The captions of COCO's validation images that come with published scores, and their references."""
    case = published(data, "val2017")
    captions = read_results(data / "metrics" / case["captions"])
    path = data / "metrics" / case["references"]
    dataset = read_dataset("coco", path.parent, split="val", captions=path, with_images=False)
    return captions, {image.image_id: image.captions for image in dataset if image.image_id in captions}


@needs_java
@pytest.mark.data
@pytest.mark.slow
def test_the_published_scores_of_coco_caption_are_reproduced(data_dir: Path) -> None:
    captions, references = val2017(data_dir)
    expected = published(data_dir, "val2017")["scores"]
    lengths = [
        (len(words(text)), [len(words(other)) for other in references[image]]) for image, text in captions.items()
    ]
    said = sum(own for own, _ in lengths)
    closest = sum(min(others, key=lambda other: (abs(other - own), other)) for own, others in lengths)
    most = math.exp(1 - closest / said) if said < closest else 1.0
    if most < expected["bleu1"]:
        pytest.xfail(
            f"the file holds other captions than were scored: its {said} words can reach BLEU-1 {most:.3f} at most, "
            f"published is {expected['bleu1']} (of 50543 words, as the notebook printed)"
        )
    result = score(captions, references)
    assert result.tokenizer == "ptb"
    assert result.values == pytest.approx(expected, abs=0.0006)


_COCO_CAPTION = """
import json, sys
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

captions, references = json.load(sys.stdin)
res = PTBTokenizer().tokenize({image: [{"caption": text}] for image, text in captions.items()})
gts = PTBTokenizer().tokenize({image: [{"caption": text} for text in texts] for image, texts in references.items()})
bleu = Bleu(4).compute_score(gts, res, verbose=0)[0]
scores = {f"bleu{order}": float(value) for order, value in enumerate(bleu, start=1)}
for name, scorer in (("meteor", Meteor()), ("rouge_l", Rouge()), ("cider", Cider())):
    scores[name] = float(scorer.compute_score(gts, res)[0])
print(json.dumps(scores))
"""


@needs_java
@pytest.mark.data
@pytest.mark.slow
def test_scores_equal_those_of_coco_captions_own_programs(data_dir: Path) -> None:
    _, references = val2017(data_dir)
    chosen = list(references)[:300]
    # What people wrote of one image, scored against what others wrote of the same.
    captions = {image: references[image][0] for image in chosen}
    others = {image: references[image][1:] for image in chosen}
    run = subprocess.run(
        [sys.executable, "-c", _COCO_CAPTION], input=json.dumps([captions, others]), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert score(captions, others).values == pytest.approx(json.loads(run.stdout.splitlines()[-1]), rel=1e-6)


CAPTIONS = {"1": "A dog runs.", "2": "Two men on a bench", "3": "a red car"}
REFERENCES = {
    "1": ["A dog is running.", "The dog runs!"],
    "2": ["Two men sit on a bench.", "Men on a bench"],
    "3": ["A blue car", "a café"],
}


@needs_java
@pytest.mark.slow  # METEOR takes its time to start
def test_all_scores_are_given_where_java_is() -> None:
    result = score(CAPTIONS, REFERENCES)
    assert tuple(result.values) == METRICS
    assert result.tokenizer == "ptb"
    assert all(0 < value < 10 for value in result.values.values())
    assert result.values["cider"] == pytest.approx(cider(CAPTIONS, REFERENCES))  # 'words' cuts these as 'ptb' does
    assert json.loads(json.dumps(result.to_dict()))["tokenizer"] == "ptb"


def test_without_java_the_rest_is_given_and_what_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = score(CAPTIONS, REFERENCES)
    assert result.tokenizer == "words"
    assert tuple(result.values) == tuple(name for name in METRICS if name != "meteor")
    assert [line.split(":")[0] for line in result.missing] == ["PTB tokenizer", "METEOR"]
    assert all("install a Java runtime" in line for line in result.missing)
    with pytest.raises(JavaError, match="install a Java runtime"):
        score(CAPTIONS, REFERENCES, tokenizer="ptb")


@pytest.mark.skipif(os.name == "nt", reason="needs a shell script as java")
@pytest.mark.parametrize("script", ["exit 1", "echo 'no runtime present' >&2; exit 1", "echo x"])
def test_a_java_that_does_not_work_counts_as_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str
) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\nPATH=/bin:/usr/bin\n{script}\n", encoding="utf-8")
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    result = score(CAPTIONS, REFERENCES)
    assert len(result.missing) == 2
    assert "meteor" not in result.values
    if "no runtime" in script:
        assert "no runtime present" in result.missing[0]


@needs_java
def test_the_ptb_tokenizer_keeps_lines_apart() -> None:
    captions = ["A dog's café, (red).", "", "two\nlines\u2028here", " . ", "don't"]
    assert ptb_tokenize(captions) == ["a dog 's café -lrb- red -rrb-", "", "two lines here", "", "do n't"]
    assert ptb_tokenize([]) == []


@needs_java
@pytest.mark.slow  # METEOR takes its time to start
def test_empty_captions_and_separators_in_captions_do_not_break_meteor() -> None:
    perfect = meteor(["a dog runs", "a cat"], [["a dog runs"], ["a cat"]])
    assert perfect == pytest.approx(1.0, abs=0.05)
    assert 0 < meteor(["", "a ||| cat"], [["a dog runs"], ["a cat"]]) < perfect


@needs_java
@pytest.mark.data
def test_words_cuts_flickr8k_as_the_ptb_tokenizer_does(data_dir: Path) -> None:
    path = data_dir / "flickr8k" / "captions.dev.tsv"
    captions = [line.split("\t")[1] for line in path.read_text(encoding="utf-8").splitlines()]
    expected = ptb_tokenize(captions)
    different = [caption for caption, cut in zip(captions, expected, strict=True) if " ".join(words(caption)) != cut]
    assert len(different) <= len(captions) / 1000, different


@pytest.mark.parametrize(
    ("captions", "references", "message"),
    [
        ({}, {}, "no captions"),
        ({"1": "a"}, {}, "1 captioned images have no reference, the first is 1"),
        ({"1": "a"}, {"1": []}, "have no reference"),
        ({"1": "a"}, {"1": ["a"], "2": ["b"]}, "1 images with references have no caption, the first is 2"),
    ],
)
def test_captions_that_do_not_fit_the_references_are_refused(
    captions: dict[str, str], references: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        score(captions, references)
    with pytest.raises(DataError, match=message):
        cider(captions, references)


def test_an_unknown_tokenizer_is_refused() -> None:
    with pytest.raises(OptionError, match="ptb, words, spaces"):
        score(CAPTIONS, REFERENCES, tokenizer="moses")  # type: ignore[arg-type]


def test_the_quick_cider_of_a_copy_is_higher_than_that_of_another_caption() -> None:
    good = {image: texts[0] for image, texts in REFERENCES.items()}
    swapped = {"1": good["2"], "2": good["3"], "3": good["1"]}
    assert cider(good, REFERENCES) > 2 > 1 > cider(swapped, REFERENCES)


def test_quality_counts_what_readers_notice() -> None:
    vocabulary = Vocabulary([*SPECIAL_TOKENS, "a", "dog", "red", "in", "cat", "sits", "bird", "tree"])
    result = quality(["A dog .", "a dog", "a red red dog in a", "a cat sits", "", "xylophone"], vocabulary)
    assert result.captions == 6
    assert result.different == 5
    assert result.bad_endings == 2  # "in a", and the empty one
    assert result.bad_ending_share == pytest.approx(2 / 6)
    assert result.stuttered == 1
    assert result.mean_words == pytest.approx((2 + 2 + 6 + 3 + 0 + 1) / 6)
    assert result.words_used == 7
    assert result.vocabulary_used == pytest.approx(6 / 8)
    assert quality(["a dog"]).vocabulary_used is None
    with pytest.raises(DataError, match="no captions"):
        quality([])


@pytest.mark.parametrize(
    ("caption", "bad"),
    [
        ("a man is playing in a blue .", True),
        ("a man in front of a red and white", True),
        ("a dog and the large brown", True),
        ("a red", True),
        ("a man dressed in blue", False),
        ("two dogs , one of them black and white", False),
        ("blue", False),
        ("a red ball", False),
        ("a dog and", True),
        ("a dog and blue and", True),
    ],
)
def test_an_article_wants_a_noun(caption: str, bad: bool) -> None:
    assert quality([caption]).bad_endings == bad
