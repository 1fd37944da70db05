"""Published scores: descriptions on Flickr8k's 1,000 test photos, recognised speech against the five written captions,
and search on the same photos and on the 5,000 test photos of SpokenCOCO, human speech.

They were read on other audio and with other recognizers than ours, so they orient and don't rank.
"""

from __future__ import annotations

from dataclasses import dataclass

HUMAN = "published, human speech"
SYNTHESISED = "published, synthesised speech"


@dataclass(frozen=True)
class PublishedRow:
    """One published system.  A score that wasn't published is None."""

    name: str
    speech: str
    source: str
    bleu_1: float | None = None
    bleu_2: float | None = None
    bleu_3: float | None = None
    bleu_4: float | None = None
    meteor: float | None = None
    rouge_l: float | None = None
    cider: float | None = None


_PIXVOX = "PixVoxLM, table I"
_COMPLETION = "PixVoxLM, table II"
COMPLETION_SOURCE = f"published completion: Tran and Sakti, {_COMPLETION}"

FLICKR8K = (
    PublishedRow(
        "SAS",
        SYNTHESISED,
        f"Wang et al. 2021, arXiv 2010.12267, in {_PIXVOX}",
        29.60,
        14.70,
        7.20,
        3.50,
        11.30,
        23.20,
        8.00,
    ),
    PublishedRow("PixVoxLM-Parallel", HUMAN, _PIXVOX, 34.52, 18.75, 10.65, 6.22, 10.51, 26.30, 9.43),
    PublishedRow("PixVoxLM-Delay", HUMAN, _PIXVOX, 48.08, 30.59, 18.92, 11.49, 15.19, 35.76, 25.54),
    PublishedRow(
        "SAT",
        HUMAN,
        f"Hsu et al. 2021, ACL 2021.acl-long.411, in {_PIXVOX}",
        None,
        None,
        None,
        11.60,
        14.10,
        39.00,
        23.20,
    ),
    PublishedRow(
        "SAT-FT",
        HUMAN,
        f"Hsu et al. 2021, ACL 2021.acl-long.411, in {_PIXVOX}",
        None,
        None,
        None,
        12.60,
        14.50,
        39.10,
        24.20,
    ),
    PublishedRow(
        "E-I2S",
        HUMAN,
        f"Effendi et al. 2021, IEEE Access 9:55144, in {_PIXVOX}",
        None,
        None,
        None,
        14.78,
        17.40,
        45.75,
        32.89,
    ),
    PublishedRow("Im2Sp", HUMAN, "Kim et al. 2023, arXiv 2309.08531; score from its repository", bleu_4=20.60),
)

COMPLETION = {  # percent of the recording that was given -> rows; the whole utterance against all captions
    0: tuple(row for row in FLICKR8K if row.name.startswith("PixVoxLM")),
    25: (
        PublishedRow("PixVoxLM-Parallel", HUMAN, _COMPLETION, 37.11, 23.30, 14.58, 8.87, 13.05, 29.71, 15.24),
        PublishedRow("PixVoxLM-Delay", HUMAN, _COMPLETION, 49.76, 34.18, 23.04, 14.90, 18.00, 39.04, 32.68),
    ),
    50: (
        PublishedRow("PixVoxLM-Parallel", HUMAN, _COMPLETION, 46.26, 34.00, 26.25, 20.42, 20.54, 40.83, 37.64),
        PublishedRow("PixVoxLM-Delay", HUMAN, _COMPLETION, 57.31, 44.30, 35.31, 28.11, 24.19, 48.35, 60.10),
    ),
}


@dataclass(frozen=True)
class PublishedRecall:
    """One published system of spoken search: recall at 1, 5 and 10, speech -> photo and photo -> speech."""

    name: str
    speech_to_image: tuple[float, float, float]
    image_to_speech: tuple[float, float, float]


SEARCH_SOURCE = (
    "published recall: Shih et al. 2022 (SpeechCLIP, arXiv 2210.00705), its table of other systems among them; "
    "read from its project page"
)

SEARCH = {
    "published, human speech, Flickr8k": (
        PublishedRecall("FaST-VGS, coarse", (26.6, 56.4, 68.8), (36.2, 66.1, 76.5)),
        PublishedRecall("FaST-VGS, coarse to fine", (29.3, 58.6, 71.0), (37.9, 68.5, 79.9)),
        PublishedRecall("MILAN", (33.2, 62.7, 73.9), (49.6, 79.2, 87.5)),
        PublishedRecall("SpeechCLIP parallel, base", (26.7, 57.1, 70.0), (41.3, 73.9, 84.2)),
        PublishedRecall("SpeechCLIP cascaded, base", (8.2, 25.7, 37.2), (14.1, 34.5, 49.2)),
        PublishedRecall("SpeechCLIP parallel, large", (39.1, 72.0, 83.0), (54.5, 84.5, 93.2)),
        PublishedRecall("SpeechCLIP cascaded, large", (14.7, 41.2, 55.1), (21.8, 52.0, 67.7)),
    ),
    "published, human speech, SpokenCOCO": (
        PublishedRecall("ResDAVEnet", (17.3, 41.9, 55.0), (22.0, 50.6, 65.2)),
        PublishedRecall("FaST-VGS, coarse", (31.8, 62.5, 75.0), (42.5, 73.7, 84.9)),
        PublishedRecall("FaST-VGS, coarse to fine", (35.9, 66.3, 77.9), (48.8, 78.2, 87.0)),
        PublishedRecall("SpeechCLIP parallel, large", (35.8, 66.5, 78.0), (50.6, 80.9, 89.1)),
        PublishedRecall("SpeechCLIP cascaded, large", (6.4, 20.7, 31.0), (9.6, 27.7, 39.7)),
    ),
}
"""Each heading with its rows.  Flickr8k has 1,000 test photos, SpokenCOCO 5,000, so that the two don't compare."""
