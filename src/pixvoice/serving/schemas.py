"""What goes over the wire, in the words of OpenAPI: queries, answers, problems, with an example of each."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pixvoice.runtime.searcher import MAX_TOP
from pixvoice.serving.photos import ID_LENGTH, Size
from pixvoice.serving.problems import MEDIA_TYPE

MAX_SEED = 2**63 - 1
ID_PATTERN = f"^[0-9a-f]{{{ID_LENGTH}}}$"
_ID = "3f1c0a9b5d7e2f648810"
_SPOKEN: dict[str, Any] = {
    "audio": "UklGRiQAAABXQVZFZm10IBAAAAABAAEAgD4AAAB9AAACABAAZGF0YQAAAAA=",
    "sample_rate": 16000,
    "seconds": 3.2,
    "confidence": 0.62,
    "confidence_in_words": "fairly sure",
    "timings": {"queue_s": 0.01, "total_s": 0.41},
}


class Query(BaseModel):
    """Parameters of an address; a name that isn't known is refused."""

    model_config = ConfigDict(extra="forbid")


class DescribeQuery(Query):
    """How to describe."""

    length: Literal["short", "normal", "long"] = Field("normal", description="How much to say.")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Makes a bundle that samples say the same again.")


class SearchQuery(Query):
    """How to search."""

    top: int = Field(10, ge=1, le=MAX_TOP, description="How many photos to find.")


class PhotoQuery(Query):
    """Which form of a photo."""

    size: Size = Field("original", description="A JPEG of 320 pixels at most, or the file as it is.")


class Timings(BaseModel):
    """Seconds that an answer took."""

    queue_s: float = Field(description="From the photo's place in the queue to the start of its description.")
    total_s: float = Field(description="From the end of the upload to the whole answer.")


class Spoken(BaseModel):
    """A spoken description."""

    audio: str = Field(description="A 16-bit mono WAV file in base64.", json_schema_extra={"format": "byte"})
    sample_rate: int = Field(description="Samples a second (Hz).")
    seconds: float = Field(description="Length of the speech.")
    confidence: float = Field(ge=0, le=1, description="Grows with the probability of what is said.")
    confidence_in_words: str = Field(json_schema_extra={"enum": ["sure", "fairly sure", "unsure", "a guess"]})
    timings: Timings

    model_config = ConfigDict(json_schema_extra={"examples": [_SPOKEN]})


class Completed(Spoken):
    """A spoken description that goes on from a beginning."""

    generated_from_s: float = Field(description="Where the beginning ends, as the model's codec says it.")

    model_config = ConfigDict(
        json_schema_extra={"examples": [{**_SPOKEN, "generated_from_s": 0.8}]},
    )


class Found(BaseModel):
    """A photo that was found."""

    id: str = Field(pattern=ID_PATTERN, description="Its name in this service.")
    score: float = Field(description="Cosine similarity to the query, 1 at most.")
    name: str = Field(description="Its file name, without the folder.")
    url: str
    thumbnail: str
    missing: bool = Field(description="The photo is in the index, but its file is gone.")


class Results(BaseModel):
    """What a search found, best first."""

    heard: str | None = Field(description="What a machine read in the speech; null for a search by photo.")
    machine_made: Literal[True] = Field(True, description="A machine wrote what stands in heard.")
    results: list[Found]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "heard": "a dog runs on the beach",
                    "machine_made": True,
                    "results": [
                        {
                            "id": _ID,
                            "score": 0.71,
                            "name": "beach.jpg",
                            "url": f"/v1/photos/{_ID}",
                            "thumbnail": f"/v1/photos/{_ID}?size=thumbnail",
                            "missing": False,
                        }
                    ],
                }
            ]
        }
    )


class Info(BaseModel):
    """What this service is."""

    version: str
    search: bool = Field(description="Whether there are photos to search.")
    photos: int = Field(description="Photos in the index.")
    sample_rate: int = Field(description="Samples a second (Hz) of what it says.")

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"version": "0.1.0", "search": True, "photos": 812, "sample_rate": 16000}]}
    )


