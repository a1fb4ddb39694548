from dataclasses import replace

import pytest

from sr_core.degradation_presets import PRESETS, StageParameters
from sr_core.errors import ConfigError

SIZES_7_21 = (7, 9, 11, 13, 15, 17, 19, 21)
COMMON_KERNELS = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)

STAGE_FIELDS = [
    "resize_prob",
    "resize_range",
    "gaussian_noise_prob",
    "noise_range",
    "poisson_scale_range",
    "gray_noise_prob",
    "jpeg_range",
    "blur_sigma_range",
    "betag_range",
    "betap_range",
    "kernel_sizes",
    "kernel_probs",
    "sinc_prob",
]

FIRST_STAGES = {
    "real-esrgan": (
        (0.2, 0.7, 0.1), (0.15, 1.5), 0.5, (1, 30), (0.05, 3), 0.4, (30, 95),
        (0.2, 3), (0.5, 4), (1, 2), SIZES_7_21, COMMON_KERNELS, 0.1,
    ),
    "seesr": (
        (0.2, 0.7, 0.1), (0.3, 1.5), 0.5, (1, 15), (0.05, 2), 0.4, (60, 95),
        (0.2, 3), (0.5, 4), (1, 2), SIZES_7_21, COMMON_KERNELS, 0.1,
    ),
    "stablesr": (
        (0.2, 0.7, 0.1), (0.3, 1.5), 0.5, (1, 15), (0.05, 2), 0.4, (60, 95),
        (0.2, 1.5), (0.5, 2), (1, 1.5), SIZES_7_21, COMMON_KERNELS, 0.1,
    ),
    "resshift": (
        (0.2, 0.7, 0.1), (0.15, 1.5), 0.5, (1, 30), (0.05, 3), 0.4, (30, 95),
        (0.2, 3), (0.5, 4), (1, 2), (3, 5, 7, 9, 11, 13, 15, 17, 19), COMMON_KERNELS, 0.1,
    ),
    "resshift-1st": (
        (0.2, 0.7, 0.1), (0.5, 1.5), 0.5, (1, 15), (0.05, 0.3), 0.4, (70, 95),
        (0.2, 0.8), (1, 1.5), (1, 1.2), (3, 5, 7, 9, 11), (0.6, 0.4, 0, 0, 0, 0), 0.1,
    ),
    "asasr": (
        (0.28, 0.38, 0.34), (0.28, 1.65), 0.16, (0.5, 5.5), (0.01, 0.5), 0.88, (48, 88),
        (0.2, 2.35), (0.45, 3), (1, 2), SIZES_7_21, (0.42, 0.26, 0.14, 0.05, 0.09, 0.04), 0.06,
    ),
    "hggt-swinir": (
        (0.1, 0.85, 0.05), (0.8, 1.2), 0.5, (1, 12), (0.05, 0.8), 0.2, (75, 95),
        (0.1, 1), (0.1, 2), (0.1, 1), (3, 5, 7, 9), (0.7, 0.3, 0, 0, 0, 0), 0.01,
    ),
    "hggt-real-esrgan": (
        (0.1, 0.85, 0.05), (0.9, 1.1), 0.5, (1, 8), (0.05, 0.5), 0.2, (85, 95),
        (0.1, 0.6), (0.1, 2), (0.1, 1), (3, 5, 7), (0.7, 0.3, 0, 0, 0, 0), 0.01,
    ),
}  # fmt: skip

SECOND_STAGES = {
    "real-esrgan": (
        (0.3, 0.4, 0.3), (0.3, 1.2), 0.5, (1, 25), (0.05, 2.5), 0.4, None,
        (0.2, 1.5), (0.5, 4), (1, 2), SIZES_7_21, COMMON_KERNELS, 0.1,
    ),
    "seesr": (
        (0.3, 0.4, 0.3), (0.6, 1.2), 0.5, (1, 12), (0.05, 1), 0.4, None,
        (0.2, 1.5), (0.5, 4), (1, 2), SIZES_7_21, COMMON_KERNELS, 0.1,
    ),
    "stablesr": (
        (0.3, 0.4, 0.3), (0.6, 1.2), 0.5, (1, 12), (0.05, 1), 0.4, None,
        (0.2, 1.0), (0.5, 2), (1, 1.5), SIZES_7_21, COMMON_KERNELS, 0.1,
    ),
    "resshift": (
        (0.3, 0.4, 0.3), (0.3, 1.2), 0.5, (1, 25), (0.05, 2.5), 0.4, None,
        (0.2, 1.5), (0.5, 4), (1, 2), (3, 5, 7, 9, 11, 13), COMMON_KERNELS, 0.1,
    ),
    "asasr": (
        (0.18, 0.28, 0.54), (0.48, 1.32), 0.10, (0.5, 4), (0.01, 0.32), 0.836, None,
        (0.15, 1.75), (0.45, 3), (1, 2), SIZES_7_21, (0.42, 0.26, 0.14, 0.05, 0.09, 0.04), 0.05,
    ),
    "hggt-real-esrgan": (
        (0.1, 0.85, 0.05), (0.9, 1.1), 0.5, (0, 4), (0, 0.3), 0.2, None,
        (0.1, 0.4), (0.1, 2), (0.1, 1), (3, 5), (0.7, 0.3, 0, 0, 0, 0), 0.01,
    ),
}  # fmt: skip

