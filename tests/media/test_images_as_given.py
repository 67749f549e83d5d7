"""Images as people have them: more bits, every mode, transparency, orientation; one right answer each."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageCms
from support.media import CORNERS

from animatediff.media import read_video
from animatediff.media.images import as_image
from animatediff.media.stills import read_image


def grey(path: Path) -> list[int]:
    """Grey levels of the first row of an image; it is grey."""
    pixels = read_image(path)
    assert (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0].tolist()


DEEP = np.array([[0, 257, 32_896, 65_535]], np.uint16)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits_are_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    Image.fromarray(DEEP).save(tmp_path / name)
    assert grey(tmp_path / name) == [0, 1, 128, 255]
    with Image.open(tmp_path / name) as image:
        for given in (image, DEEP, np.stack([DEEP] * 3, -1)):
            assert np.asarray(as_image(given))[0, :, 0].tolist() == [0, 1, 128, 255], "from memory as well"
    assert np.asarray(as_image(DEEP > 1000))[0, :, 0].tolist() == [0, 0, 255, 255]


def test_16_bits_of_big_endian_of_32_bits_and_with_a_transparent_grey(tmp_path: Path) -> None:
    Image.frombytes("I;16B", (4, 1), DEEP.astype(">u2").tobytes()).save(tmp_path / "a.tif")
    assert grey(tmp_path / "a.tif") == [0, 1, 128, 255]
    Image.fromarray(DEEP.astype(np.int32)).save(tmp_path / "b.tif")
    assert grey(tmp_path / "b.tif") == [0, 1, 128, 255]
    deep = Image.fromarray(DEEP)
    deep.info["transparency"] = 32_896
    assert np.asarray(as_image(deep))[0, :, 0].tolist() == [0, 1, 255, 255]


def test_16_bits_of_colour(tmp_path: Path) -> None:
    """Pillow writes none: a PNG of ours."""
    colours = np.array([[[65_535, 0, 32_896], [257 * 10, 257 * 20, 257 * 30]]], np.uint16)
    frame = av.VideoFrame.from_ndarray(colours, format="rgb48le")
    codec: Any = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = 2, 1, "rgb48be", Fraction(1)
    frame = frame.reformat(format="rgb48be")
    (tmp_path / "a.png").write_bytes(b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)]))
    assert read_image(tmp_path / "a.png")[0].tolist() == [[255, 0, 128], [10, 20, 30]]


@pytest.mark.parametrize(
    ("values", "levels", "said"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255], False),
        ([-1.0, 0.0, 1.0], [0, 128, 255], True),
        ([0, 5, 20], [0, 64, 255], True),
    ],
)
def test_floats(tmp_path: Path, values: list[float], levels: list[int], said: bool, caplog: Any) -> None:
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "a.tif")
    assert grey(tmp_path / "a.tif") == levels
    assert ("no range of images" in caplog.text) is said and (not said or "a.tif" in caplog.text)


def test_modes(tmp_path: Path) -> None:
    red = Image.new("RGB", (4, 4), (200, 30, 20))
    red.quantize(4).save(tmp_path / "p.png")
    red.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    red.convert("CMYK").save(tmp_path / "cmyk.tif")
    lab = ImageCms.profileToProfile(
        red, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    lab.info.clear()
    lab.save(tmp_path / "lab.tif")
    for name in ("p.png", "cmyk.jpg", "cmyk.tif", "lab.tif"):
        found = read_image(tmp_path / name).astype(int)
        assert np.abs(found - (200, 30, 20)).max() <= 3, name
    bits = Image.new("1", (4, 1))
    bits.putpixel((1, 0), 1)
    bits.save(tmp_path / "bit.png")
    bits.save(tmp_path / "bit.tif", compression="group4")
    assert grey(tmp_path / "bit.png") == grey(tmp_path / "bit.tif") == [0, 255, 0, 0]


def test_a_colour_profile_is_followed(tmp_path: Path) -> None:
    """The same numbers in a profile whose red and green are exchanged are another colour."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {}
    for number in range(struct.unpack_from(">I", profile, 128)[0]):
        at = 132 + 12 * number
        tags[bytes(profile[at : at + 4])] = at
    red, green = (bytes(profile[tags[name] + 4 : tags[name] + 12]) for name in (b"rXYZ", b"gXYZ"))
    profile[tags[b"rXYZ"] + 4 : tags[b"rXYZ"] + 12], profile[tags[b"gXYZ"] + 4 : tags[b"gXYZ"] + 12] = green, red
    described = bytes(profile).replace(b"s\0R\0G\0B", b"x\0R\0G\0B").replace(b"sRGB", b"xRGB")
    Image.new("RGB", (2, 2), (200, 30, 20)).save(tmp_path / "a.png", icc_profile=described)
    assert np.abs(read_image(tmp_path / "a.png").astype(int) - (30, 200, 20)).max() <= 2
    Image.new("RGB", (2, 2), (200, 30, 20)).save(tmp_path / "b.png", icc_profile=b"broken")
    assert read_image(tmp_path / "b.png")[0, 0].tolist() == [200, 30, 20]