class Status(BaseModel):
    """How the service is."""

    status: Literal["ok", "ready"]


class ProblemDetails(BaseModel):
    """What went wrong (RFC 9457)."""

    type: Literal["about:blank"]
    title: str
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="One sentence: what was given, what is allowed, what to do next.")


SCHEMAS: tuple[type[BaseModel], ...] = (Spoken, Completed, Results, Info, Status, ProblemDetails)

_PROBLEMS = {
    400: ("The request can't be understood.", "there is no file in the form; send one as photo"),
    401: ("The token is missing or wrong.", "the service wants its token; send the header Authorization: Bearer TOKEN"),
    403: (
        "Another site's page sends this.",
        "Origin is another site; only this service's own page and programs may send",
    ),
    404: ("There is nothing of that name.", "there is no photo with this id; ask for one that a search has found"),
    406: ("The answer has no such type.", "Accept text/html: this address answers with audio/wav or application/json"),
    408: ("The upload took too long.", "the upload took longer than 20 seconds; send a smaller file"),
    413: ("The upload is too large.", "the upload: larger than 20 MB; send a smaller file"),
    415: ("No photo or recording can be sent in this type.", "Content-Type text/plain: send multipart/form-data ..."),
    422: ("The file or a value can't be used.", "the photo: not a photo that can be read; give a JPEG, PNG, WebP, ..."),
    429: ("The queue is full.", "64 requests are waiting; try again in 2 seconds"),
    503: ("The service isn't ready, or not able to.", "the service isn't ready yet; ask again in a second"),
    504: ("The answer took too long.", "the answer took longer than 30 seconds; try again when there is less to do"),
}


def ref(model: type[BaseModel]) -> dict[str, str]:
    """Where the document holds a model's schema."""
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of these statuses."""
    return {status: _problem(status) for status in statuses}


def _problem(status: int) -> dict[str, Any]:
    meaning, detail = _PROBLEMS[status]
    example = {"type": "about:blank", "title": meaning.rstrip("."), "status": status, "detail": detail}
    documented: dict[str, Any] = {"description": meaning, "content": {MEDIA_TYPE: {"schema": ref(ProblemDetails)}}}
    documented["content"][MEDIA_TYPE]["example"] = example
    if status == 429:
        seconds = {"type": "integer", "minimum": 1}
        documented["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": seconds}}
    if status == 401:
        documented["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return documented


def json_answer(model: type[BaseModel], description: str) -> dict[int | str, dict[str, Any]]:
    """The documentation of a 200 in JSON."""
    return {200: {"description": description, "content": {"application/json": {"schema": ref(model)}}}}


def upload_body(files: dict[str, str], query: type[BaseModel]) -> dict[str, Any]:
    """The documentation of a body: a form with one of ``files`` and the query's fields, or the file itself."""
    binary = {"type": "string", "format": "binary"}
    fields = query.model_json_schema()["properties"]
    forms = [
        {
            "type": "object",
            "title": what,
            "properties": {name: {**binary, "description": what}, **fields},
            "required": [name],
            "additionalProperties": False,
        }
        for name, what in files.items()
    ]
    content: dict[str, Any] = {"multipart/form-data": {"schema": forms[0] if len(forms) == 1 else {"oneOf": forms}}}
    content |= {{"photo": "image/*", "speech": "audio/*"}[name]: {"schema": binary} for name in files}
    return {"requestBody": {"required": True, "content": content}}


def form_body(files: dict[str, str], query: type[BaseModel]) -> dict[str, Any]:
    """The documentation of a form with all of ``files`` and the query's fields."""
    shown = {name: {"type": "string", "format": "binary", "description": what} for name, what in files.items()}
    form = {
        "type": "object",
        "properties": {**shown, **query.model_json_schema()["properties"]},
        "required": list(files),
        "additionalProperties": False,
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}
