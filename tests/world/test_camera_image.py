"""Poses, intrinsics and pictures as users have them."""

import numpy as np
import pytest
from PIL import Image

from sana_wm.world.camera_actions import action_path
from sana_wm.world.camera_image import CoverCrop, as_intrinsics, as_poses, crop_picture

LENS = np.array([800.0, 810.0, 845.0, 464.0])
SIZES = [((101, 77), (32, 64)), ((40, 200), (32, 64)), ((33, 65), (32, 64)), ((17, 9), (32, 64)), ((64, 128), (32, 64))]


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("diffusers.pipelines.sana_wm.cam_utils")


def matrix(lens):
    fx, fy, cx, cy = lens
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def picture(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


# pictures


@pytest.mark.parametrize(("source", "target"), [*SIZES, ((31, 45), (33, 21)), ((5, 3), (7, 7))])
def test_crops_equal_the_reference(reference, source, target):
    image, lenses = picture(*source), np.random.default_rng(1).uniform(5, 90, (4, 4)).astype(np.float32)
    cut, src_size, resized, offset = reference.resize_and_center_crop(image, *target)
    expected = reference.transform_intrinsics_for_crop(lenses, src_size, resized, offset)
    pixels, intrinsics = crop_picture(image, lenses, 4, target)
    assert pixels.shape == (*target, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.array(cut))
    np.testing.assert_allclose(intrinsics, expected, rtol=1e-6, atol=1e-4)
    crop = CoverCrop.of(source, target)
    assert (crop.resized[::-1], crop.corner[::-1]) == (resized, offset)


@pytest.mark.parametrize("source", [(720, 1280), (1024, 1024), (99, 101), (3000, 700)])
def test_the_geometry_of_published_sizes_equals_the_reference(reference, source):
    _, _, resized, offset = reference.resize_and_center_crop(Image.new("L", source[::-1]))
    crop = CoverCrop.of(source, (704, 1280))
    assert (crop.resized[::-1], crop.corner[::-1]) == (resized, offset)


def test_pixels_equal_the_image_processor():
    processing = pytest.importorskip("diffusers.pipelines.sana_wm.image_processor")
    image = picture(70, 90)
    values, expected = processing.SanaWMImageProcessor().preprocess_with_intrinsics(image, LENS[None], 32, 64)
    pixels, intrinsics = crop_picture(np.array(image), LENS, size=(32, 64))
    np.testing.assert_allclose(pixels / 127.5 - 1, values[0].permute(1, 2, 0).numpy(), atol=1e-6)
    np.testing.assert_allclose(intrinsics, expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_the_crop_covers_the_target_and_no_more(source, target):
    crop = CoverCrop.of(source, target)
    over = np.array(crop.resized) - target
    assert (over >= 0).all() and over.min() == 0
    assert (np.abs(2 * np.array(crop.corner) - over) <= 1).all()  # centred
    np.testing.assert_allclose(crop.resized[0] / crop.resized[1], source[0] / source[1], rtol=0.5 / min(crop.resized))


def test_a_point_is_seen_where_its_picture_went():
    """Project a point, find its blob in the picture before and after the cut."""
    source, target, lens = (240, 200), (96, 128), np.array([210.0, 190.0, 101.0, 117.0])
    point = np.array([0.11, -0.08, 1.3])
    rows, columns = np.mgrid[: source[0], : source[1]]
    u, v = lens[:2] * point[:2] / point[2] + lens[2:]
    blob = 255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * 6.0**2))
    pixels, intrinsics = crop_picture(np.repeat(blob[..., None], 3, -1).astype(np.uint8), lens, size=target)
    weight = pixels[..., 0] / pixels[..., 0].sum(dtype=float)
    rows, columns = np.mgrid[: target[0], : target[1]]
    u, v = intrinsics[0, :2] * point[:2] / point[2] + intrinsics[0, 2:]
    assert (
        abs((weight * columns).sum() - u) < 0.3 and abs((weight * rows).sum() - v) < 0.3
    )  # half a pixel takes part in the resize only


def test_a_picture_of_the_right_size_stays_as_it_is():
    image = picture(32, 64)
    pixels, intrinsics = crop_picture(image, LENS, num_frames=2, size=(32, 64))
    np.testing.assert_array_equal(pixels, np.array(image))
    np.testing.assert_array_equal(intrinsics, [LENS, LENS])


def test_transparent_and_grey_pictures_become_rgb():
    image = picture(40, 70)
    opaque = image.copy()
    opaque.putalpha(255)
    np.testing.assert_array_equal(crop_picture(opaque, LENS, 1, (32, 64))[0], crop_picture(image, LENS, 1, (32, 64))[0])
    assert crop_picture(image.convert("L"), LENS, 1, (32, 64))[0].shape == (32, 64, 3)


@pytest.mark.parametrize("bad", [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8)])
def test_arrays_that_are_no_picture(bad):
    with pytest.raises(ValueError, match=rf"got a picture of {bad.dtype} and shape \(.*expected uint8 \(height, wid"):
        crop_picture(bad, LENS)


def test_crops_for_another_picture():
    with pytest.raises(ValueError, match="got a picture of 9x8 pixels, this crop is for 8x8"):
        CoverCrop.of((8, 8), (4, 4)).apply(picture(9, 8))
    with pytest.raises(ValueError, match=r"to cut to \(0, 4\), expected sizes from 1 up"):
        CoverCrop.of((8, 8), (0, 4))