WITH_ALPHA = {
    "a.mov": ("prores_ks", "yuva444p10le"), "a.mkv": ("ffv1", "bgra"), "a.webm": ("libvpx-vp9", "yuva420p"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.avif", *WITH_ALPHA])
def test_what_is_transparent_is_white_and_hidden_colour_never_shows(tmp_path: Path, name: str) -> None:
    frames = []
    for number in range(3):
        pixels = np.zeros((32, 48, 4), np.uint8)
        pixels[..., 0] = 200  # hidden
        pixels[8:24, 8 + 8 * number : 24 + 8 * number] = (0, 0, 200, 255)
        frames.append(pixels)
    path = tmp_path / name
    if name in WITH_ALPHA:
        codec, layout = {
            "mov": ("prores_ks", "yuva444p10le"),
            "mkv": ("ffv1", "bgra"),
            "ebm": ("libvpx-vp9", "yuva420p"),
        }[name[-3:]]
        with av.open(str(path), "w") as file:
            stream: Any = file.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 48, 32, layout
            stream.options = {"crf": "4", "b": "0"} if codec == "libvpx-vp9" else {}
            if codec == "libvpx-vp9":
                stream.metadata["alpha_mode"] = "1"
            for pixels in frames:
                file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=layout)))
            file.mux(stream.encode(None))
    else:
        images = [Image.fromarray(pixels) for pixels in frames]
        options: dict[str, Any] = {"lossless": True, "exact": True} if name == "a.webp" else {}
        options = {"disposal": 2} if name == "a.gif" else {"quality": 100} if name == "a.avif" else options
        images[0].save(path, save_all=True, append_images=images[1:], duration=100, **options)
    read, fps = read_video(path)
    assert fps == 10 and len(read) == 3
    for number, frame in enumerate(read):
        assert np.abs(frame[2, 2].astype(int) - 255).max() <= 3, (number, frame[2, 2])
        inside = frame[16, 16 + 8 * number].astype(int)
        assert np.abs(inside - (0, 0, 200)).max() <= 12, (number, inside)
        assert number == 0 or frame[16, 10].min() > 235, "where it was before"


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 100, 200, 51)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [204, 224, 244]
    Image.new("LA", (4, 4), (0, 51)).save(tmp_path / "b.png")
    assert read_image(tmp_path / "b.png")[0, 0].tolist() == [204] * 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.avif"])
def test_exif_orientation(tmp_path: Path, orientation: int, name: str) -> None:
    # how it must be turned to be seen: 6 is clockwise, so it lies anticlockwise in the file
    stored = {
        1: CORNERS, 2: CORNERS[:, ::-1], 3: np.rot90(CORNERS, 2), 4: CORNERS[::-1],
        5: CORNERS.transpose(1, 0, 2), 6: np.rot90(CORNERS), 7: np.rot90(CORNERS[::-1]), 8: np.rot90(CORNERS, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if name == "a.webp" else {"quality": 100} if name in ("a.jpg", "a.avif") else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / name, exif=exif, **options)
    found = read_image(tmp_path / name).astype(int)
    assert found.shape == CORNERS.shape and np.abs(found[2:6, 2:6] - CORNERS[2:6, 2:6]).max() < 40
    assert np.abs(found[2:6, -6:-2] - CORNERS[2:6, -6:-2]).max() < 40
