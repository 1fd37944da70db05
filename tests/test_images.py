"""Every photo that a user may bring becomes an upright RGB image, or one clear line."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pixvoice.errors import InputError, MissingToolError, PixVoiceError
from pixvoice.images import MAX_PHOTO_BYTES, find_photos, read_image, to_pixels

Encoded = Callable[..., bytes]


def one_line(error: pytest.ExceptionInfo[PixVoiceError]) -> str:
    message = str(error.value)
    assert "\n" not in message and len(message) < 300
    return message


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


class TestSources:
    def test_reads_path_string_bytes_file_and_image_alike(
        self, tmp_path: Path, photo: Image.Image, encoded: Encoded
    ) -> None:
        data = encoded("PNG")
        path = tmp_path / "photo.png"
        path.write_bytes(data)
        for source in (path, str(path), data, io.BytesIO(data), photo):
            image = read_image(source)
            assert image.mode == "RGB"
            assert np.array_equal(np.asarray(image), np.asarray(photo))

    def test_goes_by_content_not_by_name(self, tmp_path: Path, encoded: Encoded) -> None:
        path = tmp_path / "photo.jpg"
        path.write_bytes(encoded("PNG"))
        assert read_image(path).size == (48, 32)

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000"])
    def test_reads_each_format(self, encoded: Encoded, format: str) -> None:
        image = read_image(encoded(format))
        assert (image.mode, image.size) == ("RGB", (48, 32))

    @pytest.mark.parametrize("name", ["moose.jpg", "raccoon.jpg"])
    def test_reads_the_photos_that_ship(self, name: str) -> None:
        image = read_image(Path(__file__).parent.parent / "examples" / name)
        assert max(image.size) == 640


class TestKinds:
    def test_turns_a_phone_photo_upright(self, photo: Image.Image, encoded: Encoded) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was held turned: rotate by 90 degrees clockwise to show
        lying = photo.transpose(Image.Transpose.ROTATE_90)
        upright = read_image(encoded("PNG", lying, exif=exif))
        assert np.array_equal(np.asarray(upright), np.asarray(photo))

    def test_reads_a_photo_whose_exif_is_damaged(self, encoded: Encoded) -> None:
        assert read_image(encoded("JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * 40)).size == (48, 32)

    def test_converts_cmyk(self, photo: Image.Image, encoded: Encoded) -> None:
        red, _, blue = pixel(read_image(encoded("JPEG", photo.convert("CMYK"), quality=95)), 8, 28)
        assert red > 180 and blue < 60

    def test_scales_16_bits_to_8(self, encoded: Encoded) -> None:
        grey = np.linspace(0, 65535, 16 * 16).reshape(16, 16)
        image = read_image(encoded("PNG", Image.fromarray(grey.astype(np.uint16))))
        assert np.abs(np.asarray(image)[..., 1] - grey / 257).max() <= 0.5

    def test_scales_32_bit_and_float_tiff(self, encoded: Encoded) -> None:
        grey = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
        for scale, kind in ((1, np.float32), (65535, np.int32), (1e9, np.int32)):
            image = read_image(encoded("TIFF", Image.fromarray((grey * scale).astype(kind))))
            assert pixel(image, 15, 15) == (255, 255, 255) and pixel(image, 0, 0) == (0, 0, 0)
            assert abs(pixel(image, 0, 8)[0] - 128) <= 1

    def test_a_float_image_of_nan_is_black(self, encoded: Encoded) -> None:
        image = read_image(encoded("TIFF", Image.fromarray(np.full((4, 4), np.nan, np.float32))))
        assert pixel(image, 0, 0) == (0, 0, 0)

    def test_converts_a_palette(self, photo: Image.Image, encoded: Encoded) -> None:
        red, _, blue = pixel(read_image(encoded("PNG", photo.convert("P", palette=Image.Palette.ADAPTIVE))), 8, 28)
        assert red > 180 and blue < 60

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa"])
    def test_puts_transparency_on_white(self, mode: str) -> None:
        clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert(mode)
        assert pixel(read_image(clear), 1, 1) == (255, 255, 255)

    def test_puts_a_transparent_colour_of_a_palette_on_white(self, encoded: Encoded) -> None:
        palette = Image.new("P", (4, 4), 0)
        palette.putpalette([10, 20, 30, 200, 0, 0])
        palette.putpixel((0, 0), 1)
        image = read_image(encoded("PNG", palette, transparency=0))
        assert pixel(image, 1, 1) == (255, 255, 255) and pixel(image, 0, 0) == (200, 0, 0)

    @pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
    def test_takes_the_first_frame(self, encoded: Encoded, format: str) -> None:
        red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
        image = read_image(encoded(format, red, save_all=True, append_images=[blue], duration=100))
        assert pixel(image, 4, 4)[0] > 240 and pixel(image, 4, 4)[2] < 15

    @pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
    @pytest.mark.parametrize("format", ["PNG", "JPEG"])
    def test_reads_extreme_shapes(self, encoded: Encoded, size: tuple[int, int], format: str) -> None:
        image = read_image(encoded(format, Image.new("RGB", size, "white")), at_least=448)
        assert image.size == size
        assert to_pixels(image, 224).min() > 0.99

    def test_bilevel_and_grey(self, photo: Image.Image, encoded: Encoded) -> None:
        for mode in ("1", "L"):
            assert read_image(encoded("PNG", photo.convert(mode))).mode == "RGB"


class TestHeic:
    def heic(self, image: Image.Image, orientation: int) -> bytes:
        pillow_heif = pytest.importorskip("pillow_heif", reason="HEIC needs pixvoice[heic]")
        exif = Image.Exif()
        exif[0x0112] = orientation
        buffer = io.BytesIO()
        pillow_heif.from_pillow(image).save(buffer, exif=exif.tobytes())
        return buffer.getvalue()

    def test_reads_upright(self, photo: Image.Image) -> None:
        image = read_image(self.heic(photo.transpose(Image.Transpose.ROTATE_90), 6), at_least=448)
        assert (image.mode, image.size) == ("RGB", (48, 32))
        assert pixel(image, 8, 28)[0] > 180 and pixel(image, 40, 28)[2] > 180

    def test_truncated(self, photo: Image.Image) -> None:
        data = self.heic(photo, 1)
        for length in (40, len(data) // 2, len(data) - 20):
            with pytest.raises(InputError, match="damaged or cut short"):
                read_image(data[:length])


class TestRefusals:
    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError) as error:
            read_image(tmp_path / "nothing.jpg")
        assert one_line(error).endswith("nothing.jpg: no such file; check the path")

    def test_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / "empty.jpg").touch()
        with pytest.raises(InputError, match=r"empty\.jpg: the file is empty"):
            read_image(tmp_path / "empty.jpg")

    def test_text_named_jpg(self, tmp_path: Path) -> None:
        (tmp_path / "notes.jpg").write_text("Dear diary,\nnot a photo.")
        with pytest.raises(InputError, match=r"notes\.jpg: not a photo") as error:
            read_image(tmp_path / "notes.jpg")
        assert "JPEG, PNG" in one_line(error)

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
    def test_truncated(self, encoded: Encoded, format: str) -> None:
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
        data = encoded(format, noise)
        with pytest.raises(InputError) as error:
            read_image(data[: len(data) // 2])
        assert "the photo: " in one_line(error)

    def test_heic_without_its_package_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        with pytest.raises(MissingToolError) as error:
            read_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
        assert "pip install 'pixvoice[heic]'" in one_line(error)

    def test_decompression_bomb_is_refused_by_its_header(self) -> None:
        with pytest.raises(InputError, match="megapixels") as error:
            read_image(png_header(60_000, 60_000))
        one_line(error)

    def test_image_in_memory_has_the_same_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pixvoice.images.MAX_PIXELS", 100)
        with pytest.raises(InputError, match="megapixels"):
            read_image(Image.new("RGB", (11, 10)))

    def test_endless_stream_is_refused(self) -> None:
        class Endless(io.RawIOBase):
            def read(self, size: int = -1) -> bytes:
                assert 0 < size <= MAX_PHOTO_BYTES + 1
                return b"\xff" * size

        with pytest.raises(InputError, match="larger than 200 MB"):
            read_image(Endless())  # type: ignore[arg-type]

    def test_image_of_no_pixels(self) -> None:
        with pytest.raises(InputError, match="0 x 5 pixels"):
            read_image(Image.new("RGB", (0, 5)))

    def test_null_byte_in_the_path(self) -> None:
        with pytest.raises(InputError, match="can't be read"):
            read_image("a\0b.jpg")

    @given(st.binary(min_size=1, max_size=200))
    def test_random_bytes_are_refused(self, data: bytes) -> None:
        with pytest.raises((InputError, MissingToolError)):
            read_image(data)

    @given(st.data())
    def test_damaged_photos_are_read_or_refused(self, encoded: Encoded, data: st.DataObject) -> None:
        format = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000"]))
        content = bytearray(encoded(format))
        for _ in range(data.draw(st.integers(1, 8))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        try:
            image = read_image(bytes(content))
        except InputError:
            return
        assert image.mode == "RGB"


class TestPixels:
    def test_shape_range_and_order(self, photo: Image.Image) -> None:
        pixels = to_pixels(photo, 16)
        assert pixels.shape == (3, 16, 16) and pixels.dtype == np.float32 and pixels.flags.c_contiguous
        assert pixels.min() >= 0 and pixels.max() <= 1
        assert pixels[0, 15, 2] > 0.9 and pixels[2, 15, 2] < 0.05  # red, bottom left
        assert pixels[2, 15, 13] > 0.9 and pixels[0, 15, 13] < 0.05  # blue, bottom right

    def test_a_jpeg_decoded_small_looks_the_same(self, encoded: Encoded) -> None:
        rows, columns = np.mgrid[0:800, 0:1200]
        smooth = np.stack([rows / 4, columns / 6, (rows + columns) / 9], axis=-1).astype(np.uint8)
        data = encoded("JPEG", Image.fromarray(smooth), quality=95)
        small = read_image(data, at_least=128)
        assert small.size == (300, 200)
        assert np.abs(to_pixels(small, 64) - to_pixels(read_image(data), 64)).max() < 0.03


class TestFindPhotos:
    def test_expands_folders_at_any_depth_in_order(self, tmp_path: Path) -> None:
        for name in ("b.JPG", "a.png", "deep/er/c.webp", "notes.txt", ".hidden.jpg", ".thumbs/d.jpg", "e.heic"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        found = [path.relative_to(tmp_path).as_posix() for path in find_photos([tmp_path, tmp_path / "a.png"])]
        assert found == ["a.png", "b.JPG", "deep/er/c.webp", "e.heic"]

    def test_a_folder_without_photos_is_reported_in_its_turn(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").touch()
        missing = tmp_path / "missing.jpg"
        assert find_photos([missing, str(tmp_path)]) == [missing, tmp_path]
        with pytest.raises(InputError, match="a folder without a photo in it"):
            read_image(tmp_path)