PRESET_FIELDS = [
    "second_stage_prob",
    "second_blur_prob",
    "final_sinc_prob",
    "final_sinc_kernel_sizes",
    "final_jpeg_range",
    "usm_sharpen_target",
    "clean_prob",
]

WHOLES = {
    "bicubic": (0, 0, 0, SIZES_7_21, None, False, 1),
    "real-esrgan": (1, 0.8, 0.8, SIZES_7_21, (30, 95), True, 0),
    "seesr": (1, 0.5, 0.8, SIZES_7_21, (60, 100), True, 0),
    "stablesr": (1, 0.5, 0.8, SIZES_7_21, (60, 100), True, 0.01),
    "resshift": (0.5, 0.8, 0.8, (3, 5, 7, 9, 11, 13), (30, 95), False, 0),
    "resshift-1st": (0, 0, 0.2, (3, 5), (80, 100), False, 0),
    "dp2o": (0, 0, 0.8, (3, 5, 7, 9, 11, 13), (30, 95), False, 0),
    "asasr": (1, 0.55, 0.78, SIZES_7_21, (52, 90), True, 0.2),
    "hggt-swinir": (0, 0, 0, SIZES_7_21, None, False, 0),
    "hggt-real-esrgan": (1, 0.8, 0.1, (3, 5), (87, 95), False, 0),
}


@pytest.mark.parametrize("name", FIRST_STAGES)
def test_first_stage_equals_the_published_table(name):
    assert tuple(getattr(PRESETS[name].first, field) for field in STAGE_FIELDS) == FIRST_STAGES[name]


@pytest.mark.parametrize("name", SECOND_STAGES)
def test_second_stage_equals_the_published_table(name):
    assert tuple(getattr(PRESETS[name].second, field) for field in STAGE_FIELDS) == SECOND_STAGES[name]


@pytest.mark.parametrize("name", WHOLES)
def test_probabilities_and_final_step_equal_the_published_table(name):
    assert tuple(getattr(PRESETS[name], field) for field in PRESET_FIELDS) == WHOLES[name]


def test_the_table_covers_every_preset_and_each_names_its_source():
    assert set(WHOLES) == set(PRESETS)
    assert {name for name, preset in PRESETS.items() if preset.second} == set(SECOND_STAGES)
    assert all(preset.source.endswith(".") for preset in PRESETS.values())


def test_dp2o_is_the_first_order_of_resshift_training():
    assert PRESETS["dp2o"].first == PRESETS["resshift"].first
    assert PRESETS["dp2o"].final_jpeg_range == PRESETS["resshift"].final_jpeg_range


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resize_prob", (0.5, 0.5, 0.5)),
        ("resize_range", (1.1, 1.5)),
        ("noise_range", (9.0, 3.0)),
        ("jpeg_range", (30.0, 101.0)),
        ("sinc_prob", 1.5),
        ("kernel_sizes", (7, 8)),
        ("kernel_sizes", (23,)),
        ("kernel_sizes", ()),
        ("blur_sigma_range", (0.0, 1.0)),
    ],
)
def test_a_stage_that_cannot_be_drawn_from_is_refused_by_name(field, value):
    with pytest.raises(ConfigError, match="must"):
        StageParameters(**{field: value})


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("resshift", {"second": None}),
        ("resshift", {"second": StageParameters()}),
        ("resshift", {"first": None}),
        ("resshift", {"clean_jpeg_range": (50.0, 60.0)}),
        ("bicubic", {"clean_prob": 0.5}),
    ],
)
def test_a_preset_whose_parts_contradict_each_other_is_refused(name, changes):
    with pytest.raises(ConfigError, match="must"):
        replace(PRESETS[name], **changes)