# intrinsics


@pytest.mark.parametrize("kind", [list, lambda lens: lens.astype(np.float32), matrix])
def test_one_camera_for_all_frames(kind):
    intrinsics = as_intrinsics(kind(LENS), 5)
    assert intrinsics.dtype == np.float32
    np.testing.assert_array_equal(intrinsics, np.tile(LENS, (5, 1)))


@pytest.mark.parametrize("num_frames", [1, 3, 4, 5])
@pytest.mark.parametrize("as_matrices", [False, True])
def test_a_camera_per_frame_is_cut_to_the_frames_asked_for(num_frames, as_matrices):
    lenses = LENS + np.arange(5)[:, None]
    given = np.stack([matrix(lens) for lens in lenses]) if as_matrices else lenses
    np.testing.assert_array_equal(as_intrinsics(given, num_frames), lenses[:num_frames])


@pytest.mark.parametrize(
    "given", [LENS, matrix(LENS), np.tile(LENS, (9, 1)), np.tile(LENS, (12, 1)), np.tile(matrix(LENS), (9, 1, 1))]
)
def test_accepted_shapes_equal_the_pipeline(given):
    module = pytest.importorskip("diffusers.pipelines.sana_wm.pipeline_sana_wm")

    class Pipeline:
        vae_temporal_compression_ratio = 8

    _, expected = module.SanaWMPipeline.prepare_camera_trajectory(
        Pipeline(), np.tile(np.eye(4), (9, 1, 1)), None, given, 9
    )
    np.testing.assert_array_equal(as_intrinsics(given, 9), expected)


@pytest.mark.parametrize("shape", [(), (3,), (5,), (2, 3), (9, 3), (9, 4, 4), (2, 9, 4), (9, 3, 4)])
def test_other_shapes_of_intrinsics(shape):
    with pytest.raises(ValueError) as error:
        as_intrinsics(np.ones(shape), 9)
    assert f"got intrinsics of shape {shape}, expected (4,) or (F, 4) of fx, fy, cx, cy" in str(error.value)


@pytest.mark.parametrize("given", [np.tile(LENS, (8, 1)), np.tile(matrix(LENS), (8, 1, 1))])
def test_too_few_frames_of_intrinsics(given):
    with pytest.raises(ValueError, match="got intrinsics of 8 frames, expected at least 9"):
        as_intrinsics(given, 9)


@pytest.mark.parametrize("value", [0.0, -800.0, np.nan, np.inf])
@pytest.mark.parametrize("column", [0, 1])
def test_focal_lengths_that_are_none(value, column):
    lenses = np.tile(LENS, (4, 1))
    lenses[2, column] = value
    with pytest.raises(ValueError, match=f"{value:g}.* in frame 2, expected finite numbers and focal lengths above 0"):
        as_intrinsics(lenses, 4)
    with pytest.raises(ValueError) as error:
        as_intrinsics(lenses[2], 4)
    assert "frame" not in str(error.value)  # one camera for all


@pytest.mark.parametrize("place", [(0, 1), (1, 0), (2, 0), (2, 1), (2, 2)])
def test_matrices_that_are_no_intrinsics(place):
    matrices = np.tile(matrix(LENS), (4, 1, 1))
    matrices[1][place] += 3.0
    with pytest.raises(ValueError, match="in frame 1, expected .* without skew"):
        as_intrinsics(matrices, 4)
    with pytest.raises(ValueError, match="got the intrinsics .*, expected .* without skew"):
        as_intrinsics(matrix(LENS).T, 4)


# poses


def test_paths_are_poses():
    c2w = action_path("wd-9,i-3", "ad-turn")
    for given in (c2w, c2w.tolist(), c2w.astype(np.float16)):
        poses = as_poses(given)
        assert poses.dtype == np.float32
        np.testing.assert_allclose(poses, c2w, atol=1e-3)
    np.testing.assert_array_equal(as_poses(c2w), c2w)


@pytest.mark.parametrize("shape", [(4, 4), (9, 3, 4), (9, 16), (0, 4, 4), (1, 9, 4, 4)])
def test_other_shapes_of_poses(shape):
    with pytest.raises(ValueError) as error:
        as_poses(np.zeros(shape))
    assert f"got poses of shape {shape}, expected (F, 4, 4)" in str(error.value)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda pose: pose.__setitem__((0, 3), np.nan), "has NaN or infinity"),
        (lambda pose: pose.__setitem__((1, 1), np.inf), "has NaN or infinity"),
        (lambda pose: pose.__setitem__(slice(None), pose.T.copy()), "is it transposed"),
        (lambda pose: pose.__setitem__((slice(3), slice(3)), 1.1 * pose[:3, :3]), "not orthonormal"),
        (lambda pose: pose.__setitem__((slice(3), 1), -pose[:3, 1]), "is a mirror image"),
    ],
)
def test_matrices_that_are_no_pose(spoil, problem):
    c2w = action_path("wd-9", "ad-turn")
    spoil(c2w[4])
    with pytest.raises(ValueError, match=f"the pose of frame 4 .*{problem}"):
        as_poses(c2w)
