"""Projection against analytical line integrals; pools; cache; the real CT where at hand."""

import zipfile

import numpy as np
import pytest
from phantom import chest, outlines, small_anatomy

from rctpl_utils.datasets.openi import xrv_file
from rctpl_utils.simulation import anatomy as module
from rctpl_utils.simulation import ct
from rctpl_utils.simulation.anatomy import PER_LUNG, Plan, Pose, project, project_points
from rctpl_utils.simulation.scene import dense, smallest_jacobian, warp_grid
from rctpl_utils.workspace import FETCHED


def box() -> ct.Volume:
    """A homogeneous box of half sizes 60, 41, 60 (z, y, x) mm, 2 mm voxels of 0.02."""
    z, y, x = np.abs(np.mgrid[-100:101:2, -100:101:2, -100:101:2])
    values = np.float32(0.02 * ((z < 60) & (y < 41) & (x < 60)))[None]
    return ct.Volume(values, (2.0, 2.0, 2.0), (50.0, 50.0, 50.0), np.zeros((0, 1, 3)))


@pytest.mark.parametrize("frontal", [False, True])
def test_a_box_gives_its_analytical_line_integral(frontal):
    image = project(box(), Pose(0, 0, 0, 1000, frontal), 64, field=256.0)[0]
    line = (np.arange(64) + 0.5) / 64 * 256 - 128
    x, z = np.meshgrid(line, line)
    oblique = np.sqrt(1 + (x / 1000) ** 2 + (z / 1000) ** 2)
    core = (np.abs(x) < 50) & (np.abs(z) < 50)  # rays that cross front and back face
    # 41 planes of 2 mm (|y| < 41) at 0.02 a mm, along an oblique ray
    np.testing.assert_allclose(image[core], (0.02 * 82 * oblique)[core], rtol=2e-3)
    assert np.all(image[(np.abs(x) > 75) | (np.abs(z) > 75)] == 0)


def test_a_turned_box_gives_a_longer_path_and_water_attenuates_between_its_neighbors():
    turned = project(box(), Pose(20, 0, 0, 1e6, False), 65, field=130.0)[0]
    assert turned[32, 32] == pytest.approx(0.02 * 82 / np.cos(np.radians(20)), rel=0.01)
    assert 0.01837 < ct.MU_WATER < 0.02059  # NISTIR 5632 at 80 and 60 keV, per mm


def test_points_and_rays_agree_in_any_pose_and_ap_magnifies_what_lies_in_front():
    pose = Pose(4, -5, 3, 1100, True)
    values = np.zeros((1, 61, 61, 61), np.float32)
    values[0, 40, 22, 45] = 1
    volume = ct.Volume(values, (3.0, 3.0, 3.0), (30.0, 30.0, 30.0), np.zeros((0, 1, 3)))
    image = project(volume, pose, 144)[0]
    row, column = np.unravel_index(image.argmax(), image.shape)
    expected = project_points(np.array([[30.0, -24.0, 45.0]]), pose)[0] * 144 - 0.5
    assert np.hypot(column - expected[0], row - expected[1]) < 1.0
    ball = np.array([[0.0, 80.0, 100.0]])  # in front of the isocenter, to the patient's left
    back, front = (project_points(ball, Pose(0, 0, 0, 1000, f))[0, 0] for f in (False, True))
    assert front - 0.5 == pytest.approx(100 / 432 * 1000 / 920)
    assert back - 0.5 == pytest.approx(100 / 432 * 1000 / 1080)


def test_the_patients_right_is_on_the_images_left_and_upper_lobes_above_lower_ones():
    image = project(chest(), Pose(0, 0, 0, 1500, False), 96)
    right, left = module.visible_lungs(image)
    assert np.nonzero(right)[1].mean() < 48 < np.nonzero(left)[1].mean()
    path = image[[ct.CHANNELS.index(n) for n in ct.LOBES if n.startswith("right")]].sum(0)
    assert path[:, :48].sum() > 50 * path[:, 48:].sum()
    rows = [np.average(np.arange(96), weights=image[ct.CHANNELS.index(n)].sum(1)) for n in ct.LOBES]
    assert rows[0] < rows[1] < rows[2] and rows[3] < rows[4]


def test_stored_anatomy_reads_back(tmp_path):
    plan = Plan(1, 1, 1, pixels=48)
    made = module.build_anatomy(chest(), outlines(6), plan)
    module._store(tmp_path / "a", made, plan)
    read = module._read(tmp_path / "a")
    assert isinstance(read.maps, np.memmap)
    np.testing.assert_array_equal(read.maps, made.maps)
    np.testing.assert_array_equal(read.landmarks, made.landmarks)
    for split, outlines_of in made.thoraces.items():
        np.testing.assert_array_equal(read.thoraces[split], outlines_of)


def test_pools_are_disjoint_and_complete_and_warps_hit_their_landmarks_unfolded():
    anatomy = small_anatomy()
    for target in anatomy.outlines:
        grid = warp_grid(target, anatomy.landmarks[0])
        assert smallest_jacobian(grid) > 0
        fine = dense(grid, 128, 1) + 0.5  # source places in [0, 1]
        place = np.clip(np.round(target * 128 - 0.5).astype(int), 0, 127)
        error = np.hypot(*(fine[place[:, 1], place[:, 0]] - anatomy.landmarks[0]).T)
        lateral = np.r_[0:14:2, PER_LUNG : PER_LUNG + 14 : 2]
        assert np.median(error[lateral]) < 0.03
    marks = anatomy.landmarks[0]  # the identity
    np.testing.assert_allclose(dense(warp_grid(marks, marks), 8, 8)[3, 5], (5, 3), atol=1e-4)
    pools = [anatomy.pools(split) for split in ("train", "validation", "test")]
    for k, whole in enumerate((anatomy.maps, anatomy.outlines)):
        parts = [pool[k] for pool in pools]
        assert all(map(len, parts)) and sorted(np.concatenate(parts)) == list(range(len(whole)))


def test_the_real_ct_projects_like_a_chest(tmp_path):
    if not (FETCHED / ct.WHEEL).is_file():
        pytest.skip(f"{ct.WHEEL} is not in {FETCHED}: ./run_all.sh fetches it")
    files = ct.ct_files(tmp_path)
    anatomy = module.build_anatomy(ct.load_volume(files), outlines(6), Plan(1, 1, 1, pixels=48))
    total = anatomy.maps[:, :9].sum(1)
    assert total.shape == (3, 48, 48) and 3.5 < total.max() < 12
    hearts = anatomy.maps[:, ct.CHANNELS.index("heart")].sum(1)
    for heart, (right, left) in zip(hearts, anatomy.fields, strict=True):
        middle = (np.nonzero(right)[1].mean() + np.nonzero(left)[1].mean()) / 2
        assert np.average(np.arange(48), weights=heart) > middle  # to the patient's left


def test_packaged_outlines_are_pairs_of_lungs(tmp_path):
    archive = xrv_file("semantic_masks_v7labs_lungs.zip")
    with zipfile.ZipFile(archive) as packaged, zipfile.ZipFile(tmp_path / "some.zip", "w") as some:
        for name in sorted(packaged.namelist())[::10]:
            some.writestr(name, packaged.read(name))
    marks = module.load_outlines(tmp_path / "some.zip")
    assert len(marks) > 30 and marks.min() > 0 and marks.max() < 1
    right, left = marks[:, :PER_LUNG], marks[:, PER_LUNG:]
    assert np.all(right[..., 0].mean(1) < left[..., 0].mean(1))
