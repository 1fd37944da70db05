"""Photos in: any file a user has becomes an upright 8-bit RGB image, or one clear line on why it can't."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pixvoice.contracts import Floats
from pixvoice.errors import InputError, MissingToolError
from pixvoice.files import files_below, read_bytes

PhotoSource = str | Path | bytes | BinaryIO | Image.Image

MAX_PHOTO_BYTES = 200_000_000  # bytes of one file, encoded
MAX_PIXELS = 178_956_970  # pixels of one photo, decoded (where Pillow itself refuses)

_COMMON_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".heic", ".heif", ".avif"}
PHOTO_SUFFIXES = frozenset(_COMMON_SUFFIXES | {".bmp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm", ".pnm"})
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF")  # no EPS, PDF, FITS, ...
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def find_photos(paths: Iterable[str | Path]) -> list[Path]:
    """Photos named by ``paths``: files as they are, folders as the photos in them at any depth, sorted by name.

    Hidden files are left out, and each photo is listed once.  What can't be read (a file that doesn't exist, a folder
    without photos) stays in the list, so that ``read_image`` reports it in its turn and the others are still done.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        found.extend((files_below(path, PHOTO_SUFFIXES) or [path]) if path.is_dir() else [path])
    return list(dict.fromkeys(found))


def read_image(source: PhotoSource, *, at_least: int | None = None, max_pixels: int | None = None) -> Image.Image:
    """Read one photo: RGB, turned upright by its EXIF tag, first frame, transparency on white, 16 bits scaled to 8.

    ``source`` is a path, the bytes of a file, an open binary file, or an image already in memory.  With ``at_least``
    (pixels), a JPEG may be decoded at a half, a quarter or an eighth of its size as long as both of its sides stay
    that long, which is several times faster for large photos.  One of more than ``max_pixels``, or without it
    ``MAX_PIXELS``, isn't decoded.

    Raises:
        InputError: the file is missing, empty, too large, damaged, or no photo.
        MissingToolError: the photo is HEIC and ``pixvoice[heic]`` isn't installed.
    """
    max_pixels = MAX_PIXELS if max_pixels is None else max_pixels
    if isinstance(source, Image.Image):
        return _finish(source, "the image", max_pixels)
    name, data = read_bytes(source, "photo", MAX_PHOTO_BYTES)
    return _finish(_open(data, name), name, max_pixels, at_least)


def to_pixels(image: Image.Image, size: int) -> Floats:
    """Image -> pixels (3, size, size), RGB in [0, 1]; the aspect ratio isn't kept."""
    squashed = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.ascontiguousarray(np.asarray(squashed, dtype=np.float32).transpose(2, 0, 1) / np.float32(255))


def _open(data: bytes, name: str) -> Image.Image:
    """Read the header: nothing is decoded yet."""
    if _is_heic(data):
        return _open_heic(data, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata and of half the limit; neither stops us
        try:
            return Image.open(io.BytesIO(data), formats=_FORMATS)
        except UnidentifiedImageError:
            raise InputError(f"{name}: not a photo that can be read; give a JPEG, PNG, WebP, GIF or TIFF") from None
        except Image.DecompressionBombError:
            raise _too_many_pixels(name, MAX_PIXELS) from None
        except Exception as error:  # a damaged header: Pillow's readers raise errors of many kinds
            raise _damaged(name, error) from None


def _is_heic(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS and b"avif" not in data[8:64]


def _open_heic(data: bytes, name: str) -> Image.Image:
    try:
        import pillow_heif
    except ImportError:
        raise MissingToolError(f"{name}: a HEIC photo; to read it type: pip install 'pixvoice[heic]'") from None
    try:
        image: Image.Image = pillow_heif.HeifImageFile(io.BytesIO(data))
    except Exception as error:  # a damaged file: libheif's errors come in many kinds
        raise _damaged(name, error) from None
    return image


def _finish(image: Image.Image, name: str, max_pixels: int, at_least: int | None = None) -> Image.Image:
    """Decode, and bring what was decoded to upright 8-bit RGB."""
    if image.width * image.height > max_pixels:
        raise _too_many_pixels(name, max_pixels)
    if 0 in image.size:
        raise InputError(f"{name}: {image.width} x {image.height} pixels; a photo needs at least 1 x 1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            image.load()
            return _to_rgb(_upright(image))
        except Exception as error:  # damaged data: Pillow's decoders raise errors of many kinds
            raise _damaged(name, error) from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data: the photo itself is fine
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_8_bits(np.asarray(image, dtype=np.float64)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """Grey values (H, W) of a 16-bit, 32-bit or float image -> uint8, by the first full scale that holds them all."""
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
    peak = float(values.max())
    full_scale = next((scale for scale in (1.0, 65535.0) if peak <= scale), peak)
    return np.asarray(np.rint(values * (255 / full_scale)), dtype=np.uint8)


def _too_many_pixels(name: str, limit: int) -> InputError:
    return InputError(f"{name}: more than {limit // 1_000_000} megapixels; save the photo smaller")


def _damaged(name: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:100] or type(error).__name__
    return InputError(f"{name}: damaged or cut short ({reason}); save or copy the photo again")
