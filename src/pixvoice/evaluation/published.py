"""Published scores on Flickr8k's 1,000 test photos: recognised speech against the five written captions.

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
